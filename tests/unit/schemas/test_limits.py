from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import msgpack
import pytest

from schemas import (
    DEFAULT_LIMITS,
    Content,
    DeadLetter,
    Feature,
    ItemVector,
    Limits,
    NewItem,
    Reason,
    SchemaError,
    Tensor,
    decode,
    encode,
)
from schemas.limits import CROWDED_BYTES


def item(**more: Any) -> NewItem:
    return NewItem(item_id="item", revision=1, event_time_ms=2, **more)


def letter(**more: Any) -> DeadLetter:
    return DeadLetter(
        topic="items", partition=0, offset=1, timestamp=2, reason="not_msgpack", stage="decode", worker_version="1",
        failed_at_ms=4, **more,
    )  # fmt: skip


def feature(*shape: int) -> Feature:
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    return Feature(dtype="i1", shape=shape, data=bytes(count), scale=1.0, encoder="e")


def vector(**more: Any) -> ItemVector:
    values = Tensor(dtype="f2", shape=(1,), data=bytes(2))
    return ItemVector(
        item_id="item", revision=1, event_time_ms=2, space_id="s", vector=values, modalities=("text",),
        produced_at_ms=3, **more,
    )  # fmt: skip


def with_unknown(message: NewItem, unknown: object) -> bytes:
    return msgpack.packb({**msgpack.unpackb(encode(message)), "unknown": unknown})


CROWD: list[Any] = [[]] * 50 + [bytes(CROWDED_BYTES)]
EXACTLY = {
    "message_bytes": (NewItem, encode(item()), len(encode(item()))),
    "dead_letter_bytes": (DeadLetter, encode(letter()), len(encode(letter()))),
    "map_keys": (NewItem, with_unknown(item(), {str(i): i for i in range(20)}), 20),
    "array_items": (NewItem, with_unknown(item(), [1] * 20), 20),
    "containers": (NewItem, with_unknown(item(), CROWD), 52),  # the message, the list and the 50 in it
    "id_chars": (NewItem, encode(item(neighbors=["é" * 20])), 20),
    "name_chars": (NewItem, encode(item(features={"é" * 20: feature(1)})), 20),
    "text_chars": (NewItem, encode(item(content={"text": Content(text="é" * 20)})), 20),
    "uri_chars": (NewItem, encode(item(content={"image": Content(uri="é" * 20)})), 20),
    "detail_chars": (DeadLetter, encode(letter(detail="é" * 20)), 20),
    "modalities": (NewItem, encode(item(features={str(i): feature(1) for i in range(20)})), 20),
    "neighbors": (NewItem, encode(item(neighbors=["n"] * 20)), 20),
    "attributes": (NewItem, encode(item(attributes={str(i): i for i in range(20)})), 20),
    "attribute_chars": (NewItem, encode(item(attributes={"tags": ["a", "é" * 20]})), 20),
    "attribute_values": (NewItem, encode(item(attributes={"tags": ["t"] * 20})), 20),
    "code_levels": (ItemVector, encode(vector(codes=(1,) * 12)), 12),
    "headers": (DeadLetter, encode(letter(headers=[("h", b"")] * 20)), 20),
    "dims": (NewItem, encode(item(features={"image": feature(30, 20)})), 20),
    "vectors": (NewItem, encode(item(features={"image": feature(20, 30)})), 20),
}
"""A message that has exactly so much of what each limit bounds."""


def test_every_limit_is_tried() -> None:
    assert list(EXACTLY) == [field.name for field in fields(Limits)]


@pytest.mark.parametrize("name", EXACTLY)
def test_a_stricter_reader_takes_what_meets_its_limit_and_refuses_one_more(name: str) -> None:
    message, data, size = EXACTLY[name]
    contract: Any = decode(message, data)
    assert decode(message, data, limits=replace(DEFAULT_LIMITS, **{name: size})) == contract
    with pytest.raises(SchemaError) as caught:
        decode(message, data, limits=replace(DEFAULT_LIMITS, **{name: size - 1}))
    assert caught.value.reason is Reason.TOO_LARGE


@pytest.mark.parametrize("name", EXACTLY)
@pytest.mark.parametrize("change", [1, -(10**9)])
def test_no_reader_is_laxer_than_the_contract(name: str, change: int) -> None:
    value = max(0, getattr(DEFAULT_LIMITS, name) + change)
    with pytest.raises(ValueError, match=rf"limits\.{name} must be between 1 and"):
        Limits(**{name: value})


@pytest.mark.parametrize(
    ("name", "build"),
    [
        ("id_chars", lambda size: item(neighbors=["é" * size])),
        ("name_chars", lambda size: item(features={"é" * size: feature(1)})),
        ("text_chars", lambda size: item(content={"text": Content(text="\U0001f600" * size)})),
        ("uri_chars", lambda size: item(content={"image": Content(uri="\U0001f600" * size)})),
        ("modalities", lambda size: item(content={str(i): Content(text="") for i in range(size)})),
        ("neighbors", lambda size: item(neighbors=["n"] * size)),
        ("dims", lambda size: item(features={"image": feature(size)})),
        ("vectors", lambda size: item(features={"image": feature(size, 3)})),
    ],
)
def test_writers_are_bound_by_the_contract(name: str, build: Callable[..., Any]) -> None:
    size = getattr(DEFAULT_LIMITS, name)
    largest = build(size)
    assert decode(NewItem, encode(largest)) == largest
    with pytest.raises(ValueError, match=r"at most|less than or equal"):
        build(size + 1)


def nested(depth: int) -> bytes:
    return b"\xdc\x04\x00" * depth  # each announces 1,024 elements


LARGEST = DEFAULT_LIMITS.message_bytes
ROW = b"\xdc\x04\x00"
BOMBS = {
    "a length of 4 GiB": b"\x81\xa1x\xdd\xff\xff\xff\xff",
    "1,000 open arrays of 1,024": b"\x81\xa1x" + nested(1_000),
    "16 MiB of empty maps": b"\x81\xa1x" + ROW + (ROW + b"\x80" * 1_024) * (LARGEST // 1_100),
    "16 MiB of floats in arrays": b"\x81\xa1x\xdc\x04\x00" + (ROW + b"\xca\0\0\0\1" * 1_024) * 1_024,
    "16 MiB of short strings": b"\x81\xa1x\xdc\x04\x00" + (ROW + b"\xa2ab" * 1_024) * 1_024,
    "64 KiB of empty arrays": b"\x81\xa1x\xdc\x00\x3c" + (ROW + b"\x90" * 1_024) * 60,
}


@pytest.mark.parametrize("name", BOMBS)
def test_no_message_takes_much_more_memory_than_its_size(name: str) -> None:
    data = BOMBS[name][:LARGEST]
    tracemalloc.start()
    try:
        with pytest.raises(SchemaError):
            decode(NewItem, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 128 * 2**20


def test_arrays_in_a_small_message_are_not_counted() -> None:
    crowd: list[Any] = [[]] * 1_000
    assert decode(NewItem, with_unknown(item(), [crowd] * 50)) == item()
    with pytest.raises(SchemaError, match="more than 2048 maps and arrays"):
        decode(NewItem, with_unknown(item(), [crowd] * 50 + [bytes(CROWDED_BYTES)]))
