"""From unchecked fields to a SchemaError that says what is wrong with them, or to fields of this version."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from schemas.message import Fields, Message
from schemas.reason import Reason, SchemaError
from schemas.times import time_problem

_WIRE_TYPES = {
    "str": "str",
    "bytes": "bin",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "list": "array",
    "dict": "map",
    "NoneType": "nil",
    "ExtType": "ext",
    "Timestamp": "ext",
}

_WORDS = {
    "missing": "is missing",
    "string_type": "should be a str",
    "bytes_type": "should be a bin",
    "int_type": "should be an int",
    "float_type": "should be a float",
    "bool_type": "should be a bool",
    "dict_type": "should be a map",
    "model_type": "should be a map",
    "tuple_type": "should be an array",
    "string_too_short": "should not be empty",
    "string_too_long": "is longer than the limit of {max_length} characters",
    "too_long": "has more than {max_length} entries",
    "finite_number": "is NaN or infinite",
}
"""Texts for pydantic's error types, in the words of the wire; the others keep pydantic's own."""

_OF_TIMES = ("greater_than_equal", "less_than_equal")

_NAME_CHARS = 64


def upgraded(message: type[Message], fields: Fields) -> Fields:
    """Fields in the version of `message`, from those of the version before. SchemaError for any other."""
    version = fields.get("schema_version")
    if type(version) is not int:
        raise _unsupported("is missing" if version is None else f"should be an int, got {wire_type(version)}")
    if version in message.upgrades:
        try:
            return {**message.upgrades[version](fields), "schema_version": message.version}
        except Exception:  # an upgrade sees fields that nothing has checked
            problem = f"is {version}, but the fields are not those of that version"
            raise SchemaError(Reason.INVALID_FIELD, "schema_version", problem) from None
    known = " and ".join(str(known) for known in [*sorted(message.upgrades), message.version])
    if version > message.version:
        raise _unsupported(f"is {version}: the writer is newer than this reader, which knows {known}; upgrade it first")
    raise _unsupported(f"is {version}, which is no longer read; this reader knows {known}")


def _unsupported(problem: str) -> SchemaError:
    return SchemaError(Reason.UNSUPPORTED_VERSION, "schema_version", problem)


def schema_error(error: ValidationError) -> SchemaError:
    """The first thing that is wrong, without the value that is."""
    first = error.errors(include_url=False)[0]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return SchemaError(_reason(first), _path(first), _problem(first) + more)


def _reason(error: ErrorDetails) -> Reason:
    kind, last = error["type"], error["loc"][-1]
    if kind == "finite_number":
        return Reason.NON_FINITE
    too_many = kind in ("string_too_long", "too_many_vectors") or (
        kind == "too_long" and (last != "shape" or error["loc"][0] == "attributes")
    )
    too_many_dims = kind == "less_than_equal" and isinstance(last, int)  # the only bounded ints in an array
    return Reason.TOO_LARGE if too_many or too_many_dims else Reason.INVALID_FIELD


def _problem(error: ErrorDetails) -> str:
    if error["type"] in _OF_TIMES and str(error["loc"][-1]).endswith("_ms"):
        return time_problem(error["input"])
    words = _WORDS.get(error["type"])
    text = words.format_map(error.get("ctx", {})) if words else error["msg"].removeprefix("Input ")
    return f"{text}, got {wire_type(error['input'])}" if error["type"].endswith("_type") else text


def _path(error: ErrorDetails) -> str:
    parts = [*error["loc"], error.get("ctx", {}).get("field")]
    return ".".join(printable(str(part)) for part in parts if part not in (None, "[key]"))


def printable(name: str) -> str:
    """A name from the payload, fit for a log line."""
    short = name if len(name) <= _NAME_CHARS else name[:_NAME_CHARS] + "…"
    return short if short.isprintable() else ascii(short)[1:-1]


def wire_type(value: Any) -> str:
    """The msgpack type of an unpacked value."""
    return _WIRE_TYPES.get(type(value).__name__, "another type")
