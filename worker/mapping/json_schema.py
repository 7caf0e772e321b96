"""JSON Schema of a mapping file, for editors: names, choices and what belongs together. What it cannot see, the grammar
of paths above all, is checked when the file is read."""

from __future__ import annotations

from typing import Any, get_args

from schemas import DEFAULT_LIMITS, Dtype
from worker.mapping.envelopes import ENVELOPES
from worker.mapping.events import Others
from worker.mapping.file import ATTRIBUTE_TYPES, KEY_FORMATS, STORED
from worker.mapping.values import MAX_SCALE, UNITS

Schema = dict[str, Any]

_SCALAR: Schema = {"type": ["string", "number", "boolean"]}
_PATH: Schema = {"type": "string", "minLength": 1}
_NAME: Schema = {"minLength": 1, "maxLength": DEFAULT_LIMITS.name_chars}
_NUMBER: Schema = {
    "anyOf": [{"type": "number"}, {"type": "string", "pattern": r"^\s*[+-]?(\d|\.\d|inf|nan)", "$comment": "in quotes"}]
}


def mapping_schema() -> Schema:
    """Draft 2020-12."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Mapping of align-worker",
        "description": "Which value of a foreign record is which field of an item or an event.",
        **_map({
            "items": _items(),
            "events": _events(),
            "envelope": _of("What the records are wrapped in.", {"enum": list(ENVELOPES)}),
            "key": _of("How keys are written.", {"enum": list(KEY_FORMATS)}),
        }),
        "anyOf": [{"required": ["items"]}, {"required": ["events"]}],
    }  # fmt: skip


def _items() -> Schema:
    return {
        **_map({
            "item_id": _of("Identifies the item.", _fixed_path()),
            "revision": _of("Grows with each change of the item; a time with unit: does.", _field(unit=_unit())),
            "event_time": _of("When the item changed.", _field(unit=_unit())),
            "content": _of("Raw content, by modality.", _entries(_content())),
            "features": _of("Features, by modality.", _entries(_feature(), DEFAULT_LIMITS.modalities)),
            "neighbors": _of("A list of ids.", _field()),
            "attributes": _of("To filter by, by name.", _entries(_attribute(), DEFAULT_LIMITS.attributes)),
            "partial": _of("Items come in parts.", {"enum": [True, False, "true", "false"]}),
            "delete": _of("Which records delete the item.", _test()),
            "skip": _of("Which records are none of ours.", _test()),
            "title": _of("For import alone.", _field()),
        }),
        "required": ["item_id"],
        "anyOf": [{"required": [name]} for name in ("content", "features", "neighbors", "delete")],
    }  # fmt: skip


def _events() -> Schema:
    rename = {"type": "object", "minProperties": 1, "additionalProperties": {**_SCALAR, **_NAME}}
    event_type = _field(rename=rename, others={"enum": list(get_args(Others))})
    needs_rename = {"properties": {"others": {"enum": ["skip", "refuse"]}}, "required": ["others"]}
    event_type["anyOf"][1] |= {"if": needs_rename, "then": {"required": ["rename"]}}
    event_id = _fixed_path()
    event_id["anyOf"].append({**_map({"hash": {"type": "array", "items": _PATH, "minItems": 1}}), "required": ["hash"]})
    value = _field()
    value["anyOf"][1]["properties"]["value"] = _NUMBER
    return {
        **_map({
            "user_id": _of("Identifies the user.", _fixed_path()),
            "item_id": _of("Identifies the item.", _fixed_path()),
            "event_type": _of("What the user did.", event_type),
            "event_time": _of("When.", _field(unit=_unit())),
            "event_id": _of("The same event has the same id each time.", event_id),
            "value": _of("A number.", value),
            "skip": _of("Which records are none of ours.", _test()),
            "deletes": _of("What becomes of records without a value.", {"enum": ["skip", "refuse"]}),
        }),
        "required": ["user_id", "item_id", "event_type", "event_time"],
    }  # fmt: skip


# ---------------------------------------------------------------------- values


def _field(**also: Schema) -> Schema:
    """A path or a template, alone or in `path`; or the same for every record, in `value`."""
    given = _map({"path": _PATH, "value": _SCALAR, **also})
    return {"anyOf": [_PATH, {**given, "oneOf": [{"required": ["path"]}, {"required": ["value"]}]}]}


def _fixed_path(**also: Schema) -> Schema:
    """The same, where no value could hold for every record."""
    return {"anyOf": [_PATH, {**_map({"path": _PATH, **also}), "required": ["path"]}]}


def _test() -> Schema:
    return _fixed_path(**{"is": {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR, "minItems": 1}]}})


def _content() -> Schema:
    kinds = ("text", "uri", "data")
    given = _map({**dict.fromkeys(kinds, _PATH), "media_type": _PATH})
    return {"anyOf": [_PATH, {**given, "oneOf": [{"required": [kind]} for kind in kinds]}]}


def _feature() -> Schema:
    return _fixed_path(
        encoder={"type": "string", **_NAME},
        dtype={"enum": list(get_args(Dtype))},
        dim=_whole(1, DEFAULT_LIMITS.dims),
        stored={"enum": list(STORED)},
    )


def _attribute() -> Schema:
    found = _field(type={"enum": list(ATTRIBUTE_TYPES)}, scale=_whole(0, MAX_SCALE))
    others = [name for name in ATTRIBUTE_TYPES if name not in ("any", "number")]
    found["anyOf"][1]["not"] = {"properties": {"type": {"enum": others}}, "required": ["type", "scale"]}
    return found


def _unit() -> Schema:
    return {"enum": list(UNITS)}


def _whole(least: int, most: int) -> Schema:
    return {"anyOf": [{"type": "integer", "minimum": least, "maximum": most}, {"type": "string", "pattern": r"^\d+$"}]}


def _entries(each: Schema, most: int | None = None) -> Schema:
    limit = {} if most is None else {"maxProperties": most}
    return {"type": "object", "minProperties": 1, **limit, "propertyNames": _NAME, "additionalProperties": each}


def _map(properties: dict[str, Schema]) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _of(description: str, schema: Schema) -> Schema:
    return {"description": description, **schema}
