"""Values of foreign records to fields of messages. What is empty, or NaN, is missing."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from hashlib import blake2b
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from schemas import Dtype, Feature, Reason, looks_like_seconds, time_problem
from schemas.message import MAX_INT
from schemas.times import MAX_TIME_MS
from worker.mapping.problem import MisfitError, shown

Unit = Literal["s", "ms", "us", "ns", "iso"]
UNITS: tuple[Unit, ...] = ("s", "ms", "us", "ns", "iso")
MAX_SCALE = 38
"""Digits behind the point of a decimal."""


def is_missing(value: Any) -> bool:
    return value is None or value == "" or (type(value) is float and value != value)


def to_id(value: Any) -> str | None:
    """Ids that are numbers are written without a fraction. None if it is missing. Raises `MisfitError`."""
    if type(value) is str:
        return value or None
    if value is None:
        return None
    if isinstance(value, bool):
        raise MisfitError("should be an id, got true or false")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > MAX_DIGITS:
            raise MisfitError("should be an id, got a number that is none")
        return f"{value:f}"
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if abs(value) >= 2**53:  # a reader of JSON has rounded it, and two ids may have become one
            raise MisfitError("should be an id, got a number too large to be exact: ids of so many digits must be text")
        if value.is_integer():
            return str(int(value))
        raise MisfitError("should be an id, got a number with a fraction")
    if type(value).__name__ == "UUID":
        return str(value)
    raise MisfitError(f"should be an id, got {shown(value)}")


def to_name(value: Any) -> str | None:
    """Text. None if it is missing. Raises `MisfitError`."""
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise MisfitError(f"should be text, got {shown(value)}")
    return value


def to_number(value: Any) -> float | None:
    """A finite number, or its decimal notation. None if it is missing. Raises `MisfitError`."""
    if is_missing(value):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal | str):
        raise MisfitError(f"should be a number, got {shown(value)}")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise MisfitError("should be a number, got text that is none") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise MisfitError("is infinite", Reason.NON_FINITE)
    return number


def to_count(value: Any) -> int | None:
    """A whole number from 0 on. None if it is missing. Raises `MisfitError`."""
    if type(value) is int:
        count = value
    elif is_missing(value):
        return None
    elif isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        count = int(value)
    else:
        number = to_number(value)
        if number is None:
            return None
        if not number.is_integer():
            raise MisfitError("should be a whole number, got one with a fraction")
        count = int(number)
    if not 0 <= count <= MAX_INT:
        raise MisfitError(f"should be a whole number from 0 to {MAX_INT}")
    return count


def to_bool(value: Any) -> bool | None:
    """None if it is missing. Raises `MisfitError`."""
    if isinstance(value, bool):
        return value
    if is_missing(value):
        return None
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise MisfitError(f"should be true or false, got {shown(value)}")


def to_time_ms(value: Any, unit: Unit | None = None) -> int | None:
    """Milliseconds since 1970 from a number of units, or from ISO 8601 text, in UTC if it does not say. Without a unit
    a number is milliseconds. None if it is missing. Raises `MisfitError`."""
    if type(value) is int:
        if unit == "iso":
            raise MisfitError("should be a time in ISO 8601, got a number: say unit: s, ms, us or ns")
        return checked_time(value if unit is None or unit == "ms" else _of_units(value, unit))
    if is_missing(value):
        return None
    if isinstance(value, str):
        if (number := _number(value)) is not None and unit != "iso":
            return checked_time(_of_units(number, unit or "ms"))
        try:
            value = datetime.fromisoformat(value.strip())
        except (ValueError, OverflowError):
            raise MisfitError("should be a time in ISO 8601, such as 2026-01-31T12:00:00Z") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return checked_time(_of_datetime(value))
    if isinstance(value, bool) or not isinstance(value, float | Decimal):
        raise MisfitError(f"should be a time, got {shown(value)}")
    if not Decimal(value).is_finite():
        raise MisfitError("is infinite", Reason.NON_FINITE)
    if unit == "iso":
        raise MisfitError("should be a time in ISO 8601, got a number: say unit: s, ms, us or ns")
    return checked_time(_of_units(value, unit or "ms"))


_MS_OF = {"s": (1_000, 1), "ms": (1, 1), "us": (1, 1_000), "ns": (1, 1_000_000)}


def _of_units(value: int | float | Decimal, unit: Unit) -> int:
    times, by = _MS_OF[unit]
    if isinstance(value, int):
        return (value * times) // by
    if Decimal(value).adjusted() > MAX_DIGITS:  # written out, `1e999999999` would fill the memory
        raise MisfitError("is no time of the years 1970 to 9999")
    try:
        return round(Decimal(value) * times / by)
    except (ArithmeticError, ValueError):
        raise MisfitError("should be a time, got a number that is none") from None


def _of_datetime(value: datetime) -> int:
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    try:
        since = aware - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        raise MisfitError("is no time of the years 1970 to 9999") from None
    return (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000


def _number(text: str) -> int | Decimal | None:
    text = text.strip()
    if not text or len(text) > 40:
        return None
    try:
        number = Decimal(text)
    except ArithmeticError:
        return None
    return number if number.is_finite() else None


MAX_DIGITS = 30
"""Before the point of a number that may be a time."""


def checked_time(time_ms: int) -> int:
    """The time, unless it is almost surely one in another unit. Raises `MisfitError`."""
    if abs(time_ms) > MAX_INT:
        raise MisfitError("is no time of the years 1970 to 9999")
    if not 0 <= time_ms <= MAX_TIME_MS or looks_like_seconds(time_ms):
        raise MisfitError(f"{time_problem(time_ms)}; unit: s, ms, us, ns or iso says what it is in")
    return time_ms


def to_attribute(value: Any) -> str | bool | int | float | list[str] | None:
    """None if it is missing. Raises `MisfitError` for objects and for lists of anything but texts."""
    kind = type(value)
    if kind is str or kind is bool or kind is int:
        return value if value != "" else None
    if is_missing(value):
        return None
    if isinstance(value, float | Decimal):
        return to_number(value)
    if isinstance(value, list | tuple):
        return to_texts(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    if type(value).__name__ == "UUID":
        return str(value)
    raise MisfitError(f"should be text, a number, true, false or a list of texts, got {shown(value)}")


def to_texts(value: Any) -> list[str] | None:
    """A list of texts; numbers are written out. None if it is missing. Raises `MisfitError`."""
    if is_missing(value):
        return None
    if not isinstance(value, list | tuple):
        raise MisfitError(f"should be a list, got {shown(value)}")
    found = []
    for each in value:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise MisfitError(f"should be a list of texts, got {shown(each)} in it")
        found.append(to_id(each) or "")
    return found


def to_ids(value: Any) -> list[str] | None:
    """Raises `MisfitError`."""
    if value is None or (isinstance(value, str) and not value):
        return None
    if not isinstance(value, list | tuple):
        raise MisfitError(f"should be a list of ids, got {shown(value)}")
    found = [to_id(each) for each in value]
    if None in found:
        raise MisfitError("should be a list of ids, got an empty one in it")
    return found  # type: ignore[return-value]


def to_decimal(value: Any, scale: int) -> float | None:
    """Read a decimal as Kafka Connect writes it: the unscaled number as big-endian bytes, in JSON as base64; a number
    or its notation is taken as it is. Raises `MisfitError`."""
    if isinstance(value, str) and (number := _number(value)) is not None:
        return float(number)
    if isinstance(value, str | bytes):
        data = to_bytes(value)
        if data is None or len(data) > 64:
            raise MisfitError("should be a decimal of Kafka Connect")
        number = Decimal(int.from_bytes(data, "big", signed=True)).scaleb(-scale)
        return to_number(number)
    return to_number(value)


def to_bytes(value: Any) -> bytes | None:
    """Bytes, or base64 of either alphabet. None if it is missing. Raises `MisfitError`."""
    if value is None or value == "" or value == b"":
        return None
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise MisfitError(f"should be base64, got {shown(value)}")
    try:
        return binascii.a2b_base64(value, strict_mode=True)
    except ValueError:
        pass  # the other alphabet, then, or none of the signs at the end
    try:
        text = value.translate(_STANDARD).rstrip("=")
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise MisfitError("should be base64, and is not") from None


_STANDARD = str.maketrans("-_", "+/")


def to_feature(value: Any, encoder: str, dtype: Dtype, dim: int | None, stored_as: str | None) -> dict[str, Any] | None:
    """The fields of a feature of one vector or several of one length, from numbers, or from little-endian bytes of
    `stored_as`, which base64 may hold; several where `dim` is less than there is. Vectors of nothing but NaN are
    missing. Raises `MisfitError`."""
    if value is None or (isinstance(value, str | bytes | Sequence | np.ndarray) and len(value) == 0):
        return None
    array: NDArray[Any]
    if isinstance(value, str | bytes):
        if stored_as is None:
            raise MisfitError(
                f"should be a vector of numbers, got {shown(value)}: stored: f4 or f2 says what its bytes are"
            )
        array = _unpacked(to_bytes(value) or b"", stored_as, dim)
    else:
        array = _numbers(value)
        if dim is not None and array.shape[-1] != dim:
            raise MisfitError(f"should have {dim} dimensions, got {array.shape[-1]}", Reason.WRONG_SHAPE)
    if dtype in ("f2", "f4"):
        with np.errstate(over="ignore"):
            rounded = array.astype(f"<{dtype}", copy=False)
        if np.isfinite(rounded).all():  # most are, and this is the hot path
            return {"dtype": dtype, "shape": rounded.shape, "data": rounded.tobytes(), "encoder": encoder}
    return _with_gaps(array.astype(np.float32, copy=False), encoder, dtype)


def _with_gaps(array: NDArray[np.float32], encoder: str, dtype: Dtype) -> dict[str, Any] | None:
    """The same of vectors of which some may be missing."""
    rows_ND = array.reshape(-1, array.shape[-1])
    missing_N = np.isnan(rows_ND).all(axis=1)
    if missing_N.any():
        if missing_N.all():
            return None
        array = rows_ND[~missing_N]
    try:
        return Feature.from_numpy(array, dtype=dtype, encoder=encoder).model_dump(exclude_defaults=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise MisfitError(first["msg"].removeprefix("Input "), Reason.TOO_LARGE) from None
    except ValueError as error:
        raise MisfitError(str(error), Reason.NON_FINITE) from None


def _unpacked(data: bytes, stored_as: str, dim: int | None) -> NDArray[Any]:
    size = 2 if stored_as == "f2" else 4
    if not data or len(data) % (size * (dim or 1)):
        raise MisfitError(f"has {len(data)} bytes, which are no {'vectors' if dim else 'vector'} of {stored_as}")
    array: NDArray[Any] = np.frombuffer(data, f"<{stored_as}")
    return array if dim is None or len(array) == dim else array.reshape(-1, dim)


def _numbers(value: Any) -> NDArray[np.float32]:
    if not isinstance(value, list | tuple | np.ndarray):
        raise MisfitError(f"should be a vector of numbers, got {shown(value)}")
    try:
        with np.errstate(over="ignore"):
            found: NDArray[Any] = np.asarray(value)
            if found.dtype.kind not in "fiuO" or (found.dtype.kind == "O" and any(type(x) is str for x in found.flat)):
                raise TypeError
            array: NDArray[np.float32] = found.astype(np.float32)
    except (TypeError, ValueError, OverflowError):
        raise MisfitError("should be a vector of numbers, or several of one length") from None
    if array.ndim not in (1, 2) or 0 in array.shape:
        raise MisfitError("should be a vector of numbers, or several of one length")
    return array


def event_id(*parts: object) -> str:
    """An id for an event that has none, made of what it says: the same event has the same id wherever it is read."""
    return blake2b(repr(parts).encode(errors="surrogatepass"), digest_size=16).hexdigest()
