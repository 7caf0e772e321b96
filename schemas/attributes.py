"""Attributes that people filter by: each value is, of one of four kinds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError
from pydantic_core.core_schema import no_info_plain_validator_function

from schemas.limits import DEFAULT_LIMITS

MIN_INT, MAX_INT = -(2**63), 2**63 - 1

Value = str | bool | int | float | tuple[str, ...]


class OneOfFourKinds:
    """Restricts a field to a str, a bool, a number, or an array of str, each within the limits."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(checked)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        text = {"type": "string", "maxLength": DEFAULT_LIMITS.attribute_chars}
        return {
            "anyOf": [
                text,
                {"type": "boolean"},
                {"type": "integer", "minimum": MIN_INT, "maximum": MAX_INT},
                {"type": "number"},
                {"type": "array", "items": text, "maxItems": DEFAULT_LIMITS.attribute_values},
            ]
        }

    @staticmethod
    def bounds(value: Value, path: str) -> Iterator[tuple[str, str, int]]:
        """Path, limit and size of all that is bounded in a valid value."""
        if isinstance(value, tuple):
            yield path, "attribute_values", len(value)
            yield from ((f"{path}.{index}", "attribute_chars", len(each)) for index, each in enumerate(value))
        elif isinstance(value, str):
            yield path, "attribute_chars", len(value)


AttributeValue = Annotated[Value, OneOfFourKinds()]


def checked(value: Any) -> Value:
    """The value as it is kept. Raises pydantic's errors."""
    kind = type(value)
    if kind is str:
        return _text(value)
    elif kind is bool:
        return value  # type: ignore[no-any-return]
    elif kind is int:
        if not MIN_INT <= value <= MAX_INT:
            raise PydanticCustomError("attribute_range", "should be an int of 64 bits")
        return value  # type: ignore[no-any-return]
    elif kind is float:
        if not math.isfinite(value):
            raise PydanticKnownError("finite_number")
        return value  # type: ignore[no-any-return]
    elif kind is not list and kind is not tuple:
        raise PydanticCustomError("attribute_type", "should be a str, a number, a bool or an array of str")
    if len(value) > DEFAULT_LIMITS.attribute_values:
        most = {"field_type": "Array", "max_length": DEFAULT_LIMITS.attribute_values, "actual_length": len(value)}
        raise PydanticKnownError("too_long", most)
    for each in value:
        if type(each) is not str:
            raise PydanticCustomError("attribute_array", "should be an array of str alone")
        _text(each)
    return tuple(value)


def _text(value: str) -> str:
    if len(value) > DEFAULT_LIMITS.attribute_chars:
        raise PydanticKnownError("string_too_long", {"max_length": DEFAULT_LIMITS.attribute_chars})
    return value
