"""msgpack of other people: any map, and no message of the contract."""

from __future__ import annotations

from typing import Any

import msgpack

from schemas import Reason
from worker.mapping.problem import MisfitError

_MAX = 2**24
"""Bytes and entries: a record is no larger."""


def parse_msgpack(data: bytes) -> Any:
    """Raises `MisfitError`."""
    try:
        return msgpack.unpackb(data, raw=False, timestamp=3, max_ext_len=12, max_array_len=_MAX, max_map_len=_MAX)
    except (ValueError, RecursionError, OverflowError) as error:
        told = "a str is not UTF-8" if isinstance(error, UnicodeDecodeError) else "it is not one complete value"
        raise MisfitError(f"is not msgpack: {told}", Reason.WRONG_FORMAT) from None
