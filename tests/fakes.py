"""Doubles that obey the real interfaces: a log in memory, clients on it, and a model that does arithmetic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from schemas import Feature, NewItem, encode
from worker.errors import ClientError, NotMemberError, WorkerError
from worker.fuse import Result, Vector
from worker.kafka.port import Commit, Lease, PartitionListener, Receipt, TopicDescription
from worker.records import Change, Headers, Item, TopicPartition


@dataclass(frozen=True, slots=True)
class FakeRecord:
    """A record as any client returns it."""

    topic: str = "items"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0
    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()


def feature(dim: int = 4, fill: float = 1.0, encoder: str = "e") -> Feature:
    return Feature(encoder=encoder, dtype="f2", shape=(dim,), data=np.full(dim, fill, "<f2").tobytes())


def item_value(item_id: str, revision: int = 1, **features: Feature) -> bytes:
    message = NewItem(item_id=item_id, revision=revision, event_time_ms=1_000, features=features or {"text": feature()})
    return encode(message)


TOPICS = ("items", "item-vectors", "item-state", "events", "user-vectors", "user-state", "dead-letters")


class FakeCluster:
    """Topics as lists, group commits as a dict. Offsets count from 0 in every partition."""

    def __init__(self, num_partitions: int = 2, topics: Sequence[str] = TOPICS) -> None:
        self.num_partitions = num_partitions
        self.log: dict[TopicPartition, list[FakeRecord]] = {
            TopicPartition(topic, number): [] for topic in topics for number in range(num_partitions)
        }
        self.commits: dict[TopicPartition, Commit] = {}
        self.max_message_bytes = 1_000_000
        self.lock = threading.RLock()

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        with self.lock:
            records = self.log[TopicPartition(topic, partition)]
            records.append(
                FakeRecord(topic, partition, len(records), time.time_ns() // 1_000_000, key, value, tuple(headers))
            )
            return len(records) - 1

    def records(self, topic: str) -> list[FakeRecord]:
        with self.lock:
            return [record for tp, records in self.log.items() if tp.topic == topic for record in records]


@dataclass
class FakeClient:
    """Implements `kafka.ClientPort` on a cluster; `refuse` decides which sends fail, and how."""

    cluster: FakeCluster
    refuse: Callable[[str, bytes | None], WorkerError | None] = lambda topic, key: None
    consumers: list[FakeConsumer] = field(default_factory=list)
    producers: list[FakeProducer] = field(default_factory=list)

    def connect(self) -> None:
        return

    def reachable(self) -> bool:
        return True

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        cluster = self.cluster
        existing = {tp.topic for tp in cluster.log}
        return {
            name: TopicDescription(cluster.num_partitions, cluster.max_message_bytes)
            for name in names
            if name in existing
        }

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        for name in topics:
            for number in range(num_partitions):
                self.cluster.log[TopicPartition(name, number)] = []

    def consumer(self, group_id: str) -> FakeConsumer:
        self.consumers.append(FakeConsumer(self.cluster))
        return self.consumers[-1]

    def producer(self, lease: Lease | None = None) -> FakeProducer:
        self.producers.append(FakeProducer(self))
        return self.producers[-1]

    def reader(self, topic: str) -> FakeReader:
        return FakeReader(self.cluster, topic)

    def log(self) -> FakeLog:
        return FakeLog(self.cluster)


@dataclass
class FakeLog:
    """Implements `kafka.LogPort`."""

    cluster: FakeCluster

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        return len(self.cluster.log[partition])

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[FakeRecord]:
        with self.cluster.lock:
            records = list(self.cluster.log[partition])
        return iter(records[min(start or 0, max(0, len(records) - at_least_last)) :])

    def close(self) -> None:
        return


class FakeReader:
    """Implements `kafka.ReaderPort`."""

    def __init__(self, cluster: FakeCluster, topic: str) -> None:
        self._cluster = cluster
        self._positions = {tp: 0 for tp in cluster.log if tp.topic == topic}
        self._ends = {tp: len(cluster.log[tp]) for tp in self._positions}

    def poll(self, timeout_ms: int) -> Sequence[FakeRecord]:
        polled: list[FakeRecord] = []
        with self._cluster.lock:
            for tp, position in self._positions.items():
                polled += self._cluster.log[tp][position:]
                self._positions[tp] = len(self._cluster.log[tp])
        if not polled:
            time.sleep(0.001)
        return polled

    def num_behind(self) -> int:
        return sum(max(0, end - self._positions[tp]) for tp, end in self._ends.items())

    def close(self) -> None:
        return


class FakeConsumer:
    """One member of a group of one; `rebalance` gives and takes partitions at the next poll."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self._listener: PartitionListener | None = None
        self._positions: dict[TopicPartition, int] = {}
        self._paused: set[TopicPartition] = set()
        self._pending: list[tuple[str, list[TopicPartition]]] = []
        self.evicted = False
        self.commit_calls: list[Mapping[TopicPartition, Commit]] = []

    def subscribe(self, topics: Sequence[str], listener: PartitionListener) -> None:
        self._listener = listener
        self.rebalance("assigned", [tp for tp in self._cluster.log if tp.topic in topics])

    def rebalance(self, event: str, partitions: Sequence[TopicPartition]) -> None:
        self._pending.append((event, list(partitions)))

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[FakeRecord]]:
        while self._pending:
            self._apply(*self._pending.pop(0))
        self._paused &= set(self._positions)  # a partition that comes back in the same rebalance is still paused
        polled = {}
        with self._cluster.lock:
            for tp in sorted(set(self._positions) - self._paused):
                records = self._cluster.log[tp][self._positions[tp] :][:max_records]
                if records:
                    polled[tp] = records
                    self._positions[tp] += len(records)
        return polled

    def _apply(self, event: str, partitions: list[TopicPartition]) -> None:
        assert self._listener is not None
        if event == "assigned":
            for tp in partitions:
                commit = self._cluster.commits.get(tp)
                self._positions[tp] = commit.offset if commit else 0
            self._listener.assigned(partitions)
            return
        if event == "revoked":
            self._cluster.commits.update(self._listener.revoked(partitions))
        else:
            self._listener.lost(partitions)
        for tp in partitions:
            del self._positions[tp]

    def is_stable(self) -> bool:
        return not self._pending

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._paused -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    def beginning(self, partition: TopicPartition) -> int:
        return 0

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        return {tp: self._cluster.commits[tp] for tp in partitions if tp in self._cluster.commits}

    def commit(self, commits: Mapping[TopicPartition, Commit]) -> None:
        if self.evicted:
            raise NotMemberError("evicted")
        self.commit_calls.append(dict(commits))
        self._cluster.commits.update(commits)

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {tp: len(self._cluster.log[tp]) - self._positions[tp] for tp in partitions if tp in self._positions}

    def close(self, timeout_s: float) -> None:
        if self._positions:
            self._apply("revoked", list(self._positions))


class FakeProducer:
    """Acknowledges each record as it is sent. Like the real client, it fails everything after the first refusal."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._poison: WorkerError | None = None
        self.closed = False

    def send(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        receipt: Receipt,
    ) -> None:
        if self.closed:
            raise ClientError("the producer is closed")
        self._poison = self._poison or self._client.refuse(topic, key)
        if self._poison is not None:
            receipt.failed(self._poison)
            return
        receipt.acknowledged(self._client.cluster.append(topic, partition or 0, key, value, headers))

    def close(self, timeout_s: float) -> None:
        self.closed = True


class FakeEmbedder:
    """The vector of an item is the sum of its first feature, so tests can tell vectors apart.

    `poison` names a first-element value whose presence in a batch makes the whole call raise.
    """

    def __init__(self, poison: float | None = None, probe_error: Exception | None = None) -> None:
        self._poison = poison
        self._probe_error = probe_error
        self.batch_sizes: list[int] = []

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        features = [entry.features for entry in entries if isinstance(entry, Item)]
        self.batch_sizes.append(len(features))
        first = [float(next(iter(each.values())).to_numpy().ravel()[0]) for each in features]
        if self._poison is not None and self._poison in first:
            raise ValueError("this item breaks the model")
        return [
            Vector(np.array([value, 0.0], "<f2").tobytes(), tuple(each))
            for value, each in zip(first, features, strict=True)
        ]

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None:
        if self._probe_error is not None:
            raise self._probe_error
