"""Batches as brokers send them, made by hand, so that they can hold what no client writes."""

from __future__ import annotations

import gzip
from collections.abc import Sequence

import lz4.frame
import snappy
import zstandard
from crc32c import crc32c

CODECS = {"none": 0, "gzip": 1, "snappy": 2, "xerial": 2, "lz4": 3, "zstd": 4}


def varint(number: int) -> bytes:
    zigzag, made = (number << 1) ^ (number >> 63), bytearray()
    while zigzag > 127:
        made.append(128 | zigzag & 127)
        zigzag >>= 7
    made.append(zigzag)
    return bytes(made)


def sized(data: bytes | None) -> bytes:
    return varint(-1) if data is None else varint(len(data)) + data


def record(
    delta: int, key: bytes | None, value: bytes | None, headers: Sequence[tuple[bytes, bytes | None]] = ()
) -> bytes:
    parts = [b"\0", varint(delta), varint(delta), sized(key), sized(value), varint(len(headers))]
    parts += [sized(name) + sized(data) for name, data in headers]
    return sized(b"".join(parts))


def compressed(data: bytes, codec: str) -> bytes:
    match codec:
        case "gzip":
            return gzip.compress(data, 1)
        case "snappy":
            return snappy.compress(data)
        case "xerial":
            blocks = [snappy.compress(data[start : start + 32_768]) for start in range(0, len(data), 32_768)]
            head = b"\x82SNAPPY\x00" + (1).to_bytes(4, "big") * 2
            return head + b"".join(len(block).to_bytes(4, "big") + block for block in blocks)
        case "lz4":
            return lz4.frame.compress(data, block_linked=False)
        case "zstd":
            return zstandard.ZstdCompressor().compress(data)
    return data


def batch(
    base: int,
    records: Sequence[bytes],
    codec: str = "none",
    *,
    count: int | None = None,
    last_delta: int | None = None,
    attributes: int | None = None,
    payload: bytes | None = None,
) -> bytes:
    """A batch whose checksum is right, whatever else is wrong with it."""
    packed = compressed(b"".join(records), codec) if payload is None else payload
    head = b"".join(
        (
            (CODECS[codec] if attributes is None else attributes).to_bytes(2, "big"),
            (len(records) - 1 if last_delta is None else last_delta).to_bytes(4, "big", signed=True),
            (1_000).to_bytes(8, "big") * 2,
            (-1).to_bytes(8, "big", signed=True),
            (-1).to_bytes(2, "big", signed=True),
            (-1).to_bytes(4, "big", signed=True),
            (len(records) if count is None else count).to_bytes(4, "big", signed=True),
        )
    )
    return sealed(base, head + packed)


def sealed(base: int, covered: bytes, magic: int = 2) -> bytes:
    checked = magic.to_bytes(1, "big") + crc32c(covered).to_bytes(4, "big") + covered
    return base.to_bytes(8, "big", signed=True) + (4 + len(checked)).to_bytes(4, "big") + bytes(4) + checked
