"""Mistakes in a mapping file: each is one line that names file, line and cure, before anything is read with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.errors import ConfigError
from worker.mapping import read_mapping

ITEMS = "items:\n  item_id: sku\n  content: {text: title}\n"
EVENTS = "events:\n  user_id: session\n  item_id: sku\n  event_type: type\n  event_time: ts\n"

MISTAKES = [
    # what is written, the line it stands in (None: the file as a whole), and what the one line says
    ("", None, "must hold items:, events: or both"),
    ("- a\n", None, "must hold items:, events: or both"),
    ("items\n", None, "must hold items:, events: or both"),
    ("envelope: debezium\n", None, "has neither items: nor events:"),
    ("items: [\n", 2, "is not YAML"),
    ("items:\n\titem_id: sku\n", 2, "a tab where only spaces may indent"),
    ("items: !!python/object:os.system {}\n", 1, "the tag"),
    (ITEMS + "  item_id: id\n", 4, "given twice, first in line 2"),
    ("item:\n  item_id: sku\n", 1, "there is no section of that name; did you mean items?"),
    ("items: sku\n", 1, "should be a map"),
    ("items: {}\n", 1, "should be a map"),
    ("items:\n", 1, "has no value"),
    (ITEMS + "  sku: sku\n", 4, "there are item_id, revision,"),
    (ITEMS + "  revison: rev\n", 4, "did you mean revision?"),
    ("items:\n  content: {text: title}\n", 1, "item_id is missing: name the path that holds it, such as item_id: sku"),
    ("items:\n  item_id: sku\n", 1, "has neither content nor features"),
    ("items:\n  item_id: after..sku\n  content: {text: title}\n", 2, "'after..sku' is no path at character 7"),
    ("items:\n  item_id: img-url\n  content: {text: title}\n", 2, "a name with other characters stands in quotes"),
    ("items:\n  item_id: ''\n  content: {text: title}\n", 2, "is empty: name a path"),
    ("items:\n  item_id: [sku]\n  content: {text: title}\n", 2, "should be a path, such as after.sku, not a list"),
    ("items:\n  item_id: {value: x}\n  content: {text: title}\n", 2, "is the same for every record; name a path"),
    ("items:\n  item_id: $ofset\n  content: {text: title}\n", 2, "there is no variable $ofset; there are $timestamp,"),
    ("items:\n  item_id: $header\n  content: {text: title}\n", 2, "$header needs the name of a header"),
    ("items:\n  item_id: $offset.x\n  content: {text: title}\n", 2, "$offset has nothing in it"),
    (ITEMS + "  revision: $position\n", 4, "set envelope: debezium, or name a path"),
    (ITEMS + "  revision: {value: new}\n", 4, "should be a number"),
    (ITEMS + "  revision: {path: rev, value: 1}\n", 4, "should have path or value, and has both"),
    (ITEMS + "  revision: {unit: s}\n", 4, "should have path or value, and has neither"),
    (ITEMS + "  event_time: {path: ts, unit: sec}\n", 4, "should be one of s, ms, us, ns, iso"),
    (ITEMS + "  event_time: {path: ts, unti: s}\n", 4, "did you mean unit?"),
    (ITEMS + "  neighbors:\n", 4, "has no value"),
    (ITEMS + "  partial: maybe\n", 4, "should be one of true, false"),
    (ITEMS + "  delete: {value: 'true'}\n", 4, "holds of every record or of none; name a path"),
    (ITEMS + "  delete: {path: state, is: {}}\n", 4, "should be a value or a list of values"),
    (ITEMS + "  skip: {path: \"state == 'x\"}\n", 4, "is no path"),
    ("items:\n  item_id: sku\n  content: title\n", 3, "should be a map of modalities"),
    ('items:\n  item_id: sku\n  content:\n    text: "{title"\n', 4, "the brace at character 1 is not closed"),
    ('items:\n  item_id: sku\n  content:\n    text: "title}"\n', 4, "a brace is closed at character 6"),
    ('items:\n  item_id: sku\n  content:\n    text: "{}. {desc}"\n', 4, "the braces at character 1 are empty"),
    ("items:\n  item_id: sku\n  content:\n    image: {url: img}\n", 4, "did you mean uri?"),
    ("items:\n  item_id: sku\n  content:\n    image: {uri: img, data: img}\n", 4, "has both uri and data"),
    ("items:\n  item_id: sku\n  content:\n    image: {media_type: image/png}\n", 4, "one of text, uri and data"),
    ("items:\n  item_id: sku\n  features: {text: {path: v, dtype: f8}}\n", 3, "should be one of f2, f4, bf2, i1"),
    ("items:\n  item_id: sku\n  features: {text: {path: v, dim: many}}\n", 3, "a whole number from 1 to 16384"),
    (ITEMS + f"  features: {{{'m' * 129}: v}}\n", 4, "the name of the modality must have 1 to 128 characters"),
    (ITEMS + "  attributes: price\n", 4, "should be a map of attributes"),
    (ITEMS + "  attributes: {price: {path: price, type: float}}\n", 4, "should be one of any, str, number, bool, list"),
    (ITEMS + "  attributes: {price: {path: p, scale: -1}}\n", 4, "a whole number from 0 to 38"),
    (ITEMS + "  attributes: {price: {path: p, type: str, scale: 2}}\n", 4, "belongs to numbers, and type is str"),
    ("envelope: debesium\n" + ITEMS, 1, "should be one of none, debezium, cloudevents; did you mean debezium?"),
    ("key: xml\n" + ITEMS, 1, "should be one of text, json, avro, protobuf, msgpack"),
    ("events:\n  item_id: sku\n  event_type: type\n  event_time: ts\n", 1, "user_id is missing"),
    ("events:\n  user_id: u\n  item_id: sku\n  event_time: ts\n", 1, "event_type is missing"),
    ("events:\n  user_id: u\n  item_id: sku\n  event_type: type\n", 1, "event_time: {path: ts, unit: iso}"),
    (EVENTS + "  event_id: {hash: []}\n", 6, "should be a list of paths"),
    (EVENTS + "  event_id: {hash: [a, b..c]}\n", 6, "'b..c' is no path"),
    (EVENTS + "  event_id: {value: x}\n", 6, "every event would be the same one"),
    (EVENTS + "  value: {value: lots}\n", 6, "should be a number"),
    (EVENTS + "  deletes: drop\n", 6, "should be one of skip, refuse"),
    (EVENTS.replace("type: type", "type: {path: type, rename: [a]}"), 4, "should be a map of types"),
    (EVENTS.replace("type: type", "type: {path: type, rename: {a: [b]}}"), 4, "should be a type, such as purchase"),
    (EVENTS.replace("type: type", "type: {path: type, others: skip}"), 4, "needs rename:, which lists the types"),
    (EVENTS.replace("type: type", "type: {path: t, rename: {a: b}, others: drop}"), 4, "one of keep, skip, refuse"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "told"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_that_names_file_line_and_cure(
    text: str, line: int | None, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_mapping(path)
    problem = caught.value.one_line()
    assert "\n" not in str(caught.value)
    assert f"the mapping file {path}" in problem
    assert told in problem
    if line is not None:
        assert f"line {line}" in problem


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the mapping file .*gone\.yaml: No such file"):
        read_mapping(tmp_path / "gone.yaml")


@pytest.mark.parametrize(
    ("data", "told"), [(b"items: \xff\n", "save the file as UTF-8"), (b"a: " + b"x" * 300_000, "larger than 256 KiB")]
)
def test_a_file_that_is_no_text_is_refused(data: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=told):
        read_mapping(path)


def test_a_section_that_a_topic_needs_is_named_with_the_setting(tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(ITEMS)
    mapping = read_mapping(path)
    with pytest.raises(ConfigError, match=r"input\.events\.mapping: the mapping file .* has no events: section"):
        mapping.for_events("input.events.mapping")
