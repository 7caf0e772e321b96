"""Records that no worker can process, one of every kind that an input can be, and the reason each must be given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgpack
import numpy as np

from schemas import Reason
from tests.integration.stream import DIMS, item

Headers = tuple[tuple[str, bytes | None], ...]

WRONG_ENCODER = "wrong_encoder"
TRACE: Headers = (("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),)


class Poison(NamedTuple):
    kind: str
    key: bytes | None
    value: bytes | None
    reason: Reason
    headers: Headers = (*TRACE, ("x", b"\x00\xff"), ("x", b"again"), ("empty", b""), ("null", None))


def every_kind() -> Iterator[Poison]:
    """For a space that expects the encoder `e` for text and takes one vector of each modality. An odd number of them,
    so that each is met in both partitions when they are sent twice, in turn."""
    good = item("good")
    yield Poison("garbage", b"garbage", b"\xc1\xc1\xc1", Reason.NOT_MSGPACK)
    yield Poison("empty value", b"empty", b"", Reason.NOT_MSGPACK)
    yield Poison("truncated", b"good", good[:-3], Reason.NOT_MSGPACK)
    yield Poison("trailing bytes", b"good", good + b"\x00", Reason.NOT_MSGPACK)
    yield Poison("not a map", b"list", msgpack.packb([1, 2]), Reason.INVALID_FIELD)
    yield Poison("too many entries", *_altered("crowded", neighbors=["n"] * 2_000), Reason.TOO_LARGE)
    yield Poison("future version", *_altered("future", schema_version=99), Reason.UNSUPPORTED_VERSION)
    yield Poison("no version", *_altered("unversioned", schema_version=None), Reason.UNSUPPORTED_VERSION)
    yield Poison("missing field", *_altered("unrevised", revision=None), Reason.INVALID_FIELD)
    yield Poison("wrong type", *_altered("mistyped", revision="1"), Reason.INVALID_FIELD)
    yield Poison("wrong length", *_altered("short", text={"data": b"\x00" * 3}), Reason.INVALID_FIELD)
    yield Poison("NaN", *_altered("nan", text={"data": _text(np.nan)}), Reason.NON_FINITE)
    yield Poison("infinity", *_altered("inf", text={"data": _text(-np.inf)}), Reason.NON_FINITE)
    yield Poison("another key", b"another", good, Reason.KEY_MISMATCH)
    yield Poison("no key", None, good, Reason.KEY_MISMATCH)
    yield Poison("delete without key", None, None, Reason.KEY_MISMATCH)
    yield Poison("delete with a key that is not text", b"\xff\xfe", None, Reason.KEY_MISMATCH)
    yield Poison("delete with an endless key", b"k" * 600, None, Reason.KEY_MISMATCH)
    yield Poison(WRONG_ENCODER, *_altered("encoder", text={"encoder": "newer"}), Reason.WRONG_ENCODER)
    wide = {"shape": [17], "data": b"\x00" * 34}
    yield Poison("wrong shape", *_altered("wide", text=wide), Reason.WRONG_SHAPE)
    several = {"shape": [2, 16], "data": b"\x00" * 64}
    yield Poison("too many vectors", *_altered("several", text=several), Reason.WRONG_SHAPE)
    yield Poison("no modality", *_altered("bare", features={}), Reason.NO_MODALITY)
    next_year_ms = time.time_ns() // 1_000_000 + 366 * 86_400_000
    yield Poison("next year", *_altered("early", event_time_ms=next_year_ms), Reason.FUTURE_TIME)
    yield Poison("seconds", *_altered("slow", event_time_ms=next_year_ms // 1_000), Reason.INVALID_FIELD)
    yield Poison("partial", *_altered("partial", partial=True), Reason.PARTIAL_UNSUPPORTED)


def _altered(name: str, text: Mapping[str, Any] | None = None, **fields: Any) -> tuple[bytes, bytes]:
    """Key and value of an item with other fields, or without those that are None, and another text feature."""
    message = msgpack.unpackb(item(name)) | fields
    if text:
        message["features"]["text"] |= text
    return name.encode(), msgpack.packb({field: value for field, value in message.items() if value is not None})


def _text(element: float) -> bytes:
    return np.full(DIMS["text"], element, "<f2").tobytes()
