"""Messages one after another in a stream of bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Limits, Reason, SchemaError, encode, split_messages
from tests.unit.schemas import strategies


def chunked(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@given(messages=st.lists(strategies.new_items | strategies.user_events, max_size=5), size=st.integers(1, 200))
def test_messages_come_back_whole_however_the_stream_is_cut(messages: Any, size: Any) -> None:
    encoded = [encode(message) for message in messages]
    assert list(split_messages(chunked(b"".join(encoded), size))) == encoded


def test_a_message_is_handed_out_as_soon_as_it_is_complete() -> None:
    messages = split_messages(iter([b"\x80\x81", b"\x01\x02\xc1"]))
    assert next(messages) == b"\x80"
    assert next(messages) == b"\x81\x01\x02"
    with pytest.raises(SchemaError) as caught:
        next(messages)
    assert caught.value.reason is Reason.NOT_MSGPACK


def test_an_end_in_the_middle_of_a_message_is_an_error() -> None:
    messages = split_messages([msgpack.packb({"a": 1}), msgpack.packb({"b": b"x" * 100})[:-1]])
    assert next(messages) == msgpack.packb({"a": 1})
    with pytest.raises(SchemaError, match="end in the middle"):
        next(messages)


def test_a_length_that_is_only_announced_does_not_fill_the_memory() -> None:
    announced, limits = b"\xc6\xff\xff\xff\xff", Limits(dead_letter_bytes=10_000)
    num_read = 0

    def chunks() -> Iterator[Any]:
        nonlocal num_read
        yield announced
        while True:
            num_read += 1_000
            yield b"x" * 1_000

    with pytest.raises(SchemaError) as caught:
        next(split_messages(chunks(), limits))
    assert caught.value.reason is Reason.TOO_LARGE
    assert num_read < 12_000


def test_deep_nesting_is_an_error_and_no_crash() -> None:
    with pytest.raises(SchemaError, match="nested too deeply"):
        list(split_messages([b"\x91" * 5_000]))
