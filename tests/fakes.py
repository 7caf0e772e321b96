"""Doubles that obey the real interfaces: a log in memory, clients on it, and a model that does arithmetic."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from schemas import Feature, NewItem, encode
from worker.errors import CallTimeoutError, ClientError, NotMemberError, ReplacedError, UnreadableError, WorkerError
from worker.kafka.port import (
    Commit,
    CommitOutcome,
    Contact,
    Lease,
    Membership,
    Outbound,
    PartitionListener,
    Receipt,
    TopicDescription,
    TopicLook,
)
from worker.records import Change, Headers, Item, TopicPartition
from worker.stages.fuse import NO_VECTOR, Result, Vector


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
    return Feature(encoder=encoder, dtype="f2", shape=(dim,), data=(fill + np.arange(dim)).astype("<f2").tobytes())


def item_value(item_id: str, revision: int = 1, **features: Feature) -> bytes:
    message = NewItem(item_id=item_id, revision=revision, event_time_ms=1_000, features=features or {"text": feature()})
    return encode(message)


TOPICS = ("items", "item-vectors", "item-state", "events", "user-vectors", "user-state", "dead-letters")


class FakeCluster:
    """Topics as lists, group commits as a dict. Offsets count from 0 in every partition.

    Transactions are as a broker has them: their records take offsets at once, are hidden until the commit and for ever
    if it never comes, and hide what follows them while they are open. A marker ends them, which takes an offset, too.
    """

    def __init__(self, num_partitions: int = 2, topics: Sequence[str] = TOPICS) -> None:
        self.num_partitions = num_partitions
        self.log: dict[TopicPartition, list[FakeRecord]] = {
            TopicPartition(topic, number): [] for topic in topics for number in range(num_partitions)
        }
        self.commits: dict[TopicPartition, Commit] = {}
        self.topic_ids: dict[str, str] = {}
        """Empty, as of brokers that give topics none."""
        self.starts: dict[TopicPartition, int] = {}
        """Where logs begin that have dropped something."""
        self.max_message_bytes = 1_000_000
        self.configurations: dict[str, dict[str, str]] = {}
        self.generation = 1
        """Of the group."""
        self.epochs: dict[str, int] = {}
        """Of the producers, by transactional id."""
        self.open: dict[str, list[tuple[TopicPartition, int]]] = {}
        """What open transactions have written, by transactional id."""
        self._hidden: set[tuple[TopicPartition, int]] = set()
        self.unreadable: set[tuple[TopicPartition, int]] = set()
        """Records that nobody can read."""
        self.left_out: set[tuple[TopicPartition, int]] = set()
        """Those of them that are passed over."""
        self.lock = threading.RLock()

    def append(self, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers = ()) -> int:
        with self.lock:
            records = self.log[TopicPartition(topic, partition)]
            records.append(
                FakeRecord(topic, partition, len(records), time.time_ns() // 1_000_000, key, value, tuple(headers))
            )
            return len(records) - 1

    def drop(self, partition: TopicPartition, before: int) -> None:
        """Retention: the log begins at this offset from now on."""
        with self.lock:
            self.starts[partition] = before

    def recreate(self, topic: str, topic_id: str) -> None:
        """Delete a topic and make it again. As a broker does, it forgets the commits of the old one."""
        with self.lock:
            self.topic_ids[topic] = topic_id
            for tp in [tp for tp in self.log if tp.topic == topic]:
                self.log[tp] = []
                self.starts.pop(tp, None)
                self.commits.pop(tp, None)

    def records(self, topic: str) -> list[FakeRecord]:
        """What a reader of committed records sees."""
        with self.lock:
            return [record for tp in self.log if tp.topic == topic for record in self.visible(tp, 0)]

    def stable_end(self, partition: TopicPartition) -> int:
        """How far a reader of committed records gets."""
        with self.lock:
            first_open = [offset for written in self.open.values() for tp, offset in written if tp == partition]
            return min([len(self.log[partition]), *first_open])

    def visible(self, partition: TopicPartition, start: int) -> list[FakeRecord]:
        with self.lock:
            first = max(start, self.starts.get(partition, 0))
            records = self.log[partition][first : self.stable_end(partition)]
            return [record for record in records if (partition, record.offset) not in self._hidden]

    def readable(self, partition: TopicPartition, start: int) -> tuple[list[FakeRecord], UnreadableError | None]:
        """What can be read from `start` on, and what ends it."""
        found: list[FakeRecord] = []
        for record in self.visible(partition, start):
            place = (partition, record.offset)
            if place not in self.unreadable:
                found.append(record)
            elif place not in self.left_out:
                return found, UnreadableError(*partition, record.offset, "checksum", "its checksum is wrong")
        return found, None

    def begin(self, transactional_id: str) -> int:
        """A producer takes an id over; returns its epoch."""
        with self.lock:
            self.end_transaction(transactional_id, commit=False)
            self.epochs[transactional_id] = self.epochs.get(transactional_id, -1) + 1
            return self.epochs[transactional_id]

    def append_open(self, transactional_id: str, topic: str, partition: int, *record: Any) -> int:
        with self.lock:
            offset = self.append(topic, partition, *record)
            self.open.setdefault(transactional_id, []).append((TopicPartition(topic, partition), offset))
            return offset

    def end_transaction(self, transactional_id: str, *, commit: bool) -> None:
        with self.lock:
            written = self.open.pop(transactional_id, [])
            if not commit:
                self._hidden |= set(written)
            for tp in {tp for tp, _ in written}:
                self._hidden.add((tp, self.append(*tp, None, b"marker")))

    def expire(self, transactional_id: str) -> None:
        """The transaction has been open for too long: the broker ends it and shuts its producer out."""
        self.begin(transactional_id)


@dataclass
class FakeClient:
    """Implements `kafka.ClientPort` on a cluster; `refuse` decides which sends fail, and how."""

    cluster: FakeCluster
    refuse: Callable[[str, bytes | None], WorkerError | None] = lambda topic, key: None
    consumers: list[FakeConsumer] = field(default_factory=list)
    producers: list[FakeProducer] = field(default_factory=list)
    on_commit: Callable[[str], WorkerError | None] = lambda moment: None
    """Asked before and after a transaction is committed; what it returns is raised."""

    def connect(self) -> None:
        return

    def reachable(self) -> bool:
        return True

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        cluster = self.cluster
        existing = {tp.topic for tp in cluster.log}
        return {
            name: TopicDescription(
                sum(tp.topic == name for tp in cluster.log),
                int(cluster.configurations.get(name, {}).get("max.message.bytes", cluster.max_message_bytes)),
                cluster.topic_ids.get(name, ""),
                1,
                cluster.configurations.get(name),
            )
            for name in names
            if name in existing
        }

    def num_brokers(self) -> int:
        return 1

    def configure_topics(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        for name, values in changes.items():
            self.cluster.configurations.setdefault(name, {}).update(values)

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        for name in topics:
            self.cluster.configurations[name] = dict(topics[name])
            for number in range(num_partitions):
                self.cluster.log[TopicPartition(name, number)] = []

    def consumer(self, group_id: str) -> FakeConsumer:
        self.consumers.append(FakeConsumer(self.cluster))
        return self.consumers[-1]

    def producer(self, lease: Lease | None = None) -> FakeProducer:
        self.producers.append(FakeProducer(self))
        return self.producers[-1]

    def transactional_producer(self, transactional_id: str, timeout_ms: int) -> FakeTransactionalProducer:
        made = FakeTransactionalProducer(self, transactional_id)
        self.producers.append(made)
        return made

    def reader(self, topic: str) -> FakeReader:
        return FakeReader(self.cluster, topic)

    def log(self) -> FakeLog:
        return FakeLog(self.cluster)

    def topics(self) -> FakeTopics:
        return FakeTopics(self)

    def group_commits(self, group_id: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        commits = self.cluster.commits
        return {partition: commits[partition] for partition in partitions if partition in commits}

    def leave_out(self, partition: TopicPartition, first: int, until: int) -> None:
        self.cluster.left_out |= {(partition, offset) for offset in range(first, until)}


@dataclass
class FakeTopics:
    """Implements `kafka.TopicsPort`."""

    client: FakeClient

    def look(self, names: Collection[str]) -> Mapping[str, TopicLook]:
        described = self.client.describe_topics(names)
        return {name: TopicLook(each.num_partitions, each.topic_id) for name, each in described.items()}

    def close(self) -> None:
        return


@dataclass
class FakeLog:
    """Implements `kafka.PartitionReader`."""

    cluster: FakeCluster

    def beginning(self, partition: TopicPartition, timeout_s: float) -> int:
        return self.cluster.starts.get(partition, 0)

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        return len(self.cluster.log[partition])

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[Sequence[FakeRecord]]:
        with self.cluster.lock:
            end = len(self.cluster.log[partition])
            if self.cluster.stable_end(partition) < end:
                raise CallTimeoutError("a transaction is still open")
            records, error = self.cluster.readable(partition, min(start or 0, max(0, end - at_least_last)))
        if records:
            yield records
        if error is not None:
            raise error

    def unreadable(self, partition: TopicPartition, offset: int, timeout_s: float) -> UnreadableError | None:
        with self.cluster.lock:
            return self.cluster.readable(partition, offset)[1]

    def close(self) -> None:
        return


class FakeReader:
    """Implements `kafka.TopicFollower`."""

    def __init__(self, cluster: FakeCluster, topic: str) -> None:
        self._cluster = cluster
        self._positions = {tp: 0 for tp in cluster.log if tp.topic == topic}
        self._ends = {tp: len(cluster.log[tp]) for tp in self._positions}
        self._stopped: dict[TopicPartition, UnreadableError] = {}

    def poll(self, timeout_ms: int) -> Sequence[FakeRecord]:
        polled: list[FakeRecord] = []
        with self._cluster.lock:
            for tp, position in self._positions.items():
                records, error = self._cluster.readable(tp, position)
                polled += records
                self._positions[tp] = self._cluster.stable_end(tp) if error is None else error.offset
                self._stopped.pop(tp, None)
                if error is not None:
                    self._stopped[tp] = error
        if not polled:
            time.sleep(0.001)
        return polled

    def num_behind(self) -> int:
        return sum(max(0, end - self._positions[tp]) for tp, end in self._ends.items() if tp not in self._stopped)

    def unreadable(self) -> Sequence[UnreadableError]:
        return list(self._stopped.values())

    def look_again(self) -> None:
        self._ends = {tp: len(self._cluster.log[tp]) for tp in self._positions}

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
        self._unreadable: list[UnreadableError] = []
        self.evicted = False
        self.silent_since: float | None = None
        """Monotonic time since when no broker answers."""
        self.has_left = False
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
            self._reset_positions()
            for tp in sorted(set(self._positions) - self._paused):
                records, error = self._cluster.readable(tp, self._positions[tp])
                records = records[:max_records]
                if records:
                    polled[tp] = records
                    self._positions[tp] = records[-1].offset + 1
                elif error is not None:
                    self._unreadable.append(error)
                    self._paused.add(tp)
                else:  # over what is hidden
                    self._positions[tp] = self._cluster.stable_end(tp)
        return polled

    def unreadable(self) -> Sequence[UnreadableError]:
        found, self._unreadable = self._unreadable, []
        return found

    def _apply(self, event: str, partitions: list[TopicPartition]) -> None:
        assert self._listener is not None
        if event == "assigned":
            for tp in partitions:
                commit = self._cluster.commits.get(tp)
                self._positions[tp] = commit.offset if commit else 0
            self._cluster.generation += 1
            self._listener.assigned(partitions)
            return
        if event == "revoked":
            self._cluster.commits.update(self._listener.revoked(partitions))
            self._cluster.generation += 1
        else:
            self._listener.lost(partitions)
        for tp in partitions:
            del self._positions[tp]

    def _reset_positions(self) -> None:
        """As with `auto_offset_reset="earliest"`."""
        for tp in set(self._positions) - self._paused:
            start = self._cluster.starts.get(tp, 0)
            if not start <= self._positions[tp] <= len(self._cluster.log[tp]):
                self._positions[tp] = start

    def position(self, partition: TopicPartition) -> int | None:
        return self._positions.get(partition)

    def log_start(self, partition: TopicPartition) -> int | None:
        return self._cluster.starts.get(partition, 0)

    def is_stable(self) -> bool:
        return not self._pending

    def membership(self) -> Membership | None:
        return None if self._pending else Membership("group", self._cluster.generation, "member", None)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        self._paused -= set(partitions)

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset

    def beginning(self, partition: TopicPartition) -> int:
        return self._cluster.starts.get(partition, 0)

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        return {tp: self._cluster.commits[tp] for tp in partitions if tp in self._cluster.commits}

    def commit(self, commits: Mapping[TopicPartition, Commit], on_outcome: CommitOutcome) -> None:
        if self.evicted:
            on_outcome(NotMemberError("evicted"))
            return
        self.commit_calls.append(dict(commits))
        self._cluster.commits.update(commits)
        on_outcome(None)

    def await_commits(self) -> None: ...

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        return {tp: len(self._cluster.log[tp]) - self._positions[tp] for tp in partitions if tp in self._positions}

    def contact(self) -> Contact:
        return Contact(self.silent_since or time.monotonic(), 0)

    def heard_of(self, partition: TopicPartition) -> float | None:
        return self.silent_since or time.monotonic()

    def num_partitions(self, topic: str) -> int | None:
        return self._cluster.num_partitions

    def close(self, timeout_s: float) -> None:
        if self._positions:
            self._apply("revoked", list(self._positions))

    def leave(self, timeout_s: float) -> None:
        self.has_left = True


class FakeProducer:
    """Acknowledges each record as it is sent. Like the real client, it fails everything after the first refusal."""

    def __init__(self, client: FakeClient) -> None:
        self._client = client
        self._poison: WorkerError | None = None
        self.closed = False

    def send(self, outbound: Sequence[Outbound]) -> None:
        for record in outbound:
            self._send(*record)

    def _send(
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


class FakeTransactionalProducer(FakeProducer):
    def __init__(self, client: FakeClient, transactional_id: str) -> None:
        super().__init__(client)
        self._cluster = client.cluster
        self._id = transactional_id
        self._epoch = self._cluster.begin(transactional_id)
        self._is_open = False

    def begin(self) -> None:
        assert not self._is_open
        self._is_open = True

    def _send(
        self,
        topic: str,
        partition: int | None,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        receipt: Receipt,
    ) -> None:
        assert self._is_open
        if self.closed:
            raise ClientError("the producer is closed")
        with self._cluster.lock:
            self._poison = self._poison or self._replaced() or self._client.refuse(topic, key)
            if self._poison is not None:
                receipt.failed(self._poison)
                return
            receipt.acknowledged(self._cluster.append_open(self._id, topic, partition or 0, key, value, headers))

    def commit(self, commits: Mapping[TopicPartition, Commit], membership: Membership) -> None:
        assert self._is_open
        self._raise(self._poison or self._client.on_commit("before"))
        with self._cluster.lock:
            self._raise(self._replaced())
            if membership.generation != self._cluster.generation:
                raise NotMemberError("the group has moved on")
            self._cluster.end_transaction(self._id, commit=True)
            self._cluster.commits.update(commits)
        self._is_open = False
        self._raise(self._client.on_commit("after"))

    def _replaced(self) -> WorkerError | None:
        return None if self._cluster.epochs[self._id] == self._epoch else ReplacedError("there is a newer producer")

    @staticmethod
    def _raise(error: WorkerError | None) -> None:
        if error is not None:
            raise error


class FakeEmbedder:
    """The vector of an item is the sum of its first feature, so tests can tell vectors apart.

    `poison` names a first-element value whose presence in a batch makes the whole call raise.
    """

    def __init__(self, poison: float | None = None, probe_error: Exception | None = None) -> None:
        self._poison = poison
        self._probe_error = probe_error
        self.batch_sizes: list[int] = []

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        made_of: list[Any] = [entry if isinstance(entry, Item) else entry.state for entry in entries]  # type: ignore[union-attr]
        features = [each.features for each in made_of]
        self.batch_sizes.append(len(features))
        first = [float(next(iter(each.values())).to_numpy().ravel()[0]) if each else 0.0 for each in features]
        if self._poison is not None and self._poison in first:
            raise ValueError("this item breaks the model")
        return [
            Vector(np.array([value, 0.0], "<f2").tobytes(), tuple(each)) if each else NO_VECTOR
            for value, each in zip(first, features, strict=True)
        ]

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None:
        if self._probe_error is not None:
            raise self._probe_error
