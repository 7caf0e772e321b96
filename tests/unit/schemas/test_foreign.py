"""A value in another format is refused by the name of that format."""

from __future__ import annotations

import base64
import bz2
import gzip
import json
import lzma
import pickle
import time
import zlib
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zstandard

from schemas import MESSAGES, NewItem, Reason, SchemaError, UserEvent, decode, encode
from schemas.foreign import LOOKED_AT, looks_like
from tests.contract.schemas.golden import EXAMPLES

FIELDS = {"item_id": "i", "revision": 1, "event_time_ms": 1_767_225_600_000, "title": "Grüße"}
JSON = json.dumps(FIELDS).encode()
MESSAGE = encode(EXAMPLES["NewItem"])
AVRO = b"\x02i\x02\x80\xd0\x92\xa8\xf5f"
PROTOBUF = b"\x0a\x06item-1\x10\x01\x18\x80\xb0\xb7\xe1\xb73"
FRAME = b"\x00\x00\x00\x00\x2a"

FOREIGN = {
    "JSON": [JSON, b"  \n" + JSON, json.dumps(FIELDS, indent=2).encode(), b"null", b"17", JSON[:20], JSON * 2],
    "a JSON array": [json.dumps([FIELDS]).encode()],
    "a JSON string": [json.dumps("{}").encode()],
    "JSON with a byte-order mark (UTF-8)": [b"\xef\xbb\xbf" + JSON],
    "JSON with a byte-order mark (UTF-16-LE)": [b"\xff\xfe" + JSON.decode().encode("utf-16-le")],
    "plain text with a byte-order mark (UTF-8)": [b"\xef\xbb\xbfitem 1"],
    "JSON (a CloudEvent)": [json.dumps({"specversion": "1.0", "type": "item", "data": FIELDS}).encode()],
    "JSON (a Debezium change event)": [json.dumps({"before": None, "after": FIELDS, "op": "c"}).encode()],
    "JSON (with a schema, as Kafka Connect": [json.dumps({"schema": {"type": "struct"}, "payload": FIELDS}).encode()],
    "a Python dict that was printed as text": [repr(FIELDS).encode()],
    "JSON behind the header of a schema registry (Confluent framing, schema id 42)": [FRAME + JSON],
    "Protobuf behind the header of a schema registry": [FRAME + b"\x00" + PROTOBUF],
    "Avro or Protobuf behind the header of a schema registry": [FRAME + AVRO, FRAME + b"\x02\x00" + PROTOBUF],
    "Protobuf": [PROTOBUF],
    "gzip": [gzip.compress(MESSAGE)],
    "zstd": [zstandard.compress(MESSAGE)],
    "zlib": [zlib.compress(MESSAGE), zlib.compress(MESSAGE, 9), zlib.compress(MESSAGE, 1)],
    "bzip2": [bz2.compress(MESSAGE)],
    "xz": [lzma.compress(MESSAGE)],
    "LZ4": [b"\x04\x22\x4d\x18\x64\x40\xa7"],
    "Snappy": [b"\x82SNAPPY\x00\x00\x00\x00\x01", b"\xff\x06\x00\x00sNaPpY"],
    "XML": [b"<item><id>i</id></item>", b'<?xml version="1.0"?><item/>'],
    "plain text": [b"item 1 has changed", b"item_id,revision\ni,1\n", "Grüße".encode()],
    "base64 of a msgpack map": [base64.b64encode(MESSAGE), base64.urlsafe_b64encode(MESSAGE)],
    "hexadecimal digits of a msgpack map": [MESSAGE.hex().encode()],
    "base64": [base64.b64encode(bytes(range(200)))],
    "a Python pickle": [pickle.dumps(FIELDS, protocol) for protocol in range(6)],
    "Parquet": [b"PAR1\x15\x04\x15"],
    "Arrow": [b"ARROW1\x00\x00"],
    "an Arrow stream": [b"\xff\xff\xff\xff\x00\x01\x00\x00"],
    "ORC": [b"ORC\x0a"],
    "an Avro file": [b"Obj\x01\x04"],
    "CBOR": [b"\xa2\x67item_idai\x68revision\x01"],
    "a serialized Java object": [b"\xac\xed\x00\x05sr"],
    "a JPEG image": [b"\xff\xd8\xff\xe0\x00\x10JFIF"],
    "a PNG image": [b"\x89PNG\r\n\x1a\n"],
    "nothing (0 bytes; a deletion is a record without a value)": [b""],
}
CASES = [(name, value) for name, values in FOREIGN.items() for value in values]


@pytest.mark.parametrize("message", [NewItem, UserEvent])
@pytest.mark.parametrize(("name", "value"), CASES, ids=[f"{name}, {index}" for index, (name, _) in enumerate(CASES)])
def test_a_value_in_another_format_is_refused_by_its_name(message: Callable[..., Any], name: str, value: bytes) -> None:
    with pytest.raises(SchemaError) as caught:
        decode(message, value)
    assert caught.value.reason is Reason.NOT_MSGPACK
    assert str(caught.value).startswith(f"looks like {name}")
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("inner", "name"),
    [(MESSAGE, "a msgpack map, packed a second time"), (JSON, "JSON"), (gzip.compress(MESSAGE), "gzip")],
)
def test_a_value_that_was_packed_twice_is_refused_as_that(inner: bytes, name: str) -> None:
    with pytest.raises(SchemaError, match=f"should be a map, got bin, which looks like {name}") as caught:
        decode(NewItem, msgpack.packb(inner))
    assert caught.value.reason is Reason.INVALID_FIELD


def test_a_str_that_holds_json_is_refused_as_that() -> None:
    with pytest.raises(SchemaError, match="should be a map, got str, which looks like JSON"):
        decode(NewItem, msgpack.packb(JSON.decode()))


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_was_cut_off_is_not_taken_for_another_format(name: str) -> None:
    data = encode(EXAMPLES[name])
    for end in range(1, len(data)):
        with pytest.raises(SchemaError) as caught:
            decode(MESSAGES[name], data[:end])
        assert "looks like" not in str(caught.value)


def test_a_large_value_is_told_by_its_beginning_and_quickly() -> None:
    large = json.dumps({"item_id": "i", "vector": [0.123456] * 500_000}).encode()
    assert len(large) > 100 * LOOKED_AT
    started = time.thread_time()
    for _ in range(20):
        assert looks_like(large) == "JSON"
        assert looks_like("ü".encode() * 1_000_000) == "plain text"
        assert looks_like(bytes(5) + b"\x7b" * 1_000_000) is None
    assert (time.thread_time() - started) / 60 < 0.02
