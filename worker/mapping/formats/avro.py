"""Avro behind the header of a schema registry, read with the schema that it was written with."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import fastavro
import orjson
from fastavro.schema import SchemaParseException, UnknownType

from schemas import Reason
from worker.mapping.formats.framing import unframed
from worker.mapping.problem import MisfitError
from worker.mapping.registry import Cached, Registered, Registry

MAX_SCHEMAS = 64
"""Schemas whose references are followed for one schema."""


class AvroReader:
    """Knows each schema after its first record. For one thread."""

    def __init__(self, registry: Registry) -> None:
        self._schemas = Cached(registry, "AVRO", lambda found: _parsed(found, registry))

    def __call__(self, data: bytes) -> Any:
        schema_id, body = unframed(data)
        schema = self._schemas[schema_id]
        stream = BytesIO(body)
        try:
            value = fastavro.schemaless_reader(stream, schema, None)
        except RecursionError:
            raise MisfitError("is nested too deeply", Reason.WRONG_FORMAT) from None
        except (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, ArithmeticError):
            raise MisfitError(f"is not Avro of schema {schema_id}", Reason.WRONG_FORMAT) from None
        if stream.tell() != len(body):
            raise MisfitError(f"has bytes after what schema {schema_id} describes", Reason.WRONG_FORMAT)
        return value


def _parsed(found: Registered, registry: Registry) -> Any:
    named: dict[str, Any] = {}
    try:
        for text in _with_references(found, registry):
            schema = orjson.loads(text)
            _require_bytes(schema)
            parsed = fastavro.parse_schema(schema, named_schemas=named)
    except (
        SchemaParseException,
        UnknownType,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        told = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise MisfitError(f"has a schema that cannot be used: {told}", Reason.WRONG_FORMAT) from None
    return parsed


def _with_references(found: Registered, registry: Registry, depth: int = 0) -> list[str]:
    """The schemas that it names, each before those that name it, and itself last."""
    if depth > MAX_SCHEMAS:
        raise MisfitError("has a schema that refers to itself", Reason.WRONG_FORMAT)
    texts: list[str] = []
    for _, subject, version in found.references:
        for text in _with_references(registry.version(subject, version, "AVRO"), registry, depth + 1):
            if text not in texts:
                texts.append(text)
    return [*texts, found.text]


def _require_bytes(schema: Any) -> None:
    """Refuse a list of what takes no bytes: five bytes could say that there are a million million of them."""
    if isinstance(schema, list):
        for each in schema:
            _require_bytes(each)
    elif isinstance(schema, Mapping):
        inner = schema.get("items")
        if schema.get("type") == "array" and inner is not None and _is_empty(inner):
            raise ValueError("it has an array whose elements take no bytes")
        for each in schema.values():
            if isinstance(each, dict | list):
                _require_bytes(each)


def _is_empty(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind in ("record", "error"):
            return all(_is_empty(each.get("type")) for each in schema.get("fields", ()) if isinstance(each, Mapping))
        if kind == "fixed":
            return schema.get("size") == 0
        return _is_empty(kind)
    return bool(schema == "null")
