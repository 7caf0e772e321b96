"""Feeds inputs in the background with librdkafka, as a producer that is not of our making would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from tests.brokers import Outgoing

STEP_S = 0.02
MAX_STEP_RECORDS = 500
FLUSH_TIMEOUT_S = 120.0


class FeedFailedError(Exception):
    """An input did not get into the log, so that nothing can be said of the run."""


class Feeder:
    """Writes records at a pace that may be changed at any time. Starts on entry; stops on exit, done or not.

    Partitions are chosen as Java's client and kafka-python choose them.
    """

    def __init__(self, bootstrap_servers: str, records: Iterator[Outgoing], pace: float) -> None:
        self._records = records
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": int(FLUSH_TIMEOUT_S * 1000),
                "queue.buffering.max.messages": 1_000_000,
                # The last broker to go in good order says that nobody leads its partitions and that there are no
                # brokers at all; left at their defaults, these let librdkafka believe it for five minutes.
                "topic.metadata.refresh.interval.ms": 1_000,
                "metadata.recovery.rebootstrap.trigger.ms": 1_000,
                "log_level": 0,
            }
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._failure: str | None = None
        self.pace = pace
        """Records per second."""
        self.num_fed = 0
        self.timestamps: dict[tuple[int, int], int] = {}
        """Kafka timestamp of each input that is in the log, by partition and offset."""
        self.ends: dict[int, int] = {}
        """Where each partition's log ends, as far as acknowledged."""

    def __enter__(self) -> Feeder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def is_done(self) -> bool:
        """Whether all records are in the log. Raises `FeedFailedError` if one cannot be."""
        if self._failure is not None:
            raise FeedFailedError(self._failure)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # after a fatal error of librdkafka its binding may raise anything
            self._failure = f"the feed broke off after {self.num_fed} inputs: {error!r}"

    def _feed(self) -> None:
        credit, last = 0.0, time.monotonic()
        for record in self._records:
            while credit < 1 and not self._stop.is_set():
                self._producer.poll(STEP_S)
                now = time.monotonic()
                # A pause of the whole machine is not caught up with at once.
                credit = min(credit + (now - last) * self.pace, MAX_STEP_RECORDS)
                last = now
            if self._stop.is_set():
                return
            credit -= 1
            self._producer.produce(record.topic, key=record.key, value=record.value, on_delivery=self._delivered)
            self.num_fed += 1
        if left := self._producer.flush(FLUSH_TIMEOUT_S):
            self._failure = f"{left} inputs were not acknowledged within {FLUSH_TIMEOUT_S:g} s"

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failure = f"an input was not acknowledged: {error.str()}"
            return
        partition: Any = message.partition()
        offset: Any = message.offset()
        self.timestamps[partition, offset] = message.timestamp()[1]
        self.ends[partition] = max(self.ends.get(partition, 0), offset + 1)
