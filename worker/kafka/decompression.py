"""Compressed batches in pieces: what a small batch unpacks to has no bound, and memory has.

A broker limits a batch as it is sent. Thirty kilobytes of zstd can hold a gigabyte, so nothing here makes more at once
than a piece, or a block of snappy of up to `BLOCK_BYTES`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from typing import Any

import snappy

PIECE_BYTES = 2**20
"""Largest piece handed out."""
BLOCK_BYTES = 16 * 2**20
"""A block of snappy is unpacked as a whole up to this size, and above it by our own, slower, way, in pieces."""
MAX_WINDOW_BYTES = 2**27
"""Window of a zstd frame, at most: that of the highest level, 22."""
_FEED_BYTES = 2**16
_SNAPPY_WINDOW = 2**16
_LONGEST_COPY = 64
_MAX_COPIES = PIECE_BYTES // _LONGEST_COPY
_XERIAL = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16
CODECS = {1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
"""By their number in a batch's attributes."""


class BrokenDataError(ValueError):
    """Compressed data that nobody can unpack. The text completes “its records …”."""


def pieces(codec: int, data: bytes) -> Iterator[bytes]:
    """Unpack `data` in pieces that are not empty. Raises `BrokenDataError`."""
    try:
        yield from _gathered(_READERS[codec](data))
    except (BrokenDataError, MemoryError):
        raise
    except Exception as error:  # the errors of the libraries have no common class
        raise BrokenDataError(f"are no valid {CODECS[codec]}: {error}") from error


def _gathered(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Small parts in one piece: who waits for the rest of a large record appends each to what there is."""
    waiting: list[bytes] = []
    num_bytes = 0
    for part in parts:
        if waiting and num_bytes + len(part) > PIECE_BYTES:
            yield b"".join(waiting)
            waiting, num_bytes = [], 0
        waiting.append(part)
        num_bytes += len(part)
    if num_bytes:
        yield b"".join(waiting)


def _piece_bytes(data: bytes) -> int:
    """How much to ask for at once: asking for more than there is costs time, too."""
    return max(2**16, min(PIECE_BYTES, 8 * len(data)))


def _gzip(data: bytes) -> Iterator[bytes]:
    return _framed(lambda: _Gzip(), data, "gzip")


def _lz4(data: bytes) -> Iterator[bytes]:
    import lz4.frame  # here, as zstandard below: free-threaded Python takes its lock back for either

    return _framed(lambda: lz4.frame.LZ4FrameDecompressor(), data, "lz4")


class _Gzip:
    """`zlib`'s decompressor behind the methods that lz4's has."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _framed(make: Any, data: bytes, name: str) -> Iterator[bytes]:
    """Frames, or members, one behind the other. Input goes in a little at a time: what a decoder has not used it
    copies at every call."""
    size, frame, pos, left_over = _piece_bytes(data), make(), 0, b""
    while True:
        if frame.eof:
            rest = frame.unused_data or b""
            if not rest and pos >= len(data):
                return
            if not (rest + data[pos : pos + _FEED_BYTES]).strip(b"\0"):  # padding, as gzip itself allows
                if pos + _FEED_BYTES >= len(data):
                    return
                raise BrokenDataError(f"are no valid {name}: there are bytes behind the last frame")
            frame, left_over = make(), rest
        if left_over:
            fed, left_over = left_over, b""
        elif frame.needs_input:
            fed, pos = data[pos : pos + _FEED_BYTES], pos + _FEED_BYTES
        else:
            fed = b""
        made = frame.decompress(fed, size)
        if made:
            yield made
        elif not frame.eof and (not (fed or frame.needs_input) or (pos >= len(data) and frame.needs_input)):
            raise BrokenDataError(f"are cut short: {name} ends in the middle of a frame")


def _zstd(data: bytes) -> Iterator[bytes]:
    import zstandard

    size = _piece_bytes(data)
    decoder = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    with decoder.stream_reader(data, read_across_frames=True) as reader:
        while made := reader.read(size):
            yield made


def _snappy(data: bytes) -> Iterator[bytes]:
    """Either one block, or blocks behind a header and with their lengths in front, as Java's library writes them."""
    if not data.startswith(_XERIAL):
        yield from _snappy_block(data)
        return
    pos = _XERIAL_HEADER_BYTES
    while pos < len(data):
        length = int.from_bytes(data[pos : pos + 4], "big", signed=True)
        pos += 4
        if length < 0 or pos + length > len(data):
            raise BrokenDataError("are cut short: a block of snappy is not as long as it says")
        yield from _snappy_block(data[pos : pos + length])
        pos += length


def _snappy_block(block: bytes) -> Iterator[bytes]:
    announced, pos = _announced(block)
    if announced > BLOCK_BYTES:
        yield from _snappy_slowly(block, pos, announced)
        return
    whole = snappy.decompress(block)
    for start in range(0, len(whole), PIECE_BYTES):
        yield whole[start : start + PIECE_BYTES]


def _announced(block: bytes) -> tuple[int, int]:
    """How long a block says it will be, and where its data begin."""
    number = 0
    for pos, byte in enumerate(block[:5]):
        number |= (byte & 127) << (7 * pos)
        if byte < 128:
            return number, pos + 1
    raise BrokenDataError("are no valid snappy: a block has no length")


def _snappy_slowly(block: bytes, pos: int, announced: int) -> Iterator[bytes]:
    """A large block, in pieces. Copies reach back 64 KiB, which is as far as compressors of snappy look."""
    made, num_made, num_given = bytearray(), 0, 0
    while pos < len(block):
        tag = block[pos]
        kind, pos = tag & 3, pos + 1
        if kind == 0:  # bytes as they are
            length = tag >> 2
            if length >= 60:
                num_more = length - 59
                length, pos = int.from_bytes(block[pos : pos + num_more], "little"), pos + num_more
            length += 1
            if pos + length > len(block):
                raise BrokenDataError("are cut short: snappy ends in the middle of a block")
            made += block[pos : pos + length]
            pos += length
        else:  # a copy of what is there already
            num_more = (1, 2, 4)[kind - 1]
            offset, pos = int.from_bytes(block[pos : pos + num_more], "little"), pos + num_more
            length = (tag >> 2) + 1
            if kind == 1:
                offset, length = offset | (tag >> 5) << 8, ((tag >> 2) & 7) + 4
            if not 0 < offset <= len(made):
                raise BrokenDataError("are no valid snappy: a copy reaches too far back")
            if kind == 2 and length == _LONGEST_COPY:  # many of the same one behind the other are one long one
                again = re.compile(b"(?:%s){0,%d}" % (re.escape(block[pos - 3 : pos]), _MAX_COPIES)).match(block, pos)
                assert again is not None  # none is enough
                length, pos = length * (1 + (again.end() - pos) // 3), again.end()
            start = len(made) - offset
            copied = made[start : start + length]
            while len(copied) < length:  # what it copies it is just making
                copied += copied[: length - len(copied)]  # doubling: a whole number of times what repeats
            made += copied
        num_made = num_given + len(made)
        if num_made > announced:
            raise BrokenDataError("are no valid snappy: a block is longer than it says")
        if len(made) >= PIECE_BYTES + _SNAPPY_WINDOW:
            yield bytes(made[:-_SNAPPY_WINDOW])
            num_given += len(made) - _SNAPPY_WINDOW
            del made[:-_SNAPPY_WINDOW]
    if num_made != announced:
        raise BrokenDataError("are cut short: snappy ends in the middle of a block")
    if made:
        yield bytes(made)


_READERS = {1: _gzip, 2: _snappy, 3: _lz4, 4: _zstd}
