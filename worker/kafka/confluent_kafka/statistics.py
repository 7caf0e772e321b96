"""The library's own statistics: whether brokers answer, of which partitions, and what topics there are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from confluent_kafka import KafkaError

from worker.records import TopicPartition

INTERVAL_MS = 1_000


class Answers:
    """Written while the consumer polls, read by any thread: each value is replaced as a whole. Times are monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.heard_at = clock()
        """When a broker has last answered anything. Begins with when we began to listen."""
        self._num_unanswered = 0
        self.unanswered_at = -inf
        """When a request was last found that no broker has answered."""
        self._num_told = 0
        self._looked_at = clock()
        self._num_fetches: Mapping[str, int] = {}
        self._heard_of: dict[TopicPartition, float] = {}
        self.num_partitions: Mapping[str, int] = {}
        """Number of partitions of topics, as far as it is known."""

    @property
    def num_failed(self) -> int:
        """Requests that no broker has answered, and connections that could not be made or kept."""
        return self._num_unanswered + self._num_told

    def told(self, error: KafkaError) -> None:
        """The library's `error_cb`."""
        self._num_told += 1

    def failed(self) -> None:
        """A request of a poll has failed."""
        self._num_told += 1

    def came_of(self, partition: TopicPartition) -> None:
        """Something has just come of a partition."""
        self.heard_at = self._heard_of[partition] = self._clock()

    def heard_of(self, partition: TopicPartition) -> float | None:
        """When a broker has last said what there is of a partition; None before the first time."""
        return self._heard_of.get(partition)

    def look(self, statistics: str) -> None:
        """The library's `stats_cb`."""
        now, seen = self._clock(), json.loads(statistics)
        brokers: Mapping[str, Any] = seen["brokers"]
        idle_us = [each["rxidle"] for each in brokers.values() if each.get("rxidle", -1) >= 0 and each.get("rx", 0)]
        if idle_us:
            self.heard_at = max(self.heard_at, now - min(idle_us) / 1e6)
        num_unanswered = sum(each.get("req_timeouts", 0) for each in brokers.values())
        if num_unanswered > self._num_unanswered:
            self.unanswered_at = now
        self._num_unanswered = num_unanswered
        # One fetch is under way to a broker at a time: where another one has been sent, the last one was answered.
        fetches = {str(each["nodeid"]): each["req"].get("Fetch", 0) for each in brokers.values() if each["nodeid"] >= 0}
        answering = {node for node, count in fetches.items() if count > self._num_fetches.get(node, count)}
        counts = {}
        for name, topic in seen["topics"].items():
            numbers = [number for number in topic["partitions"] if number != "-1"]
            known = [number for number in numbers if not topic["partitions"][number]["unknown"]]
            if known:
                counts[name] = len(known)
            for number in numbers:
                partition = topic["partitions"][number]
                if partition["fetch_state"] == "active" and str(partition["broker"]) in answering:
                    # It was so at some time between the two looks.
                    self._heard_of[TopicPartition(name, int(number))] = max(
                        self._looked_at, self._heard_of.get(TopicPartition(name, int(number)), 0.0)
                    )
        if counts:
            self.num_partitions = {**self.num_partitions, **counts}
        self._num_fetches, self._looked_at = fetches, now
