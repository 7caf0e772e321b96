"""The page for other teams says what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import msgpack
import pytest
from pydantic import BaseModel

import schemas
from schemas import DEFAULT_LIMITS, MESSAGES, SCHEMA_VERSION, Content, Feature, NewItem, Reason, Tensor, decode, encode
from schemas.limits import CROWDED_BYTES
from schemas.times import MAX_TIME_MS

TEXT = (Path(schemas.__file__).parent / "README.md").read_text(encoding="utf-8")
NAMED: dict[str, type[BaseModel]] = {**MESSAGES, "Content": Content, "Tensor": Tensor}


def section(title: str) -> str:
    found = re.search(rf"^#+ {title}$(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"README.md has no section {title}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """Cells of the section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def code(cell: str) -> str:
    return cell.strip("`")


@pytest.mark.parametrize("name", NAMED)
def test_a_message_has_these_fields_in_this_order(name: str) -> None:
    assert [code(row[0]) for row in rows(name)] == list(NAMED[name].model_fields)


@pytest.mark.parametrize("name", NAMED)
def test_a_field_is_required_or_has_the_default_it_says(name: str) -> None:
    for cell, _, required, _ in rows(name):
        field = NAMED[name].model_fields[code(cell)]
        if field.is_required() or code(cell) == "schema_version":
            assert required == "yes", cell
        else:
            default = field.get_default(call_default_factory=True)
            written = {"None": "nil", "False": "false", "()": "[]", "''": '""'}.get(repr(default), repr(default))
            assert required == f"= `{written}`", cell


@pytest.mark.parametrize("name", NAMED)
def test_sizes_in_the_tables_are_the_limits(name: str) -> None:
    """Every number over 31 in the type column is a limit, an int range or the largest scale."""
    numbers = {int(number) for row in rows(name) for number in re.findall(r"(?<![\w^])\d{2,}(?!\w)", row[1])}
    assert numbers <= set(dataclasses.asdict(DEFAULT_LIMITS).values()) | {31}


def test_limits() -> None:
    assert {code(row[0]): int(row[1]) for row in rows("Limits")} == dataclasses.asdict(DEFAULT_LIMITS)
    assert f"more than {CROWDED_BYTES} bytes" in section("Limits")
    assert str(MAX_TIME_MS) in section("Envelope")


def test_reasons() -> None:
    assert [code(row[0]) for row in rows("Reasons")] == [reason.value for reason in Reason]


def test_version() -> None:
    assert f"this is version {SCHEMA_VERSION}." in section("Versions")


def test_topics() -> None:
    assert [code(row[1]) for row in rows(f"The wire contract, version {SCHEMA_VERSION}")] == list(MESSAGES)


def test_the_bytes_worked_by_hand_are_a_feature() -> None:
    block = re.search(r"```\n(84 .*?)```", TEXT, re.DOTALL)
    assert block
    worked = bytes.fromhex("".join(re.findall(r"(?<=^|(?<=  ))(?:[0-9a-f]{2} ?)+(?=  )", block[1], re.MULTILINE)))
    feature: dict[str, Any] = msgpack.unpackb(worked)
    assert Feature(**feature).to_numpy().tolist() == [1.0, -2.0]
    item = NewItem(item_id="i", revision=0, event_time_ms=0, features={"text": Feature(**feature)})
    assert worked in encode(item)
    assert decode(NewItem, encode(item)) == item


@pytest.mark.parametrize(
    ("dtype", "written", "scale"), [("f4", "0000803f 000000c0", None), ("bf2", "803f 00c0", None), ("i1", "02 fc", 0.5)]
)
def test_the_other_types_of_the_same_values(dtype: str, written: str, scale: float | None) -> None:
    assert f"`{written}`" in section("Tensor")
    assert Tensor(dtype=dtype, shape=(2,), data=bytes.fromhex(written), scale=scale).to_numpy().tolist() == [1.0, -2.0]


def test_the_python_example_runs() -> None:
    block = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert block
    sent = []

    class Producer:
        def send(self, topic: str, key: bytes, value: bytes) -> None:
            sent.append((topic, key, value))

    class Record:
        value = (Path(__file__).with_name("golden") / f"ItemVector.v{SCHEMA_VERSION}.msgpack").read_bytes()

    names: dict[str, Any] = {"producer": Producer(), "record": Record()}
    exec(block[1], names)
    assert sent == [("items", b"item-1", encode(names["item"]))]
    assert names["vector"].shape == (4,)
