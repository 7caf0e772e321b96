from __future__ import annotations

import json
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from schemas import MESSAGES, encode, json_schema
from tests.contract.schemas.golden import EXAMPLES, schema_file, schema_text
from tests.unit.schemas import strategies

# JSON has no bytes: the export says "string" for them, so a validator of unpacked messages takes them for strings.
Validator = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("string", lambda _, value: isinstance(value, (str, bytes))),
)


def unpacked(name: str) -> dict[str, Any]:
    fields: dict[str, Any] = msgpack.unpackb(encode(EXAMPLES[name]))
    return fields


def without(fields: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if key != name}


@pytest.mark.parametrize("name", MESSAGES)
def test_the_export_is_the_golden_one(name: str) -> None:
    """After a change meant to be seen by other teams: `python -m tests.contract.schemas.golden`."""
    assert schema_text(name) == schema_file(name, MESSAGES[name].version).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", MESSAGES)
def test_the_export_is_a_json_schema_that_describes_every_field(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)
    assert schema["title"] == name
    assert "schema_version" in schema["required"]
    objects = [schema, *(part for part in schema.get("$defs", {}).values() if "properties" in part)]
    undescribed = [
        (part["title"], field)
        for part in objects
        for field, value in part["properties"].items()
        if not value.get("description") or not (value.get("title") or "$ref" in value)
    ]
    assert undescribed == []


@pytest.mark.parametrize("name", MESSAGES)
@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_whatever_is_written_fits_the_export(name: str, data: Any) -> None:
    Validator(json_schema(name)).validate(msgpack.unpackb(encode(data.draw(strategies.BY_NAME[name]))))


def test_bytes_are_marked_as_bin() -> None:
    value = json_schema("DeadLetter")["properties"]["value"]
    assert value["anyOf"][0] == {"type": "string", "format": "binary", "x-msgpack-type": "bin"}


ITEM, VECTOR = unpacked("NewItem"), unpacked("ItemVector")
I1, F2 = ITEM["features"]["image"], ITEM["features"]["text"]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("NewItem", without(ITEM, "item_id")),
        ("NewItem", without(ITEM, "schema_version")),
        ("NewItem", {**ITEM, "schema_version": 2}),
        ("NewItem", {**ITEM, "item_id": ""}),
        ("NewItem", {**ITEM, "item_id": "i" * 513}),
        ("NewItem", {**ITEM, "revision": "7"}),
        ("NewItem", {**ITEM, "neighbors": ["n"] * 257}),
        ("NewItem", {**ITEM, "content": {"text": {"text": "a", "uri": "b"}}}),
        ("NewItem", {**ITEM, "content": {"text": {"text": None}}}),
        ("NewItem", {**ITEM, "features": {"": F2}}),
        ("NewItem", {**ITEM, "features": {"image": without(I1, "scale")}}),
        ("NewItem", {**ITEM, "features": {"image": {**I1, "scale": None}}}),
        ("NewItem", {**ITEM, "features": {"text": {**F2, "scale": 1.0}}}),
        ("NewItem", {**ITEM, "features": {"text": without(F2, "encoder")}}),
        ("NewItem", {**ITEM, "features": {"text": {**F2, "shape": [1, 1, 2]}}}),
        ("ItemVector", {**VECTOR, "vector": {**VECTOR["vector"], "shape": [2, 2]}}),
        ("ItemVector", {**VECTOR, "modality_vectors": {"text": {**VECTOR["vector"], "shape": [2, 2]}}}),
        ("ItemVector", {**VECTOR, "modalities": []}),
    ],
)
def test_what_breaks_a_rule_does_not_fit_the_export(name: str, fields: dict[str, Any]) -> None:
    assert not Validator(json_schema(name)).is_valid(fields)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no message is called 'Item'; there are NewItem, UserEvent"):
        json_schema("Item")
