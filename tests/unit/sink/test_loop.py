"""The loop of a sink on a log and an index in memory: nothing is lost, nothing goes back, every record is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from schemas import DeadLetter, ItemVector, Tensor, decode, encode
from tests.fakes import FakeClient, FakeCluster
from tests.unit.sink.memory import MemoryStore
from worker.errors import ConfigError, StoreError, SystemicError, TopicError, WorkerError
from worker.item_vectors.source_offset import HEADER
from worker.records import TopicPartition
from worker.settings import CommitSettings, HttpSettings, Settings, ShutdownSettings, SinkSettings
from worker.sink.row import Collection
from worker.sink.service import SinkService

SETTINGS = Settings(
    commit=CommitSettings(interval_ms=10),
    shutdown=ShutdownSettings(drain_timeout_s=5, revoke_timeout_s=1),
    http=HttpSettings(host="127.0.0.1", port=0),
    sink=SinkSettings(max_records=8, connect_timeout_s=1),
)
IN_X = Collection("items", "x", 2)
P0 = TopicPartition("item-vectors", 0)


class Sink:
    """A sink on a thread, from entry to exit of the block."""

    def __init__(
        self, cluster: FakeCluster, store: MemoryStore, *, until_caught_up: Any = False, settings: Any = SETTINGS
    ) -> None:
        self.client, self.store = FakeClient(cluster), store
        self.service = SinkService(settings, "memory", store, self.client, until_caught_up=until_caught_up)
        self.error: BaseException | None = None
        self.stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.service.run(self.stop)
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Sink:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.join()
        if self.error is not None:
            raise self.error

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            assert self._thread.is_alive(), self.error
            time.sleep(0.005)

    def until_committed(self) -> None:
        cluster = self.client.cluster
        self.until(
            lambda: all(
                tp.topic != "item-vectors" or not log or getattr(cluster.commits.get(tp), "offset", 0) == len(log)
                for tp, log in cluster.log.items()
            )
        )

    @property
    def totals(self) -> Any:
        return self.service.metrics["items"].accounting.totals


def put(
    cluster: FakeCluster,
    item_id: str,
    source: int,
    value: float = 1.0,
    *,
    partition: Any = 0,
    space: Any = "x",
    **more: Any,
) -> None:
    vector = ItemVector(
        item_id=item_id, revision=source, event_time_ms=1, space_id=space, modalities=("text",), produced_at_ms=source,
        vector=Tensor(dtype="f4", shape=(2,), data=np.array([value, 0], "<f4").tobytes()), source_offset=source, **more,
    )  # fmt: skip
    cluster.append("item-vectors", partition, item_id.encode(), encode(vector))


def delete(cluster: FakeCluster, item_id: str, source: int, *, partition: Any = 0) -> None:
    cluster.append("item-vectors", partition, item_id.encode(), None, [(HEADER, b"%d" % source)])


def waiting_s(sink: Sink) -> float:
    """What is exported of how long the index has not taken a batch."""
    value = sink.service.registry.get_sample_value("align_sink_waiting_seconds")
    assert value is not None
    return value


def values(store: MemoryStore, collection: Any = IN_X) -> dict[str, float]:
    return {
        name: float(row.vector[0]) for name, row in store.held.get(collection, {}).items() if row.vector is not None
    }


def test_what_is_in_the_topic_is_in_the_index_and_then_committed_and_every_record_is_counted() -> None:
    cluster, store = FakeCluster(), MemoryStore()
    for number in range(30):
        put(cluster, f"i{number % 10}", number, float(number), partition=number % 2)
    delete(cluster, "i0", 40)
    delete(cluster, "never", 41)
    with Sink(cluster, store) as sink:
        sink.until_committed()
        put(cluster, "late", 50, attributes={"price": 2})
        sink.until_committed()
    assert values(store) == {**{f"i{number}": float(20 + number) for number in range(1, 10)}, "late": 1.0}
    assert store.held[IN_X]["late"].attributes == {"price": 2}
    totals = sink.totals
    assert (totals.consumed, totals.in_flight, totals.abandoned, totals.unaccounted()) == (33, 0, 0, 0)
    assert totals.published["tombstone"] == 2
    assert sum(totals.superseded.values()) + totals.published["upsert"] == 31


def test_a_stale_record_and_a_sink_that_begins_again_undo_nothing() -> None:
    cluster, store = FakeCluster(1), MemoryStore()
    put(cluster, "a", 5, 5.0)
    put(cluster, "b", 1, 1.0)
    delete(cluster, "b", 6)
    put(cluster, "a", 4, 4.0)  # of a process that was frozen
    put(cluster, "b", 2, 2.0)
    with Sink(cluster, store) as sink:
        sink.until_committed()
    assert values(store) == {"a": 5.0}
    cluster.commits.clear()
    with Sink(cluster, MemoryStore(store.held)) as sink:
        sink.until_committed()
    assert values(store) == {"a": 5.0}
    assert sink.totals.published == {"upsert": 0, "tombstone": 0}
    assert sum(sink.totals.superseded.values()) == 5


def test_a_late_vector_of_a_deleted_item_finds_that_it_was_deleted() -> None:
    cluster, store = FakeCluster(1), MemoryStore()
    put(cluster, "a", 1)
    delete(cluster, "a", 5)
    with Sink(cluster, store) as sink:
        sink.until_committed()
        put(cluster, "a", 3)
        sink.until_committed()
        assert values(store) == {}
        put(cluster, "a", 6, 6.0)  # another life
        sink.until_committed()
    assert values(store) == {"a": 6.0}


def test_nothing_is_committed_and_little_is_read_while_the_index_is_down_and_all_is_written_when_it_is_back() -> None:
    cluster, store = FakeCluster(1), MemoryStore()
    settings = SETTINGS.model_copy(update={"sink": SETTINGS.sink.model_copy(update={"connect_timeout_s": 60})})
    with Sink(cluster, store, settings=settings) as sink:
        put(cluster, "a", 0)
        sink.until_committed()
        store.is_down.set()
        for number in range(1, 200):
            put(cluster, f"i{number}", number)
        sink.until(lambda: sink.service.sink_metrics.failures._value.get() >= 2)
        assert cluster.commits[P0].offset == 1
        assert sink.service.health.livez().ok
        assert waiting_s(sink) > 0
        store.is_down.clear()
        sink.until_committed()
    assert len(values(store)) == 200
    assert waiting_s(sink) == 0


def test_what_the_index_refuses_and_what_is_no_vector_are_dead_letters_and_the_rest_of_their_batch_is_written() -> None:
    cluster, store = FakeCluster(1), MemoryStore(refuses=lambda row: row.id == "odd")
    for name in ("a", "odd", "b", "c", "d"):
        put(cluster, name, len(cluster.log[P0]))
    cluster.append("item-vectors", 0, b"e", b"\xc1")
    with Sink(cluster, store) as sink:
        sink.until_committed()
    assert sorted(values(store)) == ["a", "b", "c", "d"]
    letters = [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]
    assert sorted((letter.key, letter.reason, letter.stage) for letter in letters) == [
        (b"e", "not_msgpack", "sink"),
        (b"odd", "publish_refused", "sink"),
    ]
    assert all(letter.value and letter.topic == "item-vectors" for letter in letters)
    assert sink.totals.unaccounted() == 0
    assert sum(sink.totals.dead_lettered.values()) == 2


def test_a_dead_letter_that_cannot_be_written_holds_the_batch_until_it_can() -> None:
    cluster, store = FakeCluster(1), MemoryStore()
    sink = Sink(cluster, store)
    refuse = threading.Event()
    refuse.set()
    sink.client.refuse = lambda topic, key: SystemicError("no") if refuse.is_set() else None
    cluster.append("item-vectors", 0, b"e", b"\xc1")
    with sink:
        sink.until(lambda: sink.service.sink_metrics.failures._value.get() >= 1)
        assert P0 not in cluster.commits
        refuse.clear()
        sink.until_committed()
    assert len(cluster.records("dead-letters")) == 1


def test_it_ends_by_itself_once_it_has_caught_up() -> None:
    cluster, store = FakeCluster(), MemoryStore()
    for number in range(20):
        put(cluster, f"i{number}", number, partition=number % 2)
    with Sink(cluster, store, until_caught_up=True) as sink:
        sink.join()
    assert sink.service.is_caught_up
    assert len(values(store)) == 20


def test_a_sink_that_is_to_end_waits_until_the_index_has_done_what_is_left_to_do() -> None:
    cluster, store = FakeCluster(), MemoryStore()
    for number in range(20):
        put(cluster, f"i{number}", number)
    store.settles_after = 3
    with Sink(cluster, store, until_caught_up=True) as sink:
        sink.join()
    assert sink.service.is_caught_up
    assert store.num_settling >= 3
    assert store.held_when_settling == 20


def test_what_an_index_fails_at_is_tried_again_and_ends_a_sink_that_is_to_end_by_itself() -> None:
    cluster, store = FakeCluster(), MemoryStore()
    put(cluster, "a", 1)
    store.fails_to_settle = True
    hurried = SETTINGS.model_copy(update={"sink": SETTINGS.sink.model_copy(update={"connect_timeout_s": 0.2})})
    with (
        pytest.raises(StoreError, match="there is no room for it"),
        Sink(cluster, store, until_caught_up=True, settings=hurried) as sink,
    ):
        sink.join()
    assert values(store) == {"a": 1.0}
    before = store.num_settling
    with Sink(cluster, store) as sink:
        sink.until(lambda: store.num_settling > before)
        put(cluster, "b", 2)
        sink.until_committed()
    assert values(store) == {"a": 1.0, "b": 1.0}


def test_partitions_that_go_are_committed_as_far_as_they_are_written_and_what_is_left_is_not_lost() -> None:
    cluster, store = FakeCluster(), MemoryStore()
    with Sink(cluster, store) as sink:
        for number in range(40):
            put(cluster, f"i{number}", number, partition=number % 2)
        sink.until_committed()
        sink.client.consumers[-1].rebalance("revoked", [P0])
        sink.until(lambda: [hold.partition.partition for hold in sink.service.loop.holds()] == [1])
        put(cluster, "x", 99, partition=0)
        sink.client.consumers[-1].rebalance("assigned", [P0])
        sink.until_committed()
    assert len(values(store)) == 41


def test_a_topic_that_was_made_again_is_read_from_its_beginning() -> None:
    cluster, store = FakeCluster(1), MemoryStore()
    cluster.topic_ids["item-vectors"] = "first"
    for number in range(5):
        put(cluster, f"i{number}", number)
    with Sink(cluster, store) as sink:
        sink.until_committed()
    cluster.recreate("item-vectors", "second")
    put(cluster, "i0", 99, 9.0)
    with Sink(cluster, store) as sink:
        sink.until_committed()
    assert values(store)["i0"] == 9.0


def test_a_topic_that_is_missing_and_an_index_that_never_answers_end_it_on_one_line() -> None:
    cluster, store = FakeCluster(1, topics=["items", "dead-letters"]), MemoryStore()
    missing = r"topics.item_vectors: topic 'item-vectors' does not exist"
    with pytest.raises(TopicError, match=missing), Sink(cluster, store) as sink:
        sink.join()
    store.is_down.set()
    with pytest.raises(WorkerError, match="it is down"), Sink(FakeCluster(1), store) as sink:
        sink.join()


def test_what_no_retry_would_mend_ends_the_process() -> None:
    class Wrong(MemoryStore):
        def prepare(self, collection: Collection) -> None:
            raise ConfigError("table item_vectors_x holds vectors of 3 dimensions")

    cluster = FakeCluster(1)
    put(cluster, "a", 1)
    with pytest.raises(ConfigError, match="3 dimensions"), Sink(cluster, Wrong()) as sink:
        sink.join()
