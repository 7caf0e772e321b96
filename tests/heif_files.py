"""Photos as cameras write them: tiles of a coded picture in boxes, put together by what the boxes say."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
from av.codec import CodecContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray
from PIL import Image

TILE = 64


def avif_grid(tiles: Sequence[NDArray[np.uint8]], columns: int) -> bytes:
    """Of tiles of 64 x 64 pixels, row by row."""
    coded = [_avif_tile(tile) for tile in tiles]
    return _photo(b"avif", b"av01", b"av1C", coded, columns)


def heic_grid(tiles: Sequence[NDArray[np.uint8]], columns: int, brand: bytes = b"heic") -> bytes:
    """As a telephone takes it."""
    coded = [_hevc_tile(tile.tobytes()) for tile in tiles]
    return _photo(brand, b"hvc1", b"hvcC", coded, columns)


def _photo(brand: bytes, kind: bytes, setup: bytes, coded: Sequence[tuple[bytes, bytes]], columns: int) -> bytes:
    """`coded` are the codec's set-up and the data of each tile."""
    rows, num = len(coded) // columns, len(coded)
    whole = num + 1
    grid = bytes([0, 0, rows - 1, columns - 1]) + _u16(columns * TILE) + _u16(rows * TILE)
    entries = [_full(b"infe", 2, _u16(number) + _u16(0) + kind + b"\0", flags=1) for number in range(1, num + 1)]
    entries.append(_full(b"infe", 2, _u16(whole) + _u16(0) + b"grid\0"))
    properties = [
        _box(setup, coded[0][0]),
        _full(b"ispe", 0, _u32(TILE) + _u32(TILE)),
        _full(b"ispe", 0, _u32(columns * TILE) + _u32(rows * TILE)),
        _full(b"pixi", 0, bytes([3, 8, 8, 8])),
    ]
    uses = [(number, (0x81, 2, 4)) for number in range(1, num + 1)] + [(whole, (3, 4))]
    associations = b"".join(_u16(item) + bytes([len(used), *used]) for item, used in uses)

    def meta(start: int) -> bytes:
        places = b""
        for number, data in enumerate([*(data for _, data in coded), grid], 1):
            places += _u16(number) + _u16(0) + _u16(1) + _u32(start) + _u32(len(data))
            start += len(data)
        return _full(
            b"meta", 0,
            _full(b"hdlr", 0, _u32(0) + b"pict" + bytes(12) + b"\0")
            + _full(b"pitm", 0, _u16(whole))
            + _full(b"iloc", 0, bytes([0x44, 0]) + _u16(whole) + places)
            + _full(b"iinf", 0, _u16(whole) + b"".join(entries))
            + _full(b"iref", 0, _box(b"dimg", _u16(whole) + _u16(num) + b"".join(map(_u16, range(1, num + 1)))))
            + _box(b"iprp", _box(b"ipco", b"".join(properties)) + _full(b"ipma", 0, _u32(len(uses)) + associations)),
        )  # fmt: skip

    head = _box(b"ftyp", brand + _u32(0) + b"mif1" + b"miaf" + brand)
    start = len(head) + len(meta(0)) + 8
    return head + meta(start) + _box(b"mdat", b"".join(data for _, data in coded) + grid)


def _avif_tile(pixels: NDArray[np.uint8]) -> tuple[bytes, bytes]:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "AVIF", quality=90, subsampling="4:2:0")
    return _payload(file.getvalue(), b"av1C"), _payload(file.getvalue(), b"mdat")


@cache
def _hevc_tile(pixels: bytes) -> tuple[bytes, bytes]:
    encoder: Any = CodecContext.create("libx265", "w")
    encoder.width, encoder.height, encoder.pix_fmt, encoder.time_base = TILE, TILE, "yuv420p", Fraction(1, 1)
    encoder.options = {"x265-params": "log-level=none:pools=1"}
    frame = VideoFrame.from_ndarray(np.frombuffer(pixels, np.uint8).reshape(TILE, TILE, 3), format="rgb24")
    frame.pts, frame.time_base = 0, Fraction(1, 1)
    stream = b"".join(bytes(packet) for packet in [*encoder.encode(frame), *encoder.encode(None)])
    units = [unit for unit in re.split(b"\0\0\0?\1", stream) if unit]
    parameters = [unit for unit in units if (unit[0] >> 1) & 0x3F in (32, 33, 34)]
    setup = bytes([1, 1]) + _u32(0x60000000) + bytes(6) + bytes([30, 0xF0, 0, 0xFC, 0xFD, 0xF8, 0xF8, 0, 0, 0x0F])
    setup += bytes([len(parameters)])
    for unit in parameters:
        setup += bytes([(unit[0] >> 1) & 0x3F]) + _u16(1) + _u16(len(unit)) + unit
    return setup, b"".join(_u32(len(unit)) + unit for unit in units if unit not in parameters)


def _payload(data: bytes, kind: bytes) -> bytes:
    """Of the first box of a kind, wherever it lies."""
    start = data.index(kind)
    return data[start + 4 : start - 4 + int.from_bytes(data[start - 4 : start])]


def _box(kind: bytes, payload: bytes) -> bytes:
    return _u32(8 + len(payload)) + kind + payload


def _full(kind: bytes, version: int, payload: bytes, flags: int = 0) -> bytes:
    return _box(kind, bytes([version]) + flags.to_bytes(3) + payload)


def _u16(value: int) -> bytes:
    return value.to_bytes(2)


def _u32(value: int) -> bytes:
    return value.to_bytes(4)
