"""Our values as the library's own."""

from __future__ import annotations

from collections.abc import Mapping

from kafka.structs import OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from worker.kafka.port import Commit
from worker.records import TopicPartition


def kafka_partition(partition: TopicPartition) -> KafkaTopicPartition:
    return KafkaTopicPartition(*partition)


def kafka_commits(commits: Mapping[TopicPartition, Commit]) -> dict[KafkaTopicPartition, OffsetAndMetadata]:
    return {
        kafka_partition(tp): OffsetAndMetadata(commit.offset, commit.metadata, -1) for tp, commit in commits.items()
    }
