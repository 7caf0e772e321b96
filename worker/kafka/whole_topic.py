"""Reading a topic outside any group: what is there, from the beginning to the end, and no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing

from worker.errors import ClientError, TopicError, UnreadableError
from worker.kafka.patience import patiently
from worker.kafka.port import ClientPort, PartitionReader, TopicDescription
from worker.records import Record, TopicPartition

READ_TIMEOUT_S = 30.0
RETRY_S = 1.0


def read_whole(client: ClientPort, topic: str, setting: str) -> Iterator[Record]:
    """Every record from the beginning of a topic to its present end, partition by partition.

    The ends are those at the first step, all at once: what comes later is left out, in every partition. Raises
    `TopicError`, naming the setting, for a topic that does not exist; and `UnreadableError`, after everything that can
    be read, where a partition cannot be read to its end.
    """
    described = describe(client, topic)
    if described is None:
        raise TopicError(f"{setting}: topic {topic!r} does not exist")
    partitions = [TopicPartition(topic, number) for number in range(described.num_partitions)]
    with closing(client.log()) as log:
        ends = [end_of(log, partition) for partition in partitions]
        unreadable: UnreadableError | None = None
        for partition, end in zip(partitions, ends, strict=True):
            try:
                yield from _read(log, partition, end)
            except UnreadableError as error:
                unreadable = unreadable or error
        if unreadable is not None:
            raise unreadable


def describe(client: ClientPort, topic: str) -> TopicDescription | None:
    """Describe a topic; None where there is none. Brokers that do not answer are waited for."""
    return patiently("asking for topics", lambda: client.describe_topics([topic]), READ_TIMEOUT_S).get(topic)


def end_of(log: PartitionReader, partition: TopicPartition) -> int:
    """The present end of a partition. Brokers that do not answer are waited for."""
    doing = f"asking for the end of {partition.topic}/{partition.partition}"
    return patiently(doing, lambda: log.end(partition, READ_TIMEOUT_S), READ_TIMEOUT_S)


def _read(log: PartitionReader, partition: TopicPartition, end: int) -> Iterator[Record]:
    """Read up to the end. A broker that goes meanwhile is waited for, as long as there is progress."""
    start: int | None = None
    moved_at = time.monotonic()
    while True:
        try:
            for records in log.read(partition, start, timeout_s=READ_TIMEOUT_S):
                start, moved_at = records[-1].offset + 1, time.monotonic()
                yield from (record for record in records if record.offset < end)
                if start > end:
                    break
            return
        except ClientError as error:
            if not error.retriable or time.monotonic() - moved_at > READ_TIMEOUT_S:
                raise
            time.sleep(RETRY_S)
