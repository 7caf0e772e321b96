"""The JSON Schema of mapping files takes every mapping that the reader takes, and sees the mistakes that it can see."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.contract.mapping import samples, test_mistakes, test_samples
from worker.__main__ import main
from worker.mapping import read_mapping
from worker.mapping.file import _EVENT_FIELDS, _ITEM_FIELDS, _SECTIONS
from worker.mapping.json_schema import mapping_schema

ROOT = Path(__file__).parents[3]
SCHEMA = mapping_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
PAGE = (ROOT / "worker" / "mapping" / "README.md").read_text()
ALL_OPTIONS = """\
envelope: none
key: json
items:
  item_id: {path: $key.sku}
  revision: {value: 7}
  event_time: {path: ts, unit: iso}
  content:
    text: {text: "{title}"}
    image: {uri: img, media_type: image/png}
    audio: {data: sound, media_type: kind}
  features: {text: v, image: {path: w, encoder: clip, stored: f4, dim: 2, dtype: f2}}
  neighbors: near
  attributes: {price: {path: p, scale: 2}, stock: {path: s, type: bool}, shop: {value: north}, "net weight": w}
  partial: true
  delete: {path: state, is: [gone, sold]}
  skip: {path: bot, is: true}
  title: title
events:
  user_id: session
  item_id: sku
  event_type: {path: type, rename: {buy: purchase}, others: skip}
  event_time: $timestamp
  event_id: {hash: [session, sku, ts]}
  value: {value: 1.5}
  skip: bot
  deletes: skip
"""


def mappings() -> list[str]:
    """Every mapping of the samples, of their tests and of the documentation."""
    written = [getattr(samples, name) for name in ("SHOP", "DEBEZIUM", "CLOUDEVENTS")]
    written += [test_samples.AVRO_SHOP, test_mistakes.ITEMS, test_mistakes.EVENTS, ALL_OPTIONS]
    written.append((ROOT / "deploy" / "overlays" / "relay" / "shop.yaml").read_text())
    blocks = [re.sub(r"^    ", "", each, flags=re.M) for each in re.findall(r"(?:^    .*\n)+", PAGE, re.M)]
    return written + [each for each in blocks if re.match(r"(items|events|envelope):", each)]


@pytest.mark.parametrize("text", mappings())
def test_every_mapping_that_is_read_is_valid(text: str, tmp_path: Path) -> None:
    path = tmp_path / "shop.yaml"
    path.write_text(text)
    read_mapping(path)
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(text))] == []


UNSEEN = {
    "is not YAML", "a tab where only spaces may indent", "the tag", "given twice, first in line 2",  # of the text
    "'after..sku' is no path at character 7", "a name with other characters stands in quotes",  # of paths
    "there is no variable $ofset; there are $timestamp,", "$header needs the name of a header",
    "$offset has nothing in it", "set envelope: debezium, or name a path", "is no path", "'b..c' is no path",
    "the brace at character 1 is not closed", "a brace is closed at character 6",
    "the braces at character 1 are empty",
}  # fmt: skip
"""Mistakes that no schema can see."""
OF_VALUES = (test_mistakes.ITEMS + "  revision: {value: new}\n",)


@pytest.mark.parametrize("mistake", test_mistakes.MISTAKES, ids=range(len(test_mistakes.MISTAKES)))
def test_mistakes_are_seen_but_for_those_of_paths_and_of_the_text_itself(mistake: tuple[str, Any, str]) -> None:
    text, _, told = mistake
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        assert told in UNSEEN
        return
    assert VALIDATOR.is_valid(value) == (told in UNSEEN or text in OF_VALUES), told


def test_the_command_prints_it_and_its_names_are_those_of_the_reader(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "mapping"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == SCHEMA
    Draft202012Validator.check_schema(printed)
    assert printed["properties"].keys() == set(_SECTIONS)
    assert printed["properties"]["items"]["properties"].keys() == set(_ITEM_FIELDS)
    assert printed["properties"]["events"]["properties"].keys() == set(_EVENT_FIELDS)
