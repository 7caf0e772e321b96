"""Reading a topic outside any group: what is there, from the beginning to the end, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from worker.errors import TopicError
from worker.kafka.port import ClientPort
from worker.records import Record, TopicPartition

READ_TIMEOUT_S = 30.0


def read_whole(client: ClientPort, topic: str, setting: str) -> Iterator[Record]:
    """Every record from the beginning of a topic to its present end, partition by partition.

    The ends are those at the first step, all at once: what comes later is left out, in every partition. Raises
    `TopicError`, naming the setting, for a topic that does not exist.
    """
    described = client.describe_topics([topic])
    if topic not in described:
        raise TopicError(f"{setting}: topic {topic!r} does not exist")
    partitions = [TopicPartition(topic, number) for number in range(described[topic].num_partitions)]
    with closing(client.log()) as log:
        ends = [log.end(partition, READ_TIMEOUT_S) for partition in partitions]
        for partition, end in zip(partitions, ends, strict=True):
            for records in log.read(partition, None, timeout_s=READ_TIMEOUT_S):
                yield from (record for record in records if record.offset < end)
                if records[-1].offset >= end:
                    break
