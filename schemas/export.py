"""JSON Schema of the messages, for other languages."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from schemas.dead_letter import DeadLetter
from schemas.items import ItemVector, NewItem
from schemas.message import Message
from schemas.users import UserEvent, UserVector

MESSAGES: dict[str, type[Message]] = {
    message.__name__: message for message in (NewItem, UserEvent, ItemVector, UserVector, DeadLetter)
}


class _WireSchema(GenerateJsonSchema):
    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        """With nil beside every value that has a default, and every entry of a map."""
        made = super().model_schema(schema)
        for name, field in made.get("properties", {}).items():
            if name == "schema_version":
                continue
            _admit_nil_entries(field)
            if name not in made.get("required", ()):
                _admit_nil(field)
        return made

    def bytes_schema(self, schema: core_schema.BytesSchema) -> JsonSchemaValue:
        return {"type": "string", "format": "binary", "x-msgpack-type": "bin"}


_ANNOTATIONS = ("title", "description", "default")


def _admit_nil(field: JsonSchemaValue) -> None:
    """Let a value be nil, in place: what describes the field stays beside it."""
    inner = {key: field.pop(key) for key in list(field) if key not in _ANNOTATIONS}
    alternatives = inner["anyOf"] if inner.keys() == {"anyOf"} else [inner]
    field["anyOf"] = alternatives if {"type": "null"} in alternatives else [*alternatives, {"type": "null"}]


def _admit_nil_entries(field: JsonSchemaValue) -> None:
    for part in (field, *field.get("anyOf", ())):
        if isinstance(entries := part.get("additionalProperties"), dict):
            _admit_nil(entries)


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the message called `name`, as it lies in the msgpack map.

    JSON has no bytes: a msgpack bin appears as a string with `format: binary` and `x-msgpack-type: bin`.
    Raises ValueError for a name that is not one of the messages.
    """
    if name not in MESSAGES:
        raise ValueError(f"no message is called {name!r}; there are {', '.join(MESSAGES)}")
    message = MESSAGES[name]
    schema = message.model_json_schema(schema_generator=_WireSchema)
    # A default lets Python writers leave the version out; on the wire it is required.
    required = ["schema_version", *schema.pop("required")]
    return {
        "$schema": _WireSchema.schema_dialect,
        "$id": f"urn:align-worker:schema:{name}:{message.version}",
        **schema,
        "required": required,
    }
