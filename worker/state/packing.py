"""How remembered values are written, to the store and to the changelog alike: a version, a mark, and msgpack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack

from worker.errors import StateError

VERSION = 1
_HEAD = 2


def pack(fields: Sequence[Any], *, marked: bool = False) -> bytes:
    """`marked` can be read without unpacking the rest."""
    return bytes((VERSION, marked)) + msgpack.packb(fields)  # type: ignore[no-any-return]


def unpack(value: bytes) -> list[Any]:
    """The fields. Raises `StateError` for what `pack` has not made."""
    if not is_readable(value):
        raise StateError(f"remembered state has version {value[:1].hex() or 'none'}, this worker reads {VERSION}")
    try:
        return list(msgpack.unpackb(value[_HEAD:]))
    except (ValueError, TypeError) as error:
        raise StateError(f"remembered state cannot be read: {error}") from error


def is_readable(value: bytes) -> bool:
    return len(value) > _HEAD and value[0] == VERSION


def is_marked(value: bytes) -> bool:
    return value[1] == 1
