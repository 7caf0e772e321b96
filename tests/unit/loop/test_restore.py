"""What a partition's owner finds when it takes over: its changelog, and what an earlier one has published."""

from pathlib import Path
from typing import Any

import pytest

from schemas import ItemVector, Tensor, encode
from tests.fakes import FakeClient, FakeCluster, FakeRecord
from worker.errors import SpaceError, StateError
from worker.kafka.port import Commit
from worker.loop.origin import watched_topics
from worker.loop.restore import Restored, RestoreStage
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.roles.items import newest_published
from worker.settings import Settings
from worker.state import Stores
from worker.state.overlay import StateOverlay
from worker.state.packing import pack
from worker.topics import topics_of

TENSOR = Tensor(dtype="f4", shape=(1,), data=b"\x00\x00\x80?")


def vector(item_id: str, revision: int, source_offset: int | None, space_id: str = "here") -> FakeRecord:
    message = ItemVector(
        item_id=item_id, revision=revision, event_time_ms=0, space_id=space_id, vector=TENSOR, modalities=("text",),
        produced_at_ms=0, source_offset=source_offset,
    )  # fmt: skip
    return FakeRecord(key=item_id.encode(), value=encode(message))


def tombstone(item_id: str, source_offset: int) -> FakeRecord:
    return FakeRecord(key=item_id.encode(), headers=[("align-source-offset", b"%d" % source_offset)])


def test_the_last_output_of_each_item_counts() -> None:
    records = [vector("a", 1, 10), vector("b", 4, 11), vector("a", 2, 12), tombstone("b", 13)]
    assert newest_published(records, "here") == {"a": 12, "b": 13}


def test_vectors_of_another_space_are_refused() -> None:
    with pytest.raises(SpaceError, match=r"space there.*topics\.item_vectors"):
        newest_published([vector("a", 1, 10), vector("b", 1, 11, space_id="there")], "here")


def test_vectors_of_a_space_that_was_measured_to_be_comparable_count_and_those_of_a_third_are_refused() -> None:
    mixed = [vector("a", 1, 10, space_id="there"), vector("b", 1, 11), vector("a", 2, 12)]
    assert newest_published(mixed, "here", {"there"}) == {"a": 12, "b": 11}
    with pytest.raises(SpaceError, match="space third"):
        newest_published([*mixed, vector("c", 1, 13, space_id="third")], "here", {"there"})


def test_records_of_others_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    records = [
        FakeRecord(key=b"a", value=b"?"),
        FakeRecord(key=b"\xff", value=b"?"),
        vector("c", 1, 3),
    ]
    assert newest_published(records, "here") == {"c": 3}
    assert [record.__dict__["action"] for record in caplog.records] == ["foreign_output"] * 2


class Role:
    """What restoring asks of a role, whose states are the values themselves."""

    topics = topics_of("users", Settings())

    def decode_state(self, value: bytes) -> Any:
        return value

    can_recompute_all = True

    def look_back(self, *_: Any, **__: Any) -> int:
        return -1

    def restore_extra(self, *_: Any) -> tuple[str, ...]:
        return ()


class Harness:
    """A restorer of partition 0, on a changelog in memory."""

    def __init__(self, cluster: FakeCluster, directory: Path | None = None) -> None:
        self.stores = Stores(directory, Role.topics.state, Role.topics.group_id)
        self.restorer = RestoreStage(FakeClient(cluster), Role(), self.stores)

    def restore(self) -> Restored:
        self.restorer.request(Tenure(TopicPartition(Role.topics.inputs, 0), Commit(0)))
        self.restorer.restore_next()
        (restored,) = self.restorer.results()
        return restored

    def overlay(self) -> StateOverlay[Any]:
        restored = self.restore()
        assert restored.error is None
        assert restored.overlay is not None
        return restored.overlay

    def close(self) -> None:
        self.restorer.close()
        self.stores.close()


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(topics=watched_topics(Role.topics))


def remember(cluster: FakeCluster, key: bytes | None, value: bytes | None) -> None:
    cluster.append(Role.topics.state, 0, key, value)


def test_the_last_of_each_key_is_remembered_and_a_tombstone_forgets(cluster: FakeCluster) -> None:
    for key, value in ((b"a", pack([1])), (b"b", pack([2])), (b"a", pack([3])), (b"b", None), (b"c", pack([4]))):
        remember(cluster, key, value)
    harness = Harness(cluster)
    assert dict(harness.overlay().items()) == {"a": pack([3]), "c": pack([4])}
    assert harness.restorer.num_records == 5
    harness.close()


def test_what_others_wrote_into_the_changelog_is_said_and_passed_over(
    cluster: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    for key, value in ((None, pack([1])), (b"\xff", pack([1])), (b"a", b"\x63of another version"), (b"b", pack([2]))):
        remember(cluster, key, value)
    harness = Harness(cluster)
    assert dict(harness.overlay().items()) == {"b": pack([2])}
    assert [record.__dict__["action"] for record in caplog.records if record.levelname == "WARNING"] == [
        "foreign_state"
    ] * 3
    harness.close()


def test_a_partition_that_comes_back_reads_only_what_is_new(cluster: FakeCluster) -> None:
    remember(cluster, b"a", pack([1]))
    harness = Harness(cluster)
    harness.overlay()
    remember(cluster, b"b", pack([2]))
    assert dict(harness.overlay().items()) == {"a": pack([1]), "b": pack([2])}
    assert harness.restorer.num_records == 2
    harness.close()


def test_a_store_ahead_of_its_changelog_is_emptied(cluster: FakeCluster, caplog: pytest.LogCaptureFixture) -> None:
    """The topic was deleted and made anew."""
    harness = Harness(cluster)
    harness.stores.open(0).apply({"ghost": pack([9])}, 7)
    remember(cluster, b"a", pack([1]))
    assert dict(harness.overlay().items()) == {"a": pack([1])}
    assert "foreign_log" in [getattr(record, "action", "") for record in caplog.records]
    harness.close()


def test_a_store_of_another_version_is_built_anew_from_the_changelog(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    remember(cluster, b"a", pack([1]))
    monkeypatch.setattr("worker.state.disk.VERSION", 0)
    before = Harness(cluster, tmp_path)
    before.overlay()
    before.stores.open(0).apply({"ghost": b"in the old format"}, 1)
    before.close()
    monkeypatch.undo()
    after = Harness(cluster, tmp_path)
    assert dict(after.overlay().items()) == {"a": pack([1])}
    assert after.restorer.num_records == 1
    (rebuilt,) = [record for record in caplog.records if getattr(record, "action", "") == "store_rebuilt"]
    assert "removed and restored from the changelog" in rebuilt.getMessage()
    after.close()


def test_a_disk_that_fills_up_while_restoring_is_an_error_that_names_the_setting(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.state.disk._MAP_BYTES", 2**17)
    for number in range(1_000):
        remember(cluster, b"%d" % number, pack([bytes(1_000)]))
    harness = Harness(cluster, tmp_path)
    error = harness.restore().error
    assert isinstance(error, StateError)
    assert "state.dir: the store in" in error.one_line()
    harness.close()
