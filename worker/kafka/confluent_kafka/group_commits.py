"""The commits of a group that has no members, and so takes them from anyone."""

from __future__ import annotations

from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.kafka.confluent_kafka.connection import CALL_TIMEOUT_S
from worker.kafka.port import Commit
from worker.records import TopicPartition


class ConfluentGroupCommits:
    """Implements `worker.kafka.skips.GroupCommits`. The library's errors are left to whoever opens the consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    def read(self, partition: TopicPartition) -> Commit | None:
        (found,) = self._consumer.committed([KafkaTopicPartition(*partition)], timeout=CALL_TIMEOUT_S)
        if found.error is not None:
            raise KafkaException(found.error)
        return None if found.offset < 0 else Commit(found.offset, found.metadata or "")

    def write(self, partition: TopicPartition, commit: Commit) -> None:
        placed = KafkaTopicPartition(*partition, commit.offset, commit.metadata)
        for each in self._consumer.commit(offsets=[placed], asynchronous=False) or ():
            if each.error is not None:
                raise KafkaException(each.error)
