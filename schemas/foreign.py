"""Formats that other systems put on topics, told by their first bytes, to name what is not a message.

Looked at only when a value has already been refused, and never further than a few kilobytes, so that a topic full of
them costs no more than one full of messages. A guess helps a person; nothing is decided by it.
"""

from __future__ import annotations

import base64
import binascii
import re

LOOKED_AT = 4_096
"""Bytes that are looked at."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x04\x22\x4d\x18", "LZ4"),
    (b"\x82SNAPPY\x00", "Snappy"),
    (b"\xff\x06\x00\x00sNaPpY", "Snappy"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "Arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream"),
    (b"ORC", "ORC"),
    (b"Obj\x01", "an Avro file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "HDF5"),
    (b"\xac\xed\x00\x05", "a serialized Java object"),
    (b"\x00\x01\x00\x00\x00\xff\xff\xff\xff", "a serialized .NET object"),
    (b":)\n", "Smile"),
    (b"\xd9\xd9\xf7", "CBOR"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n", "a PNG image"),
    (b"GIF8", "a GIF image"),
    (b"%PDF", "PDF"),
)
_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_BOMS: tuple[tuple[bytes, str], ...] = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\x00\x00", "utf-32-le"),
    (b"\x00\x00\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
)
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}\s*")
_HEX = re.compile(rb"(?:[0-9a-fA-F]{2}){8,}\s*")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?")
_FRAMED_BYTES = 5
"""The header that a schema registry's serializers write: 0 and the id of a schema."""


def looks_like(data: bytes) -> str | None:
    """The name of the format that a value seems to be in; None if it could be anything."""
    if not data:
        return "nothing (0 bytes; a deletion is a record without a value)"
    head = data[:LOOKED_AT]
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return _pickle(head) or _zlib(head) or _text(head) or _framed(head) or _cbor(head) or _protobuf(head, len(data))


def is_packed_map(data: bytes) -> bool:
    """Whether the bytes begin as a message does: a map whose first key is a str."""
    if not data:
        return False
    key = 1 if 0x81 <= data[0] <= 0x8F else {0xDE: 3, 0xDF: 5}.get(data[0], len(data))
    return key < len(data) and (0xA1 <= data[key] <= 0xBF or data[key] == 0xD9)


def _pickle(head: bytes) -> str | None:
    if head.startswith((b"(dp0\n", b"(lp0\n", b"ccopy_reg\n", b"}q\x00", b"]q\x00")):  # of protocol 0 and 1
        return "a Python pickle"
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5 and head[2:3] in b"\x95}]()cX\x8cNKJGq":
        return "a Python pickle"
    return None


def _zlib(head: bytes) -> str | None:
    return "zlib" if head.startswith(_ZLIB) and int.from_bytes(head[:2], "big") % 31 == 0 else None


def _text(head: bytes) -> str | None:
    """Name the format of a text, which may begin with a byte-order mark."""
    mark, encoding = next(((bom, name) for bom, name in _BOMS if head.startswith(bom)), (b"", "utf-8"))
    body = head[len(mark) :]
    if len(head) == LOOKED_AT:
        body = body[:-4]  # the last character may be cut
    try:
        text = body.decode(encoding, "strict" if len(head) < LOOKED_AT else "ignore")
    except UnicodeDecodeError:
        return f"text with a byte-order mark ({encoding.upper()})" if mark else None
    if not mark and not _is_printable(text):
        return None
    name = _text_format(text.strip(), body.strip())
    return f"{name} with a byte-order mark ({encoding.upper()})" if mark else name


def _is_printable(text: str) -> bool:
    return all(char.isprintable() or char in "\t\r\n" for char in text)


def _text_format(text: str, raw: bytes) -> str:
    if text.startswith("{"):
        return _json_object(text)
    if text.startswith("["):
        return "a JSON array"
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return "a JSON string"
    if text in ("null", "true", "false") or _NUMBER.fullmatch(text):
        return "JSON"
    if text.startswith("<"):
        return "XML"
    if (inner := _decoded(raw)) is not None:
        return inner
    return "plain text"


def _json_object(text: str) -> str:
    if '"specversion"' in text:
        return "JSON (a CloudEvent)"
    if '"op"' in text and ('"before"' in text or '"after"' in text or '"source"' in text):
        return "JSON (a Debezium change event)"
    if '"schema"' in text and '"payload"' in text:
        return "JSON (with a schema, as Kafka Connect and Debezium write it)"
    if text.startswith("{'"):
        return "a Python dict that was printed as text"
    return "JSON"


def _decoded(raw: bytes) -> str | None:
    """Name what base64 or hexadecimal digits hold."""
    for form, name in ((_HEX, "hexadecimal digits"), (_BASE64, "base64")):
        if form.fullmatch(raw) is None:
            continue
        digits = raw.strip()[:256]
        try:
            if form is _HEX:
                inner = bytes.fromhex(digits.decode())
            else:
                inner = base64.b64decode(digits[: len(digits) // 4 * 4].translate(bytes.maketrans(b"-_", b"+/")))
        except (binascii.Error, ValueError):
            continue
        if is_packed_map(inner):
            return f"{name} of a msgpack map"
        if form is _BASE64 and (raw.strip().endswith(b"=") or len(raw.strip()) >= 64):
            return name
    return None


def _framed(head: bytes) -> str | None:
    """A value behind the header of a schema registry, which says nothing of the format but what follows does."""
    if len(head) <= _FRAMED_BYTES or head[0] != 0:
        return None
    schema_id, body = int.from_bytes(head[1:_FRAMED_BYTES], "big"), head[_FRAMED_BYTES:]
    if not schema_id:
        return None
    if body.lstrip().startswith((b"{", b"[")):
        kind = "JSON"
    elif body[0] == 0 and len(body) > 1 and _is_tag(body[1]):
        kind = "Protobuf"
    else:
        kind = "Avro or Protobuf"
    return f"{kind} behind the header of a schema registry (Confluent framing, schema id {schema_id})"


def _cbor(head: bytes) -> str | None:
    """A map with a text for its first key."""
    if not (0xA1 <= head[0] <= 0xB7 or head[0] == 0xBF) or len(head) < 3 or not 0x61 <= head[1] <= 0x77:
        return None
    key = head[2 : 2 + head[1] - 0x60]
    return "CBOR" if key.isascii() and key.decode().isidentifier() else None


def _is_tag(byte: int) -> bool:
    """A field of one of the numbers 1 to 15 in the wire format of Protobuf."""
    return byte >> 3 > 0 and byte < 0x80 and byte & 7 in (0, 1, 2, 5)


def _protobuf(head: bytes, num_bytes: int) -> str | None:
    """Whether the bytes are fields of Protobuf from the first to the last."""
    position, num_fields = 0, 0
    while position < len(head):
        if not _is_tag(head[position]):
            return None
        kind = head[position] & 7
        position += 1
        if kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            value = shift = 0
            while True:
                if position >= len(head) or shift > 63:
                    return None
                byte = head[position]
                position += 1
                value |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            position += value if kind == 2 else 0
        num_fields += 1
    is_whole = position == num_bytes if num_bytes <= LOOKED_AT else position >= len(head)
    return "Protobuf" if is_whole and num_fields >= 2 else None
