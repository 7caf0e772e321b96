"""Single partitions read outside any group, from wherever one asks to where they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from kafka import KafkaConsumer
from kafka.errors import KafkaError
from kafka.structs import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, UnreadableError
from worker.kafka.advice import stuck
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.kafka.kafka_python.structs import kafka_partition
from worker.kafka.kafka_python.translation import translated
from worker.kafka.kafka_python.unpacking import Unpacking
from worker.kafka.skips import Skips
from worker.records import Record, TopicPartition

# What a reader of logs hands over at once, and a store takes over in one transaction: larger ones are cheaper there.
LOG_MAX_RECORDS = 20_000
LOG_FETCH_BYTES = 4 * 2**20


class KafkaPythonLog:
    """Looks at partitions one after the other through two consumers, which are replaced after a failure: one reads, the
    other one asks for ends, because the first is told of no more than it may read."""

    def __init__(
        self,
        open_consumer: Callable[[], tuple[KafkaConsumer, Unpacking]],
        open_surveyor: Callable[[], KafkaConsumer],
        skips: Skips,
    ) -> None:
        self._open, self._open_surveyor, self._skips = open_consumer, open_surveyor, skips
        self._consumer: KafkaConsumer | None = None
        self._unpacking: Unpacking | None = None
        self._surveyor: KafkaConsumer | None = None

    def beginning(self, partition: TopicPartition, timeout_s: float) -> int:
        tp = kafka_partition(partition)
        with self._used(f"asking for the beginning of {partition.topic}/{partition.partition}") as (_, surveyor):
            return int(surveyor.beginning_offsets([tp], timeout_ms=_call_timeout_ms(timeout_s))[tp])

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        tp = kafka_partition(partition)
        with self._used(f"asking for the end of {partition.topic}/{partition.partition}") as (_, surveyor):
            return int(surveyor.end_offsets([tp], timeout_ms=_call_timeout_ms(timeout_s))[tp])

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[Sequence[Record]]:
        tp, timeout_ms = kafka_partition(partition), _call_timeout_ms(timeout_s)
        with self._used(f"reading {partition.topic}/{partition.partition}") as (consumer, surveyor):
            consumer.assign([tp])
            first = surveyor.beginning_offsets([tp], timeout_ms=timeout_ms)[tp]
            end = surveyor.end_offsets([tp], timeout_ms=timeout_ms)[tp]
            position = max(first, min(first if start is None else start, end - at_least_last))
            self._go_to(consumer, tp, position)
            deadline = time.monotonic() + timeout_s
            # The position, not the last record, says when the end is reached: markers and compacted offsets have none.
            while position < end:
                records = consumer.poll(timeout_ms=500, max_records=LOG_MAX_RECORDS).get(tp, ())
                if records and records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield records
                if (error := self._fault()) is not None:
                    if (until := self._skips.behind(error)) is None:
                        raise error
                    self._go_to(consumer, tp, until)
                previous, position = position, consumer.position(tp, timeout_ms=timeout_ms)
                if position > previous:
                    deadline = time.monotonic() + timeout_s
                elif time.monotonic() > deadline:
                    raise stuck(partition, position, end)

    def unreadable(self, partition: TopicPartition, offset: int, timeout_s: float) -> UnreadableError | None:
        tp, timeout_ms = kafka_partition(partition), _call_timeout_ms(timeout_s)
        with self._used(f"reading {partition.topic}/{partition.partition}") as (consumer, surveyor):
            consumer.assign([tp])
            end = surveyor.end_offsets([tp], timeout_ms=timeout_ms)[tp]
            self._go_to(consumer, tp, offset)
            deadline = time.monotonic() + timeout_s
            while offset < end:
                if consumer.poll(timeout_ms=500, max_records=1).get(tp):
                    return None
                if (error := self._fault()) is not None:
                    return error
                if consumer.position(tp, timeout_ms=timeout_ms) != offset:  # over what is no record, to where none is
                    return None
                if time.monotonic() > deadline:
                    raise CallTimeoutError(f"reading {partition.topic}/{partition.partition}: nothing came in time")
        return None

    def _fault(self) -> UnreadableError | None:
        assert self._unpacking is not None  # it comes with the consumer
        return next(iter(self._unpacking.take_faults().values()), None)

    def _go_to(self, consumer: KafkaConsumer, tp: KafkaTopicPartition, offset: int) -> None:
        """A partition that could not be read is paused, and stays so when it is assigned again."""
        self._fault()
        consumer.seek(tp, offset)
        consumer.resume(tp)

    def close(self) -> None:
        consumers = self._consumer, self._surveyor
        self._consumer = self._surveyor = None
        for consumer in consumers:
            if consumer is not None:
                consumer.close(timeout_ms=1_000)

    @contextlib.contextmanager
    def _used(self, doing: str) -> Iterator[tuple[KafkaConsumer, KafkaConsumer]]:
        with translated(doing):
            try:
                if self._consumer is None:
                    self._consumer, self._unpacking = self._open()
                if self._surveyor is None:
                    self._surveyor = self._open_surveyor()
                yield self._consumer, self._surveyor
            except (KafkaError, CallTimeoutError):
                self.close()
                raise


def _call_timeout_ms(timeout_s: float) -> int:
    """A call to a broker that has gone is not answered; made anew, the consumer finds the one in its place."""
    return min(CALL_TIMEOUT_MS, int(timeout_s * 1000))
