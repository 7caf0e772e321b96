"""All of a topic followed from its beginning, outside any group."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from math import inf

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, TopicError, UnreadableError, WorkerError
from worker.kafka.confluent_kafka.connection import CALL_TIMEOUT_S
from worker.kafka.confluent_kafka.consumer import UNREADABLE
from worker.kafka.confluent_kafka.log import fetched, without_larger
from worker.kafka.confluent_kafka.records import unpacked
from worker.kafka.confluent_kafka.second import Second
from worker.kafka.confluent_kafka.translation import TABLE, translate, translated
from worker.kafka.port import TopicLook
from worker.kafka.skips import Skips
from worker.records import Record, TopicPartition

log = logging.getLogger(__name__)

READER_MAX_RECORDS = 2_000
UNREADABLE_RETRY_S = 15.0
READER_LOOK_S = 10.0  # how soon a reader finds new partitions, or that the topic was deleted and made again


class ConfluentReader:
    """Reads all partitions of a topic from their beginning, those that it is given later included."""

    def __init__(
        self,
        consumer: Consumer,
        surveyor: Consumer,
        look: Callable[[], TopicLook | None],
        skips: Skips,
        second: Second,
        topic: str,
        max_record_bytes: int,
    ) -> None:
        """`surveyor` asks for the ends, as far as they may be read; `look` is what the cluster says of the topic."""
        self._consumer = consumer
        self._surveyor = surveyor
        self._look = look
        self._skips = skips
        self._second = second
        self._topic = topic
        self._max_record_bytes = max_record_bytes
        self._positions: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._stopped: dict[TopicPartition, tuple[UnreadableError, float]] = {}
        """With when to try again, monotonic."""
        self._failed: WorkerError | None = None
        """To be raised by the next poll: this one has records."""
        self._topic_id = ""
        self._look_again_at = 0.0
        try:
            with translated(f"reading {topic}"):
                self._follow_topic()
                self._ends = self._find_ends()
        except BaseException:
            self.close()
            raise

    def _follow_topic(self) -> None:
        """Take up new partitions; a topic that was deleted and made again has another log under the same name, whose
        offsets have nothing to do with the old one's."""
        self._look_again_at = time.monotonic() + READER_LOOK_S
        found = self._look()
        if found is None:
            if not self._positions:
                raise TopicError(f"topic {self._topic!r} does not exist")
            return
        if self._topic_id and found.topic_id and found.topic_id != self._topic_id:
            log.warning(
                "topic %s was deleted and made again: it is read from its beginning", self._topic,
                extra={"action": "new_log"},
            )  # fmt: skip
            self._positions.clear()
            self._stopped.clear()
        self._topic_id = found.topic_id or self._topic_id
        partitions = [TopicPartition(self._topic, number) for number in range(found.num_partitions)]
        if new := [partition for partition in partitions if partition not in self._positions]:
            is_anew = not self._positions
            self._positions |= dict.fromkeys(new, OFFSET_BEGINNING)
            placed = [KafkaTopicPartition(*partition, offset) for partition, offset in self._positions.items()]
            self._consumer.assign(placed)
            if is_anew and self._ends:
                self._ends = self._find_ends()

    def _find_ends(self) -> dict[TopicPartition, int]:
        ends = {}
        for partition in self._positions:
            found = self._surveyor.get_watermark_offsets(KafkaTopicPartition(*partition), timeout=CALL_TIMEOUT_S)
            if found is None:
                raise CallTimeoutError(f"no answer on where {partition.topic}/{partition.partition} ends")
            first, ends[partition] = found
            if self._positions[partition] < 0 and first == ends[partition]:
                self._positions[partition] = first  # nothing to come, and so nothing that would tell
        return ends

    def look_again(self) -> None:
        with translated(f"reading {self._topic}"):
            self._follow_topic()
            self._ends = self._find_ends()

    def poll(self, timeout_ms: int) -> Sequence[Record]:
        if (failed := self._failed) is not None:
            self._failed = None
            raise failed
        now = time.monotonic()
        with translated(f"reading {self._topic}"):
            if now > self._look_again_at:
                self._follow_topic()
            self._retry_due(now)
            messages = fetched(self._consumer, timeout_ms / 1000, READER_MAX_RECORDS)
            told = [message for message in messages if message.error() is not None]
            if told:
                messages = [message for message in messages if message.error() is None]
            polled = unpacked(messages, self._max_record_bytes, self._second.reread)
            taken: list[Record] = []
            for partition, found in polled.items():
                if partition not in self._positions:
                    continue
                records, error = without_larger(found)
                self._positions[partition] = found[-1].offset + 1
                taken += records
                if partition in self._stopped and self._stopped[partition][1] == inf:
                    del self._stopped[partition]
                if error is not None:
                    self._stop(partition, error)
            for message in told:
                try:
                    self._take_note(message)
                except WorkerError as error:  # the records are to be handed over first
                    self._failed = error
        return taken

    def _take_note(self, message: Message) -> None:
        """Note a message that is no record."""
        error, number = message.error(), message.partition()
        partition = TopicPartition(self._topic, -1 if number is None else number)
        if partition not in self._positions:
            if error.code() in TABLE:
                raise translate(error, f"reading {self._topic}")
            return
        position, offset = self._positions[partition], message.offset()
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            if offset is not None:
                self._positions[partition] = max(position, int(offset))
        elif error.code() in UNREADABLE:
            found = self._second.unreadable(partition, max(position, 0), f"{error.name()}: {error.str()}")
            if found is not None:
                self._stop(partition, found)

    def _stop(self, partition: TopicPartition, error: UnreadableError) -> None:
        until = self._skips.behind(error)
        if until is None:
            self._positions[partition] = error.offset
            self._consumer.pause([KafkaTopicPartition(*partition)])
            self._stopped[partition] = (error, time.monotonic() + UNREADABLE_RETRY_S)
        else:
            self._stopped.pop(partition, None)
            self._positions[partition] = until
            self._consumer.seek(KafkaTopicPartition(*partition, until))

    def _retry_due(self, now: float) -> None:
        """Try again what could not be read; it counts as stopped until records have come of it."""
        for partition, (error, due) in self._stopped.items():
            if now >= due:
                self._stopped[partition] = (error, inf)
                self._consumer.resume([KafkaTopicPartition(*partition)])
                self._consumer.seek(KafkaTopicPartition(*partition, self._positions[partition]))

    def num_behind(self) -> int:
        return sum(
            max(0, end - max(0, self._positions.get(partition, 0)))
            for partition, end in self._ends.items()
            if partition not in self._stopped
        )

    def unreadable(self) -> Sequence[UnreadableError]:
        return [error for error, _ in self._stopped.values()]

    def close(self) -> None:
        self._consumer.close()
        self._surveyor.close()
