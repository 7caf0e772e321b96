"""What is found in a record, as a field of a message."""

from __future__ import annotations

import contextlib
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import FakeRecord
from worker.errors import ConfigError
from worker.mapping import Document, read_mapping
from worker.mapping.expressions import ExpressionError, expression, template
from worker.mapping.formats import make_parser
from worker.mapping.problem import MisfitError
from worker.mapping.values import to_attribute, to_bool, to_count, to_decimal, to_id, to_ids, to_number, to_time_ms

MS = 1_767_225_600_123


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (MS, None), (MS, "ms"), (float(MS), "ms"), (str(MS), None), (MS / 1000, "s"), ("1767225600.123", "s"),
        (Decimal("1767225600.123"), "s"), (MS * 1_000, "us"), (MS * 1_000 + 999, "us"), (MS * 1_000_000, "ns"),
        ("2026-01-01T00:00:00.123Z", None), ("2026-01-01T00:00:00.123Z", "iso"), ("2026-01-01 00:00:00.123", "iso"),
        ("2026-01-01T01:00:00.123+01:00", "s"), (datetime(2026, 1, 1, 0, 0, 0, 123_000), None),
        (datetime(2026, 1, 1, 0, 0, 0, 123_456, UTC), "us"),
    ],
)  # fmt: skip
def test_one_moment_is_the_same_in_every_unit(value: Any, unit: Any) -> None:
    assert to_time_ms(value, unit) == MS


def test_a_day_is_its_beginning() -> None:
    assert to_time_ms("2026-01-01") == to_time_ms(date(2026, 1, 1)) == MS - 123


@pytest.mark.parametrize(
    ("value", "unit", "told"),
    [
        (1_767_225_600, None, "looks like seconds"),
        (MS * 1_000, "ms", "looks like microseconds"),
        (MS * 1_000, "s", "no time of the years|should be milliseconds"),
        (MS, "iso", "got a number: say unit"),
        (1.5, "iso", "got a number: say unit"),
        ("1e999999999", None, "no time of the years 1970 to 9999"),
        (1e300, "s", "no time of the years 1970 to 9999"),
        (float("inf"), None, "infinite"),
        ("yesterday", None, "ISO 8601"),
        (True, None, "got true or false"),
        ({}, None, "got an object"),
        ("0001-01-01", None, "should be milliseconds"),
    ],
)
def test_what_is_no_time_is_told(value: Any, unit: Any, told: str) -> None:
    with pytest.raises(MisfitError, match=told):
        to_time_ms(value, unit)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.decimals() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(ANYTHING)
def test_whatever_is_found_fits_or_is_a_misfit(value: Any) -> None:
    for convert in (to_id, to_ids, to_number, to_count, to_bool, to_time_ms, to_attribute, lambda x: to_decimal(x, 2)):
        with contextlib.suppress(MisfitError):
            convert(value)


def document(**values: Any) -> Document:
    return Document(values, FakeRecord("t", 3, 42, MS, b"k", b"", [("h", b"old"), ("h", b"new")]))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a", 1), ("b.c", "x"), ("b.c.d", None), ("b.z.d", None), ("gone", None), ("d[0].e", 5), ("b.c == 'x'", True),
        ("$offset", 42), ("$partition", 3), ("$topic", "t"), ("$timestamp", MS), ("$key", "k"), ("$header.h", "new"),
        ("$header.none", None), ("{a}-{b.c}", "1-x"), ("{gone}", None), ("{gone}{a}", "1"), ("{{{a}}}", "{1}"),
        ("{d[0].e}/{$offset}", "5/42"), ("{f}", "x, y"),
    ],
)  # fmt: skip
def test_paths_variables_and_templates_find(text: str, found: Any) -> None:
    assert expression(text).get(document(a=1, b={"c": "x"}, d=[{"e": 5}], f=["x", None, "y"])) == found


def test_a_template_of_an_id_needs_all_of_it() -> None:
    assert template("{a}-{b}", needs_all=True).get(document(a=1)) is None


@pytest.mark.parametrize(
    "text", ["", " ", "{", "}", "{}", "a..b", "$", "$nope", "$header", "$header.", "$offset.x", "a b"]
)
def test_what_is_no_expression_is_told(text: str) -> None:
    with pytest.raises(ExpressionError):
        expression(text)


@pytest.mark.parametrize(
    ("form", "library", "module", "extra"),
    [
        ("json", "orjson", "text", "json"),
        ("json-schema", "orjson", "text", "json"),
        ("avro", "fastavro", "avro", "avro"),
        ("protobuf", "google.protobuf", "protobuf", "protobuf"),
    ],
)
def test_a_library_that_is_missing_is_named_with_the_extra_that_has_it(
    form: Any, library: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    monkeypatch.delitem(sys.modules, f"worker.mapping.formats.{module}", raising=False)
    with pytest.raises(
        ConfigError, match=rf"input\.items\.format={form} needs .*: pip install 'align-worker\[{extra}\]'"
    ):
        make_parser(form, object(), "input.items.format")  # type: ignore[arg-type]


def test_a_path_that_needs_jmespath_says_so_and_plain_names_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jmespath", None)
    path = tmp_path / "shop.yaml"
    path.write_text("items: {item_id: after.sku, content: {text: title}}")
    assert read_mapping(path).items
    path.write_text("items: {item_id: 'ids[0]', content: {text: title}}")
    with pytest.raises(ConfigError, match=r"line 1: .*needs jmespath: pip install 'align-worker\[json\]'"):
        read_mapping(path)
