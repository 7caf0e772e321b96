"""How remembered values are written, to the store and to the changelog alike: a version, a mark, and msgpack; or
another version, no mark, four numbers, and a message as it came, which need not be packed anew.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import msgpack

from worker.errors import StateError

VERSION = 1
WITH_MESSAGE = 2
"""In place of the version."""
_HEAD = 2
_NUMBERS = struct.Struct(">BBqqqq")

Numbers = tuple[int, int, int, int]


def pack(fields: Sequence[Any], *, marked: bool = False) -> bytes:
    """`marked` can be read without unpacking the rest."""
    return bytes((VERSION, marked)) + msgpack.packb(fields)  # type: ignore[no-any-return]


def with_message(numbers: Numbers, message: bytes) -> bytes:
    """The numbers, and the bytes of a message behind them."""
    return _NUMBERS.pack(WITH_MESSAGE, False, *numbers) + message


def holds_message(value: bytes) -> bool:
    """Whether `with_message` has made it."""
    return value[:1] == b"\x02"


def of_message(value: bytes) -> tuple[Numbers, bytes, dict[str, Any]]:
    """Numbers, the message, and its fields. Raises `StateError` for what `with_message` has not made."""
    try:
        _, _, *numbers = _NUMBERS.unpack_from(value)
        message = value[_NUMBERS.size :]
        fields: dict[str, Any] = msgpack.unpackb(message)
    except (struct.error, ValueError, TypeError) as error:
        raise StateError(f"remembered state cannot be read: {error}") from error
    return (numbers[0], numbers[1], numbers[2], numbers[3]), message, fields


def unpack(value: bytes) -> list[Any]:
    """The fields. Raises `StateError` for what `pack` has not made."""
    if len(value) <= _HEAD or value[0] != VERSION:
        raise StateError(f"remembered state has version {value[:1].hex() or 'none'}, this worker reads {VERSION}")
    try:
        return list(msgpack.unpackb(value[_HEAD:]))
    except (ValueError, TypeError) as error:
        raise StateError(f"remembered state cannot be read: {error}") from error


def is_readable(value: bytes) -> bool:
    return len(value) > _HEAD and value[0] in (VERSION, WITH_MESSAGE)


def is_marked(value: bytes) -> bool:
    return value[1] == 1
