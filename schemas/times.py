"""Times of messages, and what a number that is none probably is.

A time in another unit would pass for one in another century: seconds of today are a day in January 1970, in which
nothing in any stream has happened. So a writer who sends seconds is told, before an item or a user is made of it.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import int_schema, union_schema

MAX_TIME_MS = 253_402_300_799_999
"""End of the year 9999. A time in microseconds is beyond it, and so is refused."""

SECONDS_FROM, SECONDS_TO = 100_000_000, 10_000_000_000
"""What is refused as seconds: as such from 1973 to 2286, as milliseconds from 2 January to 26 April 1970."""

_UNITS = {"seconds": 1, "microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
_PLAUSIBLE_S = (SECONDS_FROM, 4_102_444_800)
"""What a time is likely to be: 1973 to 2100."""

TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]
"""A time that this contract's own writers have made."""


class _InputTime:
    """A time that anybody may have written: as `TimeMs`, and seconds are refused."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        # Two ranges and not a function: every message goes through here.
        return union_schema(
            [int_schema(ge=SECONDS_TO, le=MAX_TIME_MS, strict=True), int_schema(ge=0, lt=SECONDS_FROM, strict=True)],
            mode="left_to_right",
            custom_error_type="time",
            custom_error_message="should be milliseconds since 1970, and not seconds",
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {
            "type": "integer",
            "minimum": 0,
            "maximum": MAX_TIME_MS,
            "not": {"minimum": SECONDS_FROM, "exclusiveMaximum": SECONDS_TO},
        }


InputTimeMs = Annotated[int, _InputTime()]


def time_problem(value: int) -> str:
    """What is wrong with a number that is no time in milliseconds, for a person."""
    unit = _unit(value)
    if unit is None:
        return f"should be milliseconds since 1970, from 0 to {MAX_TIME_MS} (the year 9999)"
    return f"looks like {unit}: should be milliseconds since 1970"


def _unit(value: int) -> str | None:
    if SECONDS_FROM <= value < SECONDS_TO:
        return "seconds"
    for unit in ("microseconds", "nanoseconds"):
        if value > MAX_TIME_MS and _PLAUSIBLE_S[0] <= value / _UNITS[unit] < _PLAUSIBLE_S[1]:
            return unit
    return None
