"""What tests do to a broker beside the worker: topics, records in, records out.

Every client is closed within a bounded time before the function returns.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kafka import KafkaConsumer, KafkaProducer, TopicPartition
from kafka.admin import KafkaAdminClient, NewTopic

READ_TIMEOUT_S = 30.0
_SEND_TIMEOUT_S = 30.0
_SEND_CHUNK = 5_000  # the client queues without bound
_CLOSE_S = 5.0
_PRODUCER: Mapping[str, Any] = {
    "linger_ms": 5,
    "batch_size": 256 * 1024,
    "max_request_size": 64 * 2**20,
    "max_block_ms": 10_000,
}


class Outgoing(NamedTuple):
    """A record to write."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = ()
    timestamp_ms: int | None = None


class LogRange(NamedTuple):
    """The offsets a partition has: from `first` up to, not including, `end`."""

    first: int
    end: int


def create_topics(
    options: Mapping[str, Any],
    partitions: Mapping[str, int],
    config: Mapping[str, str] | None = None,
    timeout_s: float = 30.0,
) -> None:
    """Create topics on a real cluster, all with `config`, and wait until each partition has a leader."""
    admin = KafkaAdminClient(**options)
    try:
        admin.create_topics(
            [NewTopic(name, count, -1, topic_configs=dict(config or {})) for name, count in partitions.items()]
        )
        deadline = time.monotonic() + timeout_s
        while not all(len(leaders) == partitions[name] for name, leaders in _leaders(admin, partitions).items()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no leaders for {', '.join(partitions)} after {timeout_s:g} s")
            time.sleep(0.05)
    finally:
        admin.close()


def delete_topics(options: Mapping[str, Any], names: Sequence[str]) -> None:
    admin = KafkaAdminClient(**options)
    try:
        admin.delete_topics(list(names))
    finally:
        admin.close()


def leaders(options: Mapping[str, Any], topic: str) -> dict[int, int]:
    """The number of the node that leads each partition; partitions without a leader are missing."""
    admin = KafkaAdminClient(**options)
    try:
        return _leaders(admin, [topic])[topic]
    finally:
        admin.close()


def _leaders(admin: KafkaAdminClient, names: Iterable[str]) -> dict[str, dict[int, int]]:
    return {
        topic["name"]: {
            partition["partition_index"]: partition["leader_id"]
            for partition in topic["partitions"]
            if partition["leader_id"] >= 0
        }
        for topic in admin.describe_topics(list(names))
    }


def produce(options: Mapping[str, Any], records: Iterable[Outgoing]) -> int:
    """Write the records in order and return how many there were. Raises for any that was not acknowledged.

    `options` are arguments of `KafkaProducer`, on top of our own.
    """
    producer = KafkaProducer(**{**_PRODUCER, **options})
    pending: list[Any] = []
    sent = 0
    try:
        for record in records:
            pending.append(
                producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    list(record.headers),
                    record.partition,
                    record.timestamp_ms,
                )
            )
            sent += 1
            if len(pending) == _SEND_CHUNK:
                _await(producer, pending)
        _await(producer, pending)
    finally:
        producer.close(timeout=_CLOSE_S)
    return sent


def _await(producer: KafkaProducer, pending: list[Any]) -> None:
    producer.flush(timeout=_SEND_TIMEOUT_S)
    for future in pending:
        future.get(timeout=0)  # flush does not raise for a record that failed
    pending.clear()


def log_ranges(options: Mapping[str, Any], topic: str) -> dict[int, LogRange]:
    """Where each partition begins and ends now. Empty for a topic that does not exist."""
    consumer = _groupless(options)
    try:
        return _ranges(consumer, topic)
    finally:
        consumer.close(timeout_ms=int(_CLOSE_S * 1000))


def read_topic(options: Mapping[str, Any], topic: str, timeout_s: float = READ_TIMEOUT_S) -> Iterator[Any]:
    """All committed records up to the end the topic has now: within a partition in offset order.

    Raises `TimeoutError` when no partition moves for `timeout_s`.
    """
    consumer = _groupless(options)
    try:
        ends = {TopicPartition(topic, p): offsets.end for p, offsets in _ranges(consumer, topic).items()}
        if not ends:
            return
        consumer.assign(list(ends))
        consumer.seek_to_beginning(*ends)
        moved, positions = time.monotonic(), dict.fromkeys(ends, -1)
        # The position says when the end is reached: compacted offsets and transaction markers have no record.
        while unread := [tp for tp, end in ends.items() if positions[tp] < end]:
            for tp, records in consumer.poll(timeout_ms=200, max_records=10_000).items():
                yield from (record for record in records if record.offset < ends[tp])
            before = dict(positions)
            positions |= {tp: consumer.position(tp, timeout_ms=int(timeout_s * 1000)) for tp in unread}
            if positions != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > timeout_s:
                raise TimeoutError(f"{topic}: no progress for {timeout_s:g} s in partitions {unread}")
            consumer.pause(*(tp for tp in unread if positions[tp] >= ends[tp]))
    finally:
        consumer.close(timeout_ms=int(_CLOSE_S * 1000))


def _ranges(consumer: KafkaConsumer, topic: str) -> dict[int, LogRange]:
    if topic not in consumer.topics():  # to ask for its partitions would create it
        return {}
    tps = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic) or ())]
    firsts = consumer.beginning_offsets(tps, timeout_ms=int(READ_TIMEOUT_S * 1000))
    ends = consumer.end_offsets(tps, timeout_ms=int(READ_TIMEOUT_S * 1000))
    return {tp.partition: LogRange(firsts[tp], ends[tp]) for tp in tps}


def _groupless(options: Mapping[str, Any]) -> KafkaConsumer:
    return KafkaConsumer(
        **{"fetch_max_wait_ms": 100, **options},
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        isolation_level="read_committed",
        max_partition_fetch_bytes=4 * 2**20,
    )
