"""Times of messages, and what a number that is none probably is.

A time in another unit would pass for one in another century. Microseconds and nanoseconds lie beyond what a message may
hold. Seconds of today are a day of early 1970, which the contract allows and no stream means: readers of items and
events ask `looks_like_seconds`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

MAX_TIME_MS = 253_402_300_799_999
"""End of the year 9999. A time in microseconds is beyond it, and so is refused."""

SECONDS_FROM, SECONDS_TO = 100_000_000, 10_000_000_000
"""Times taken for seconds: as such from 1973 to 2286, as milliseconds from 2 January to 26 April 1970."""

TimeMs = Annotated[int, Field(ge=0, le=MAX_TIME_MS)]

_PER_SECOND = {"microseconds": 1_000_000, "nanoseconds": 1_000_000_000}
_PLAUSIBLE_S = (SECONDS_FROM, 4_102_444_800)
"""Likely times: 1973 to 2100."""


def looks_like_seconds(value: int) -> bool:
    """Whether a time that should be milliseconds is almost surely one in seconds."""
    return SECONDS_FROM <= value < SECONDS_TO


def time_problem(value: int) -> str:
    """Explain to a person why a number is no time in milliseconds."""
    if looks_like_seconds(value):
        return "looks like seconds: should be milliseconds since 1970"
    for unit, per_second in _PER_SECOND.items():
        if value > MAX_TIME_MS and _PLAUSIBLE_S[0] <= value / per_second < _PLAUSIBLE_S[1]:
            return f"looks like {unit}: should be milliseconds since 1970"
    return f"should be milliseconds since 1970, from 0 to {MAX_TIME_MS} (the year 9999)"
