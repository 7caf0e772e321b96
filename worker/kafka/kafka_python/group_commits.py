"""The commits of a group that has no members, and so takes them from anyone."""

from __future__ import annotations

from kafka import KafkaConsumer

from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.kafka.kafka_python.structs import kafka_commits, kafka_partition
from worker.kafka.port import Commit
from worker.records import TopicPartition


class KafkaPythonGroupCommits:
    """Implements `worker.kafka.skips.GroupCommits`. The library's errors are left to whoever opens the consumer."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def read(self, partition: TopicPartition) -> Commit | None:
        found = self._consumer.committed(kafka_partition(partition), metadata=True, timeout_ms=CALL_TIMEOUT_MS)
        return None if found is None or found.offset < 0 else Commit(found.offset, found.metadata or "")

    def write(self, partition: TopicPartition, commit: Commit) -> None:
        self._consumer.commit(kafka_commits({partition: commit}), timeout_ms=CALL_TIMEOUT_MS)
