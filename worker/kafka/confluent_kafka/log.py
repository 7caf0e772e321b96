"""Single partitions read outside any group, from wherever one asks to where they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, UnreadableError, WorkerError
from worker.kafka.advice import stuck
from worker.kafka.confluent_kafka.connection import CALL_TIMEOUT_S
from worker.kafka.confluent_kafka.consumer import UNREADABLE
from worker.kafka.confluent_kafka.records import unpacked
from worker.kafka.confluent_kafka.second import Second
from worker.kafka.confluent_kafka.translation import TABLE, translate, translated
from worker.kafka.skips import Skips
from worker.records import OversizedRecord, Record, TopicPartition

# What a reader of logs hands over at once, and a store takes over in one transaction: larger ones are cheaper there.
LOG_MAX_RECORDS = 20_000
STEP_S = 0.5


class ConfluentLog:
    """Looks at partitions one after the other through two consumers, which are replaced after a failure: one reads, the
    other one asks for ends, because the first is told of no more than it may read."""

    def __init__(
        self,
        open_consumer: Callable[[], Consumer],
        open_surveyor: Callable[[], Consumer],
        skips: Skips,
        second: Second,
        max_record_bytes: int,
    ) -> None:
        self._open, self._open_surveyor, self._skips, self._second = open_consumer, open_surveyor, skips, second
        self._max_record_bytes = max_record_bytes
        self._consumer: Consumer | None = None
        self._surveyor: Consumer | None = None

    def beginning(self, partition: TopicPartition, timeout_s: float) -> int:
        with self._used(f"asking for the beginning of {partition.topic}/{partition.partition}"):
            return self._bounds(partition, timeout_s)[0]

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        with self._used(f"asking for the end of {partition.topic}/{partition.partition}"):
            return self._bounds(partition, timeout_s)[1]

    def _bounds(self, partition: TopicPartition, timeout_s: float) -> tuple[int, int]:
        if self._surveyor is None:
            self._surveyor = self._open_surveyor()
        found = self._surveyor.get_watermark_offsets(
            KafkaTopicPartition(*partition), timeout=min(CALL_TIMEOUT_S, timeout_s)
        )
        if found is None:
            raise CallTimeoutError(f"no answer on where {partition.topic}/{partition.partition} begins and ends")
        return int(found[0]), int(found[1])

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[Sequence[Record]]:
        with self._used(f"reading {partition.topic}/{partition.partition}"):
            if self._consumer is None:
                self._consumer = self._open()
            consumer = self._consumer
            first, end = self._bounds(partition, timeout_s)
            position = max(first, min(first if start is None else start, end - at_least_last))
            if position >= end:
                return
            consumer.assign([KafkaTopicPartition(*partition, position)])
            try:
                yield from self._read(consumer, partition, position, end, timeout_s)
            finally:
                with contextlib.suppress(KafkaException, RuntimeError):
                    consumer.unassign()  # it would go on fetching

    def _read(
        self, consumer: Consumer, partition: TopicPartition, position: int, end: int, timeout_s: float
    ) -> Iterator[Sequence[Record]]:
        deadline = time.monotonic() + timeout_s
        while position < end:
            messages = fetched(consumer, STEP_S, LOG_MAX_RECORDS)
            told = [message for message in messages if message.error() is not None]
            if told:
                messages = [message for message in messages if message.error() is None]
            previous, found = position, None
            if messages:
                records = unpacked(messages, self._max_record_bytes, self._second.reread)[partition]
                position = records[-1].offset + 1
                if records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                records, found = without_larger(records)
                if records:
                    yield records
            if found is not None:
                position = self._go_behind(consumer, partition, found)
            for message in told:
                position = self._behind(consumer, partition, message, position)
            if position > previous:
                deadline = time.monotonic() + timeout_s
            elif time.monotonic() > deadline:
                raise stuck(partition, position, end)

    def _go_behind(self, consumer: Consumer, partition: TopicPartition, found: UnreadableError) -> int:
        """Where what cannot be read is left out; else it is raised."""
        if (until := self._skips.behind(found)) is None:
            raise found
        consumer.assign([KafkaTopicPartition(*partition, until)])
        return until

    def _behind(self, consumer: Consumer, partition: TopicPartition, message: Message, position: int) -> int:
        """Where to read on after what is no record."""
        error, offset = message.error(), message.offset()
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            return position if offset is None else max(position, int(offset))
        if error.code() in UNREADABLE:
            found = self._second.unreadable(partition, position, f"{error.name()}: {error.str()}")
            return position if found is None else self._go_behind(consumer, partition, found)
        if error.code() in TABLE:
            raise translate(error, f"reading {partition.topic}/{partition.partition}")
        return position

    def unreadable(self, partition: TopicPartition, offset: int, timeout_s: float) -> UnreadableError | None:
        return self._second.unreadable(partition, offset, "it cannot be read")

    def close(self) -> None:
        consumers = self._consumer, self._surveyor
        self._consumer = self._surveyor = None
        for consumer in consumers:
            if consumer is not None:
                consumer.close()

    @contextlib.contextmanager
    def _used(self, doing: str) -> Iterator[None]:
        try:
            with translated(doing):
                yield
        except WorkerError:
            self.close()
            raise


def fetched(consumer: Consumer, timeout_s: float, max_records: int) -> list[Message]:
    """Records as soon as there are any. With more than one asked for, the library would wait until they are
    all there, or the time is over. What has been taken out is never lost to an error that comes behind it."""
    messages: list[Message] = consumer.consume(1, timeout_s)
    if messages:
        with contextlib.suppress(KafkaException):  # the next call says so again
            messages += consumer.consume(max_records - 1, 0)
    return messages


def without_larger(records: list[Record]) -> tuple[list[Record], UnreadableError | None]:
    """The records before the first that is larger than any of ours, and an error for that: with its value left out, it
    would look like a delete. Our own may be larger than a message: a dead letter, the state of an item."""
    for index, record in enumerate(records):
        if type(record) is OversizedRecord:
            detail = f"a record of {record.num_bytes} bytes is no record of ours"
            return records[:index], UnreadableError(
                record.topic, record.partition, record.offset, "too_large", detail, next_offset=record.offset + 1
            )
    return records, None
