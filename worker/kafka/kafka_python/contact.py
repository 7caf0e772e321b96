"""When the brokers have last answered, which the library does not tell: its polls return nothing, and no error, for as
long as nobody answers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kafka import KafkaConsumer
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.manager import KafkaConnectionManager
from kafka.net.selector import NetworkSelector

from worker.records import TopicPartition


class Answers:
    """Written on the client's IO thread, read by any: each value is replaced as a whole. Times are monotonic."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.heard_at = clock()
        """When a broker has last answered anything. Begins with when we began to listen."""
        self.num_failed = 0
        """Requests that no broker has answered."""
        self.fetched_at: dict[TopicPartition, float] = {}
        """When a broker has last answered what there is of a partition."""
        self.log_starts: dict[TopicPartition, int] = {}
        """Where the log of a partition began at the last answer that said so."""

    def heard(self, _: Any) -> None:
        self.heard_at = self._clock()

    def failed(self, _: BaseException) -> None:
        self.num_failed += 1

    def note_log_starts(self, response: Any) -> None:
        for topic in response.responses:
            for partition in topic.partitions:
                start = partition.log_start_offset
                if not partition.error_code and start is not None and start >= 0:
                    self.log_starts[TopicPartition(topic.topic, partition.partition_index)] = start

    def fetched(self, partition: TopicPartition) -> None:
        self.fetched_at[partition] = self._clock()


class AttentiveNetClient(KafkaNetClient):  # type: ignore[misc]  # the client carries no types
    """Notes what becomes of each request."""

    def __init__(self, answers: Answers, **config: Any) -> None:
        net = NetworkSelector(**config)
        super().__init__(net=net, manager=_AttentiveManager(answers, net, **config))


class _AttentiveManager(KafkaConnectionManager):  # type: ignore[misc]
    """Every request of a client goes through `send` of its manager: fetches, heartbeats, joins, commits, metadata."""

    def __init__(self, answers: Answers, net: NetworkSelector, **config: Any) -> None:
        super().__init__(net, **config)
        self._answers = answers

    def send(self, request: Any, node_id: Any = None, request_timeout_ms: Any = None) -> Future:
        future = super().send(request, node_id=node_id, request_timeout_ms=request_timeout_ms)
        future.add_callback(self._answers.heard)
        future.add_errback(self._answers.failed)
        return future


def note_fetches(consumer: KafkaConsumer, answers: Answers) -> None:
    """Have `answers` know which partitions the answers to fetches are about. The consumer must not have polled yet.

    A broker leaves out partitions of which it has nothing new, so it is the request that names them; those that it
    names in its answer with an error it has told nothing of.
    """
    fetcher = consumer._fetcher  # noqa: SLF001  # nothing public tells
    handle = fetcher._handle_fetch_response  # noqa: SLF001

    def noted(node_id: Any, fetch_offsets: Any, sent_at: float, response: Any) -> None:
        if not getattr(response, "error_code", 0):
            refused = {
                (topic.topic, partition.partition_index)
                for topic in response.responses
                for partition in topic.partitions
                if partition.error_code
            }
            answers.note_log_starts(response)
            for tp in fetch_offsets:
                if tuple(tp) not in refused:
                    answers.fetched(TopicPartition(*tp))
        handle(node_id, fetch_offsets, sent_at, response)

    fetcher._handle_fetch_response = noted  # noqa: SLF001
