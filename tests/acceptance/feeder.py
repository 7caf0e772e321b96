"""Feeds inputs in the background with librdkafka, as a producer that is not of our making would."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from tests.brokers import Outgoing

PARTITION_UA = -1  # librdkafka's word for a partition that it chooses
STEP_S = 0.02
MAX_STEP_RECORDS = 500
FLUSH_TIMEOUT_S = 120.0
MAX_FATAL_ERRORS = 10
FATAL_WAIT_S = 1.0


class FeedFailedError(Exception):
    """An input did not get into the log, so that nothing can be said of the run."""


class Feeder:
    """Writes records at a pace that may be changed at any time. Starts on entry; stops on exit, done or not.

    A record without a partition goes where Java's client and kafka-python would send it. librdkafka gives a producer up
    for good where it cannot say any longer what is in the log; then a new one sends again, in order, all that has no
    receipt. So the log has every input, those of a key in order, and some perhaps twice: what an input is, the log
    says.
    """

    def __init__(self, bootstrap_servers: str, records: Iterator[Outgoing], pace: float) -> None:
        self._records = records
        self._bootstrap_servers = bootstrap_servers
        self._producer = self._new_producer()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)
        self._failure: str | None = None
        self._refusal: tuple[float, str] | None = None
        """Inputs that were refused: when the last one was, and why the first."""
        self._unacknowledged: dict[int, Outgoing] = {}
        """By their numbers, in order."""
        self.pace = pace
        """Records per second."""
        self.num_fed = 0
        self.fatal_errors: list[str] = []
        """After each of these a new producer began."""
        self.timestamps: dict[tuple[int, int], int] = {}
        """Kafka timestamp of each input whose place in the log is known, by partition and offset."""
        self.ends: dict[int, int] = {}
        """Where each partition's log ends at least, as far as acknowledged."""

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

    def _new_producer(self) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self._bootstrap_servers,
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

    def _run(self) -> None:
        try:
            self._feed()
        except Exception as error:  # nobody else would hear of it
            self._failure = f"the feed broke off after {self.num_fed} inputs: {error!r}"

    def _feed(self) -> None:
        credit, last = 0.0, time.monotonic()
        for record in self._records:
            while credit < 1 and not self._stop.is_set():
                self._serve()
                now = time.monotonic()
                # A pause of the whole machine is not caught up with at once.
                credit = min(credit + (now - last) * self.pace, MAX_STEP_RECORDS)
                last = now
            if self._stop.is_set():
                return
            credit -= 1
            self._unacknowledged[self.num_fed] = record
            self._produce(self.num_fed, record)
            self.num_fed += 1
        deadline = time.monotonic() + FLUSH_TIMEOUT_S
        while self._unacknowledged and not self._stop.is_set():
            if time.monotonic() > deadline:
                raise FeedFailedError(f"no receipts of {len(self._unacknowledged)} within {FLUSH_TIMEOUT_S:g} s")
            self._serve()

    def _produce(self, number: int, record: Outgoing) -> None:
        try:
            self._producer.produce(
                record.topic,
                key=record.key,
                value=record.value,
                partition=PARTITION_UA if record.partition is None else record.partition,
                on_delivery=partial(self._delivered, number),
            )
        except KafkaException as error:
            if not is_fatal(error):
                raise
            # The next poll says why, and then this one is sent with the others.

    def _serve(self) -> None:
        """Take receipts in, for a short while."""
        try:
            self._producer.poll(STEP_S)
        except KafkaException as error:
            if not is_fatal(error):
                raise
            self._begin_anew(str(error))
        # What a fatal error has cost may be said before the error itself.
        if self._refusal is not None and time.monotonic() - self._refusal[0] > FATAL_WAIT_S:
            raise FeedFailedError(f"an input was not acknowledged: {self._refusal[1]}")

    def _begin_anew(self, fatal_error: str) -> None:
        self.fatal_errors.append(fatal_error)
        if len(self.fatal_errors) > MAX_FATAL_ERRORS:
            raise FeedFailedError(f"the producer failed {len(self.fatal_errors)} times, at last with {fatal_error}")
        # What is on its way must not come into the log after what is sent again.
        self._producer.purge(in_flight=False)
        self._producer.flush(FLUSH_TIMEOUT_S)
        self._refusal = None  # of what is sent again
        self._producer = self._new_producer()
        for number, record in self._unacknowledged.items():
            self._produce(number, record)

    def _delivered(self, number: int, error: KafkaError | None, message: Message) -> None:
        """Must not raise: the binding makes a `SystemError` without a cause of some exceptions."""
        if error is not None:
            # The client may answer for the others with what the first has led to, as that it has let go of a broker.
            self._refusal = time.monotonic(), error.str() if self._refusal is None else self._refusal[1]
            return
        del self._unacknowledged[number]
        partition: Any = message.partition()
        offset: Any = message.offset()
        end = self.ends.get(partition, 0)
        # Receipts of a partition come in order. Of a batch that the broker had already, because an earlier answer was
        # lost with its leader, nobody knows the place: librdkafka says none for its first record, then 0, 1, 2.
        if offset is None or offset < end:
            self.ends[partition] = end + 1
            return
        self.timestamps[partition, offset] = message.timestamp()[1]
        self.ends[partition] = offset + 1


def is_fatal(error: KafkaException) -> bool:
    """Whether the producer is of no use any more."""
    cause = error.args[0]
    return bool(cause.fatal() or cause.code() == KafkaError._FATAL)
