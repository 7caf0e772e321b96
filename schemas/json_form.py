"""Vectors as JSON, for readers that know no msgpack: the fields of the message, a tensor as its elements.

Two forms: the plain document, and the same within Kafka Connect's envelope of schema and payload, for sinks that need a
schema (JDBC). README.md, *As JSON*, has what each sink takes. Writing needs orjson; reading does not.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

import numpy as np

from schemas.codec import decode, packed, unpacked
from schemas.items import ItemVector
from schemas.reason import Reason, SchemaError
from schemas.tensor import Tensor
from schemas.users import UserVector

V = TypeVar("V", ItemVector, UserVector)
Envelope = Literal["json", "connect_json"]
Elements = Literal["numbers", "base64"]

_TENSORS = ("vector", "base_vector")
_BRACE = b"{"  # msgpack's for the number 123: no message begins with it


def as_json(value: bytes, envelope: Envelope = "json", elements: Elements = "numbers") -> bytes:
    """An encoded vector as JSON. Elements are float32: numbers that read back to the same, or base64 of their bytes,
    little-endian."""
    import orjson

    fields = unpacked(value)
    for name in _TENSORS:
        if name in fields:
            fields[name] = _elements(fields[name], elements)
    if "modality_vectors" in fields:
        fields["modality_vectors"] = {
            name: _elements(each, elements) for name, each in fields["modality_vectors"].items()
        }
    if envelope == "connect_json":
        if "attributes" in fields:  # a map of values of several types has no schema
            fields["attributes"] = orjson.dumps(fields["attributes"]).decode()
        kind = "UserVector" if "user_id" in fields else "ItemVector"
        return orjson.dumps({"schema": _schema(kind, elements), "payload": fields}, option=orjson.OPT_SERIALIZE_NUMPY)
    return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)


def decode_vector(message: type[V], value: bytes, *, check_values: bool = True) -> V:
    """The valid vector in a record's value, whichever form it has. Raises SchemaError and nothing else."""
    if value[:1] != _BRACE:
        return decode(message, value, check_values=check_values)
    return decode(message, _as_msgpack(value), check_values=check_values)


def _as_msgpack(value: bytes) -> bytes:
    try:
        fields = json.loads(value)
        if set(fields) == {"schema", "payload"}:
            fields = fields["payload"]
            if isinstance(fields.get("attributes"), str):
                fields["attributes"] = json.loads(fields["attributes"])
        for name in _TENSORS:
            if fields.get(name) is not None:
                fields[name] = _tensor(fields[name])
        if fields.get("modality_vectors") is not None:
            fields["modality_vectors"] = {name: _tensor(each) for name, each in fields["modality_vectors"].items()}
        return packed(fields)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError, OverflowError) as error:
        raise SchemaError(Reason.INVALID_FIELD, "", f"is no vector as JSON: {type(error).__name__}: {error}") from None


def _elements(tensor: Mapping[str, Any], elements: Elements) -> Any:
    values = np.ascontiguousarray(Tensor(**tensor).to_numpy(), "<f4")
    return base64.b64encode(values.tobytes()).decode() if elements == "base64" else values


def _tensor(elements: Any) -> dict[str, Any]:
    data = (
        base64.b64decode(elements, validate=True)
        if isinstance(elements, str)
        else np.asarray(elements, "<f4").tobytes()
    )
    return {"dtype": "f4", "shape": [len(data) // 4], "data": data}


def _schema(kind: str, elements: Elements) -> dict[str, Any]:
    vector: dict[str, Any] = {"type": "bytes"} if elements == "base64" else {"type": "array", "items": _type("float")}
    names = _type("string")
    fields = {
        "schema_version": _type("int32"),
        **(
            {"item_id": names, "revision": _type("int64")}
            if kind == "ItemVector"
            else {"user_id": names, "num_events": _type("int64")}
        ),
        "event_time_ms": _type("int64"),
        "space_id": names,
        "vector": {**vector, "optional": False},
        "produced_at_ms": _type("int64"),
    }
    if kind == "ItemVector":
        fields |= {
            "modalities": {"type": "array", "items": names, "optional": False},
            "prior": _type("double", optional=True),
            "modality_vectors": {
                "type": "map",
                "keys": names,
                "values": {**vector, "optional": False},
                "optional": True,
            },
            "source_offset": _type("int64", optional=True),
            "base_vector": {**vector, "optional": True},
            "attributes": _type("string", optional=True),
            "codes": {"type": "array", "items": _type("int32"), "optional": True},
            "code_space_id": _type("string", optional=True),
            "disambiguator": _type("int64", optional=True),
        }
    return {
        "type": "struct",
        "name": f"align.{kind}",
        "optional": False,
        "fields": [{"field": name, **each} for name, each in fields.items()],
    }


def _type(name: str, *, optional: bool = False) -> dict[str, Any]:
    return {"type": name, "optional": optional}
