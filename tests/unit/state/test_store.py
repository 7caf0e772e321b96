"""Both stores obey the same interface; what lies on a disk is used only where it can be trusted."""

import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.errors import ConfigError, StateError
from worker.state import MemoryStore, Stores
from worker.state.disk import MAX_AGE_S, DiskStore
from worker.state.input_log import InputLog, era_of

IDENTITY = {"group": "g", "topic": "user-state", "partition": "3"}
LONG = "ü" * 512


def opened(path: Any, now_s: Any = None, **identity: Any) -> DiskStore:
    return DiskStore(path / "store", {**IDENTITY, **identity}, time.time() if now_s is None else now_s)


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    made = MemoryStore() if request.param == "memory" else opened(tmp_path)
    yield made
    made.close()


def test_changes_and_their_offset_are_taken_over_together(store: Any) -> None:
    store.apply({"a": b"1", "b": b"2", LONG: b"long", "\x00": b"nul"}, 7)
    store.apply({"a": None, "b": b"3", "never": None}, 9)
    assert (store.get("a"), store.get("b"), store.get(LONG), store.get("\x00")) == (None, b"3", b"long", b"nul")
    assert dict(store.items()) == {"b": b"3", LONG: b"long", "\x00": b"nul"}
    assert (store.applied, len(store)) == (9, 3)
    assert store.num_bytes() > 0


def test_a_cleared_store_is_as_new(store: Any) -> None:
    store.apply({"a": b"1"}, 7)
    store.clear()
    assert (store.get("a"), dict(store.items()), store.applied) == (None, {}, 0)
    store.apply({"b": b"2"}, 1)
    assert dict(store.items()) == {"b": b"2"}


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.dictionaries(st.text(min_size=1, max_size=4), st.none() | st.binary(max_size=9), max_size=5), max_size=8
    )
)
def test_a_disk_holds_what_memory_holds(tmp_path_factory: pytest.TempPathFactory, batches: Any) -> None:
    disk, memory = opened(tmp_path_factory.mktemp("store")), MemoryStore()
    for number, changes in enumerate(batches):
        disk.apply(changes, number)
        memory.apply(changes, number)
    assert dict(disk.items()) == dict(memory.items())
    disk.close()


def test_what_was_closed_is_found_again(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store.close()
    again = opened(tmp_path)
    assert (again.get("a"), again.applied) == (b"1", 5)
    again.close()


def test_a_process_that_dies_leaves_what_it_applied(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:  # no close, no flush: as SIGKILL would
        opened(tmp_path).apply({"a": b"1"}, 5)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    again = opened(tmp_path)
    assert (again.get("a"), again.applied) == (b"1", 5)
    again.close()


@pytest.mark.parametrize("other", [{"group": "h"}, {"topic": "item-state"}, {"partition": "4"}])
def test_the_store_of_another_is_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, other: dict[str, Any]
) -> None:
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store.close()
    again = opened(tmp_path, **other)
    assert (again.get("a"), again.applied) == (None, 0)
    assert "belongs to" in caplog.text
    again.close()


def test_the_store_of_another_version_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("worker.state.disk.VERSION", 0)
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store.close()
    monkeypatch.undo()
    again = opened(tmp_path)
    assert again.applied == 0
    assert "'version': '0'" in caplog.text
    again.close()


def test_a_store_in_use_when_the_machine_stopped_is_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store._environment.close()
    monkeypatch.setattr("worker.state.disk._boot", lambda: "the next boot")
    again = opened(tmp_path)
    assert again.applied == 0
    assert "when the machine stopped" in caplog.text
    again.close()


def test_a_store_closed_in_an_earlier_boot_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store.close()
    monkeypatch.setattr("worker.state.disk._boot", lambda: "the next boot")
    again = opened(tmp_path)
    assert again.applied == 5
    again.close()


def test_a_store_so_old_that_tombstones_may_be_gone_is_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 5)
    store.close()
    again = opened(tmp_path, now_s=time.time() + MAX_AGE_S + 60)
    assert again.applied == 0
    assert "12 hours" in caplog.text
    again.close()


@pytest.mark.parametrize("garbage", [b"", b"not a store", os.urandom(65_536)])
def test_what_cannot_be_read_is_rebuilt(tmp_path: Path, caplog: pytest.LogCaptureFixture, garbage: bytes) -> None:
    opened(tmp_path).close()
    (tmp_path / "store" / "data.mdb").write_bytes(garbage)
    again = opened(tmp_path)
    assert again.applied == 0
    again.apply({"a": b"1"}, 1)
    assert again.get("a") == b"1"
    assert "store_rebuilt" in [record.__dict__["action"] for record in caplog.records]
    again.close()


@pytest.mark.parametrize("num_bytes", [4_096, 8_192, 12_288, 200_000])
def test_what_is_cut_short_is_rebuilt(tmp_path: Path, num_bytes: int) -> None:
    """In a process of its own, which reading what is not there would end."""
    store = opened(tmp_path)
    for number in range(10):
        store.apply({f"{number}-{n}": bytes(300) for n in range(100)}, number)
    store.close()
    os.truncate(tmp_path / "store" / "data.mdb", num_bytes)
    pid = os.fork()
    if pid == 0:
        again = opened(tmp_path)
        os._exit(0 if (again.applied, len(again), list(again.items())) == (0, 0, []) else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_file_in_the_place_of_a_store_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("?")
    store = opened(tmp_path)
    store.apply({"a": b"1"}, 1)
    store.close()


def test_a_full_store_is_an_error_that_names_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.state.disk._MAP_BYTES", 2**17)
    store = opened(tmp_path)
    with pytest.raises(StateError, match=r"state\.dir: the store in .* cannot be used"):
        store.apply({f"{n}": b"x" * 1_000 for n in range(1_000)}, 1_000)
    assert store.applied == 0
    store.close()


def test_a_disk_too_full_to_open_a_store_is_an_error_that_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.posix_fallocate", no_room)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(
        StateError, match=r"state\.dir: .*No space left on device; the disk is full: make room there, or"
    ):
        opened(tmp_path)


def test_a_directory_that_cannot_be_made_is_an_error_that_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"state\.dir: cannot use .*: Not a directory"):
        Stores(tmp_path / "file" / "below", "user-state", "g")


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    first = Stores(tmp_path, "user-state", "g")
    with pytest.raises(ConfigError, match="another process uses"):
        Stores(tmp_path, "user-state", "g")
    other = Stores(tmp_path, "item-state", "g")
    first.close()
    again = Stores(tmp_path, "user-state", "g")
    for stores in (other, again):
        stores.close()


@pytest.mark.parametrize("directory", [False, True], ids=["memory", "disk"])
def test_a_store_stays_open_until_its_partition_has_gone(tmp_path: Path, directory: bool) -> None:
    stores = Stores(tmp_path if directory else None, "user-state", "g")
    for partition in range(3):
        stores.open(partition).apply({"a": b"%d" % partition}, partition)
    stores.keep_only([0, 2])
    assert stores.open(0).get("a") == b"0"
    assert stores.size()[0] == 2
    assert stores.open(1).get("a") == (b"1" if directory else None)
    stores.close()


def test_a_store_remembers_which_log_its_values_come_from(store: Any) -> None:
    assert store.log is None
    store.apply({"a": b"1"}, 1, InputLog("x", 2))
    store.apply({"b": b"2"}, 2)
    assert store.log == InputLog("x", 2)
    assert (dict(store.items()), len(store)) == ({"a": b"1", "b": b"2"}, 2)
    store.clear()
    assert (store.log, len(store)) == (None, 0)


def test_the_log_is_found_again_on_disk(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.apply({}, 1, InputLog("x", 2))
    store.close()
    again = opened(tmp_path)
    assert (again.log, len(again)) == (InputLog("x", 2), 0)
    again.close()


@pytest.mark.parametrize("directory", [False, True], ids=["memory", "disk"])
@pytest.mark.parametrize("is_reopened", [False, True])
def test_what_was_made_of_another_changelog_is_forgotten(tmp_path: Path, directory: bool, is_reopened: bool) -> None:
    stores = Stores(tmp_path if directory else None, "user-state", "g")
    stores.open(0, "old").apply({"a": b"1"}, 1)
    assert stores.open(0, "old").get("a") == b"1"
    if is_reopened:
        stores.close()
        stores = Stores(tmp_path if directory else None, "user-state", "g")
    made = stores.open(0, "new")
    assert (made.get("a"), made.applied) == (None, 0)
    stores.close()


@given(st.integers(0, 200), st.integers(0, 2**43), st.integers(0, 200), st.integers(0, 2**43))
def test_places_are_ordered_by_log_and_then_by_offset(era: Any, offset: Any, other_era: Any, other_offset: Any) -> None:
    at, other = InputLog("a", era).at(offset), InputLog("b", other_era).at(other_offset)
    assert (at < other) == ((era, offset) < (other_era, other_offset))
    assert (InputLog("a").at(offset), era_of(at)) == (offset, era)
