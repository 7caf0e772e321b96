"""Bodies out of their content codings, bounded in size and time: a small body may unpack to anything."""

from __future__ import annotations

import zlib
from collections.abc import Callable

from worker.encode.media.errors import too_large

SLICE_BYTES = 64 * 1_024
STEP_BYTES = 256 * 1_024
MAX_CODINGS = 3
PLAIN = ("", "identity", "aws-chunked")  # what object stores forget to take off the headers of what they keep
_GZIP, _ZLIB, _BARE = 31, 15, -15  # zlib's window bits say how a stream is wrapped
_GZIP_MAGIC = b"\x1f\x8b"


class CodingError(ValueError):
    """The body is not what its coding says."""


class CutShortError(CodingError):
    """The body ends before its coding does."""


def unpacked(body: bytes, codings: str, max_bytes: int, tick: Callable[[], object]) -> bytes:
    """The body without its `Content-Encoding`. `tick` is called after each step; what it raises ends the work.

    Raises `ContentError` for more than `max_bytes`, `CodingError` for what cannot be unpacked.
    """
    applied = [name for name in (each.strip().lower() for each in codings.split(",")) if name not in PLAIN]
    if len(applied) > MAX_CODINGS:
        raise CodingError(f"Content-Encoding names more than {MAX_CODINGS} codings")
    for name in reversed(applied):
        if name in ("gzip", "x-gzip"):
            body = _gunzipped(body, max_bytes, tick)
        elif name == "deflate":
            body = _deflated(body, max_bytes, tick)
        else:
            raise CodingError(f"Content-Encoding {name[:40]!r} is not unpacked, only gzip and deflate are")
    return body


def _gunzipped(body: bytes, max_bytes: int, tick: Callable[[], object]) -> bytes:
    """One stream after the other, and zeros behind them."""
    out = bytearray()
    position = _inflate(body, 0, _GZIP, out, max_bytes, tick)
    while body.startswith(_GZIP_MAGIC, position):
        position = _inflate(body, position, _GZIP, out, max_bytes, tick)
    if body.count(0, position) != len(body) - position:
        raise CodingError("Content-Encoding gzip: noise behind the end")
    return bytes(out)


def _deflated(body: bytes, max_bytes: int, tick: Callable[[], object]) -> bytes:
    """With the wrapping that the standard asks for, or without, as some servers send it."""
    is_wrapped = len(body) >= 2 and body[0] & 0x0F == 8 and int.from_bytes(body[:2]) % 31 == 0
    out = bytearray()
    if _inflate(body, 0, _ZLIB if is_wrapped else _BARE, out, max_bytes, tick) < len(body):
        raise CodingError("Content-Encoding deflate: noise behind the end")
    return bytes(out)


def _inflate(
    body: bytes, position: int, wrapping: int, out: bytearray, max_bytes: int, tick: Callable[[], object]
) -> int:
    """Add what one stream holds to `out`. Returns where it ends."""
    stream = zlib.decompressobj(wrapping)
    waiting = b""
    while not stream.eof:
        if not waiting:
            waiting = body[position : position + SLICE_BYTES]
            position += len(waiting)
        try:
            part = stream.decompress(waiting, STEP_BYTES)
        except zlib.error as error:
            raise CodingError(f"Content-Encoding: {error}") from error
        if not waiting and not part and not stream.eof:
            raise CutShortError("the packed body ends before its end")
        waiting = stream.unconsumed_tail
        out += part
        if len(out) > max_bytes:
            raise too_large(f"unpacks to more bytes than the limit of {max_bytes}")
        tick()
    return position - len(stream.unused_data)
