"""One test's topics on a broker: what goes in, what has come out, and the judgement of both."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from confluent_kafka import Producer
from kafka import KafkaConsumer, TopicPartition
from kafka.errors import KafkaError

from schemas import DeadLetter, Feature, ItemVector, NewItem, decode, decode_vector, encode
from tests.brokers import Broker, Outgoing, library, log_ranges, produce, read_topic
from tests.verifier import Verdict, verify_topics
from tests.worker_process import in_group
from worker.align import Space

DIMS: Mapping[str, int] = {"text": 16, "image": 8}
SPACE_DIM = 16
ENCODER = "e"
PATIENCE_S = 60.0
SHORT_SESSION: Mapping[str, Any] = {
    "kafka.session_timeout_ms": 3_000,
    "kafka.delivery_timeout_ms": 1_000,
    "kafka.request_timeout_ms": 900,
    "watchdog.group_unstable_s": 200,
}
_CLOSE_MS = 2_000


@dataclass
class Stream:
    """The topics of the items role, not yet created, and a group of their own."""

    broker: Broker
    topics: Mapping[str, str]
    space: Space
    space_path: str
    num_partitions: int = 2
    _observer: KafkaConsumer | None = field(default=None, repr=False)

    def create_topics(self, config: Mapping[str, str] | None = None) -> None:
        names = (self.items, self.vectors, self.state, self.letters)
        self.broker.create_topics(dict.fromkeys(names, self.num_partitions), config)

    @property
    def items(self) -> str:
        return self.topics["items"]

    @property
    def vectors(self) -> str:
        return self.topics["item_vectors"]

    @property
    def state(self) -> str:
        return self.topics["item_state"]

    @property
    def letters(self) -> str:
        return self.topics["dead_letters"]

    @property
    def group(self) -> str:
        return f"group-of-{self.items}"

    @property
    def for_several(self) -> Mapping[str, Any]:
        """Settings for workers that share the partitions. The embedded broker lets each that comes later wait for about
        a session, and again for each attempt that it fails."""
        return SHORT_SESSION if self.broker.kind == "embedded" else {}

    def settings(self, changes: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Of a worker that starts quickly and notices dead members within seconds."""
        return {
            **in_group("kafka", self.broker.client_settings),
            **in_group("topics", self.topics),
            "kafka.client": library.current,
            "kafka.group_id": self.group,
            "space.path": self.space_path,
            "device": "cpu",
            "dtype": "float32",
            "threads": 1,
            "batch.max_records": 64,
            "batch.queue_records": 512,
            "commit.interval_ms": 100,
            "http.host": "127.0.0.1",
            "http.port": 0,
            **(changes or {}),
        }

    # What goes in.

    def feed(self, records: Iterable[Outgoing], **producer: Any) -> int:
        return produce({**self.broker.options, **producer}, records)

    def feed_with_librdkafka(self, records: Iterable[Outgoing]) -> None:
        """As a client does that can also write what kafka-python cannot: null headers, neither key nor value."""
        failed: list[Any] = []
        producer = Producer({"bootstrap.servers": self.broker.bootstrap_servers, "log_level": 0})
        for record in records:
            producer.produce(
                record.topic,
                record.value,
                record.key,
                -1 if record.partition is None else record.partition,
                headers=list(record.headers),
                on_delivery=lambda error, message: failed.append(error) if error else None,
            )
        assert producer.flush(30) == 0
        assert not failed, failed

    def feed_items(self, names: Iterable[str], revision: int = 1, **producer: Any) -> int:
        return self.feed((self.upsert(name, revision) for name in names), **producer)

    def upsert(self, name: str, revision: int = 1, **changes: Any) -> Outgoing:
        """An item in its partition; `changes` are fields of `Outgoing`."""
        return self.record(name, item(name, revision), **changes)

    def delete(self, name: str, **changes: Any) -> Outgoing:
        return self.record(name, None, **changes)

    def record(self, key: str | bytes | None, value: bytes | None, **changes: Any) -> Outgoing:
        raw = key.encode() if isinstance(key, str) else key
        return Outgoing(self.items, raw, value, self.partition_of(raw or b""))._replace(**changes)

    def partition_of(self, key: bytes) -> int:
        return zlib.crc32(key) % self.num_partitions

    # What has come out.

    def input_records(self) -> list[Any]:
        return list(read_topic(self.broker.options, self.items))

    def output_records(self) -> list[Any]:
        return list(read_topic(self.broker.options, self.vectors))

    def published(self) -> list[tuple[str, int | None]]:
        """Item and revision of every output, in order within a partition; no revision for a tombstone."""
        return [
            (record.key.decode(), None if record.value is None else decode_vector(ItemVector, record.value).revision)
            for record in self.output_records()
        ]

    def letter_records(self) -> list[Any]:
        return list(read_topic(self.broker.options, self.letters))

    def dead_letters(self) -> list[DeadLetter]:
        return [decode(DeadLetter, record.value) for record in self.letter_records() if record.value is not None]

    def ends(self) -> dict[int, int]:
        """The end of each input partition that has records."""
        ranges = log_ranges(self.broker.options, self.items)
        return {partition: log.end for partition, log in ranges.items() if log.end > 0}

    def commits(self) -> dict[int, int]:
        """The group's offsets."""
        if self._observer is None:
            self._observer = KafkaConsumer(group_id=self.group, enable_auto_commit=False, **self.broker.options)
        found = {
            partition: self._observer.committed(TopicPartition(self.items, partition), timeout_ms=5_000)
            for partition in range(self.num_partitions)
        }
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def is_committed(self, ends: Mapping[int, int]) -> bool:
        with contextlib.suppress(KafkaError):
            commits = self.commits()
            return all(commits.get(partition) == end for partition, end in ends.items())
        return False

    def wait_committed(self, *workers: Any, timeout: float = PATIENCE_S) -> None:
        """Return when the group's commits are the end of the log, as it is now. Fails with a worker that fails."""
        ends, deadline = self.ends(), time.monotonic() + timeout
        assert ends, "nothing was fed"
        while not self.is_committed(ends):
            for worker in workers:
                worker.require_alive()
            told = [worker.status for worker in workers]
            assert time.monotonic() < deadline, f"committed {self.commits()} of {ends} after {timeout:g} s: {told}"
            time.sleep(0.05)

    def verdict(self, metrics_urls: Sequence[str] = ()) -> Verdict:
        return verify_topics(
            self.broker.options,
            items=self.items,
            item_vectors=self.vectors,
            dead_letters=self.letters,
            metrics_urls=metrics_urls,
            space_id=self.space.space_id,
            dims=DIMS,
        )

    def close(self) -> None:
        if self._observer is not None:
            self._observer.close(autocommit=False, timeout_ms=_CLOSE_MS)
            self._observer = None


def names(count: int, prefix: str = "item") -> Iterator[str]:
    return (f"{prefix}-{number:05d}" for number in range(count))


def item(name: str, revision: int = 1, **fields: Any) -> bytes:
    """A valid item whose features follow from its name and revision."""
    seed = zlib.crc32(f"{name} {revision}".encode())
    features = {modality: feature(modality, seed) for modality in DIMS}
    defaults = {"item_id": name, "revision": revision, "event_time_ms": 1_000, "features": features}
    return encode(NewItem.model_validate({**defaults, **fields}))


def feature(modality: str, seed: int, dim: int | None = None, encoder: str = ENCODER) -> Feature:
    values = np.random.default_rng([seed, len(modality)]).standard_normal(dim or DIMS[modality])
    return Feature.from_numpy(values, encoder=encoder)
