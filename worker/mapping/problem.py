"""Faults of values, before it is known in which field."""

from __future__ import annotations

from typing import Any

from schemas import Reason

_NAMES = {
    "str": "text",
    "bytes": "bytes",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "tuple": "a list",
    "dict": "an object",
    "NoneType": "nothing",
    "datetime": "a time",
    "date": "a date",
    "Decimal": "a number",
}


class MisfitError(ValueError):
    """A value cannot be used. The text quotes no data: it goes into logs."""

    def __init__(self, text: str, reason: Reason = Reason.INVALID_FIELD) -> None:
        super().__init__(text)
        self.reason = reason


def shown(value: Any) -> str:
    """The kind of a value, in the words of JSON."""
    return _NAMES.get(type(value).__name__, "another kind of value")
