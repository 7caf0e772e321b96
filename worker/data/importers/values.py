"""Cells of a table to fields of a message. Empty cells and NaN are missing values."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas import Dtype, Feature, looks_like_seconds, time_problem
from schemas.times import MAX_TIME_MS
from worker.data.load import MAX_FUTURE_MS

TIME_UNITS: Mapping[str, float] = {"s": 1e3, "ms": 1.0, "us": 1e-3, "ns": 1e-6}
"""Milliseconds in each."""


class CellError(ValueError):
    """A cell cannot be used."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"column {column}: {problem}" if column else problem)


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (isinstance(value, float) and math.isnan(value))


def to_id(column: str, value: Any) -> str:
    """Ids that are numbers are written without a fraction: tables with gaps turn 7 into 7.0."""
    if is_missing(value):
        raise CellError(column, "is missing")
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    raise CellError(column, f"should be an id, got {_shown(value)}")


def to_number(column: str, value: Any) -> float | None:
    """A finite number, or its decimal notation. None if it is missing."""
    if is_missing(value):
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise CellError(column, f"should be a number, got {_shown(value)}") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise CellError(column, "is infinite")
    return number


def to_count(column: str, value: Any) -> int | None:
    """A whole number. None if it is missing."""
    number = to_number(column, value)
    if number is None:
        return None
    if not number.is_integer():
        raise CellError(column, f"should be a whole number, got {_shown(value)}")
    try:
        return int(value)  # exact where a float is not
    except ValueError:
        return int(number)


def to_time_ms(column: str, value: Any, unit_ms: float) -> int | None:
    """Milliseconds since 1970 from a number of units, from ISO 8601 text or from a date and time; UTC if not said."""
    if isinstance(value, str) and not _is_number(value) and value:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise CellError(column, f"should be a time, got {_shown(value)}") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=UTC)
        return _checked_time(column, round(aware.timestamp() * 1000))
    number = to_number(column, value)
    return None if number is None else _checked_time(column, round(number * unit_ms))


def _checked_time(column: str, time_ms: int) -> int:
    """The time, unless it is in another unit than was said, or has not come yet: workers refuse both."""
    if looks_like_seconds(time_ms) or not 0 <= time_ms <= MAX_TIME_MS:
        raise CellError(column, f"{time_problem(time_ms)}; see --time-unit")
    ahead_ms = time_ms - time.time() * 1000
    if ahead_ms > MAX_FUTURE_MS:
        raise CellError(column, f"lies {ahead_ms / 86_400_000:,.1f} days in the future")
    return time_ms


def to_feature(column: str, value: Any, encoder: str, dtype: Dtype) -> Feature | None:
    """One vector or several of one length. Vectors of nothing but NaN are missing; None if all are."""
    if value is None or len(_sized(column, value)) == 0:
        return None
    try:
        with np.errstate(over="ignore"):
            array: NDArray[np.float32] = np.asarray(value, np.float32)
    except (TypeError, ValueError, OverflowError):
        raise CellError(column, "should be a vector of numbers, or several of one length") from None
    if array.ndim > 2:
        raise CellError(column, f"should be one vector or several, not {array.ndim} levels of arrays")
    rows_ND = array.reshape(-1, array.shape[-1])
    missing_N = np.logical_and.reduce(np.isnan(rows_ND), axis=1)
    bad = np.argwhere(~np.isfinite(rows_ND) & ~missing_N[:, None])
    if len(bad):
        place = ", ".join(map(str, bad[0])) if array.ndim == 2 else bad[0][1]
        raise CellError(column, f"element [{place}] is NaN or infinite")
    if missing_N.all():
        return None
    array = rows_ND[~missing_N] if array.ndim == 2 else array
    try:
        return Feature.from_numpy(array, dtype=dtype, encoder=encoder)
    except ValidationError as error:
        raise CellError(column, error.errors()[0]["msg"]) from None
    except ValueError as error:
        raise CellError(column, str(error)) from None


def _sized(column: str, value: Any) -> Any:
    if not hasattr(value, "__len__") or isinstance(value, str | bytes):
        raise CellError(column, f"should be a vector of numbers, got {_shown(value)}")
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
