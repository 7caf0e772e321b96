from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Feature, NewItem, UserEvent, encode
from tests.unit.schemas import strategies
from worker.data.files import read_events, read_items, write_events, write_items
from worker.errors import DataError

SUFFIXES = ["", ".gz", ".zst"]


def item(number: int) -> NewItem:
    feature = Feature.from_numpy([float(number), 1.0], encoder="e")
    return NewItem(item_id=f"item-{number}", revision=1, event_time_ms=2, features={"text": feature})


def event(number: int) -> UserEvent:
    return UserEvent(event_id=f"{number}", user_id="u", item_id="i", event_type="view", event_time_ms=number)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(items=st.lists(strategies.new_items, max_size=4), events=st.lists(strategies.user_events, max_size=4))
@settings(deadline=None, max_examples=30)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, items: Any, events: Any
) -> None:
    directory = tmp_path_factory.mktemp("files")
    assert write_items(directory / f"items.msgpack{suffix}", items) == len(items)
    assert write_events(directory / f"events.msgpack{suffix}", events) == len(events)
    assert list(read_items(directory / f"items.msgpack{suffix}")) == items
    assert list(read_events(directory / f"events.msgpack{suffix}")) == events


def test_a_file_is_the_encoded_messages_one_after_another(tmp_path: Path) -> None:
    write_items(tmp_path / "items.msgpack", [item(1), item(2)])
    assert (tmp_path / "items.msgpack").read_bytes() == encode(item(1)) + encode(item(2))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_messages_make_the_same_file(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        write_items(tmp_path / f"{name}{suffix}", [item(1), item(2)])
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_compression_is_told_from_the_content(tmp_path: Path) -> None:
    plain = b"".join(encode(item(number)) for number in range(3))
    for name, data in (("one", gzip.compress(plain)), ("two", zstandard.compress(plain))):
        (tmp_path / name).write_bytes(data)
        assert list(read_items(tmp_path / name)) == [item(number) for number in range(3)]


def test_parts_compressed_one_by_one_may_be_concatenated(tmp_path: Path) -> None:
    for name, compress in (("one", gzip.compress), ("two", zstandard.compress)):
        (tmp_path / name).write_bytes(b"".join(compress(encode(item(number))) for number in range(3)))
        assert list(read_items(tmp_path / name)) == [item(number) for number in range(3)]


def test_reading_is_lazy(tmp_path: Path) -> None:
    path = tmp_path / "items.msgpack"
    path.write_bytes(encode(item(1)) + b"\xc1")
    items = read_items(path)
    assert next(items) == item(1)
    with pytest.raises(DataError):
        next(items)


def message_of(read: Any, path: Any) -> str:
    with pytest.raises(DataError) as caught:
        list(read(path))
    return str(caught.value)


def test_a_bad_message_is_named_with_its_place_and_field(tmp_path: Path) -> None:
    path = tmp_path / "events.msgpack"
    good = encode(event(1))
    path.write_bytes(good * 2 + good.replace(b"\xa4view", b"\xc4\x04view") + good)
    assert message_of(read_events, path) == (
        f"{path}: UserEvent 3, at byte {2 * len(good)}: event_type: should be a str, got bin"
    )


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "events.msgpack"
    path.write_bytes(encode(event(1)) + encode(event(2))[:-1])
    assert re.search(r"UserEvent 2, at byte \d+: the data end in the middle", message_of(read_events, path))


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_cut_compressed_file_is_an_error(tmp_path: Path, compress: Callable[..., Any]) -> None:
    path = tmp_path / "events.msgpack"
    data = compress(b"".join(encode(event(number)) for number in range(2_000)))
    path.write_bytes(data[: len(data) // 2])
    assert str(path) in message_of(read_events, path)


def test_items_are_not_taken_for_events(tmp_path: Path) -> None:
    path = tmp_path / "items.msgpack"
    write_items(path, [item(1)])
    assert "UserEvent 1, at byte 0: event_id: is missing" in message_of(read_events, path)


def test_a_file_of_something_else_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text('{"item_id": "1"}')
    assert "NewItem 1, at byte 0: looks like JSON: the message should be a map" in message_of(read_items, path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert message_of(read_items, tmp_path / "none") == f"{tmp_path / 'none'}: there is no such file"
    assert "cannot be read" in message_of(read_items, tmp_path)


def test_an_unfinished_file_never_takes_the_name(tmp_path: Path) -> None:
    path = tmp_path / "events.msgpack"
    write_events(path, [event(1)])

    def interrupted() -> Iterator[Any]:
        yield event(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_events(path, interrupted())
    assert list(read_events(path)) == [event(1)]
    assert [found.name for found in tmp_path.iterdir()] == ["events.msgpack"]


def test_folders_are_made_and_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    assert write_events(tmp_path / "new" / "deep" / "events.msgpack", [event(1)]) == 1
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'file' / 'x'}: cannot be written")):
        write_events(tmp_path / "file" / "x", [event(1)])


def test_a_pipe_or_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert write_events(pipe, [event(1)]) == 1
        assert pipe.is_fifo()
        assert os.read(reader, 65_536) == encode(event(1))
    finally:
        os.close(reader)
    assert [found.name for found in tmp_path.iterdir()] == ["pipe"]


def test_a_link_goes_on_leading_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "events.msgpack"
    link.symlink_to(tmp_path / "there" / "events.msgpack")
    for number in (1, 2):
        write_events(link, [event(number)])
        assert link.is_symlink()
        assert list(read_events(tmp_path / "there" / "events.msgpack")) == [event(number)]
    with pytest.raises(DataError, match="cannot be written: Is a directory"):
        write_events(tmp_path / "there", [event(1)])
