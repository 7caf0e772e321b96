"""Notices that producers do not agree on the partition of a key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from worker.kafka.port import TopicLook
from worker.monitoring.metrics import Metrics
from worker.partitions.placement import Placement
from worker.records import Notice, Record, TopicPartition
from worker.topics import RoleTopics

NUM_SAMPLED = 16  # keys of a poll; a look at one takes some microseconds


class KeyWatch:
    """Looks at all keys of small polls and at some of large ones. Poll thread."""

    def __init__(self, topics: RoleTopics, metrics: Metrics) -> None:
        self._topics = topics
        self._metrics = metrics
        self._placement = Placement()
        self._num_partitioners: int | None = None

    def look(
        self, partition: TopicPartition, records: Sequence[Record], looked: Mapping[str, TopicLook] | None
    ) -> Notice | None:
        """A notice for a person, the first time that something shows. `looked`: how many partitions the topics have."""
        if self._topics.is_relay:  # keys of other people need not agree on anything
            return None
        if looked is None or partition.topic not in looked or self._num_partitioners in (0, 2):
            return None
        sampled = records if len(records) <= NUM_SAMPLED else records[:: -(-len(records) // NUM_SAMPLED)]
        keys = [record.key for record in sampled if record.key is not None]
        self._placement.look(keys, partition.partition, looked[partition.topic].num_partitions)
        explanations = self._placement.explanations()
        if explanations is None or len(explanations) == self._num_partitioners:
            return None
        self._num_partitioners = len(explanations)
        self._metrics.partitioners.labels(self._topics.inputs).set(len(explanations))
        return None if len(explanations) == 1 else self._notice(explanations)

    def _notice(self, explanations: Sequence[str]) -> Notice:
        found = f"those of {' and '.join(explanations)}" if explanations else "none that is known here"
        advice = "its producers disagree, and a key may lie in two partitions" if explanations else "see that all agree"
        return Notice(
            "partitioners",
            f"{self._topics.settings[0]}: the partitioners that explain where the keys of {self._topics.inputs!r} lie "
            f"are {found}: {advice} (schemas/README.md, Partitions)",
        )
