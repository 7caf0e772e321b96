"""All of a topic followed from its beginning, outside any group."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from math import inf
from typing import Any

from kafka import KafkaConsumer
from kafka.structs import TopicPartition as KafkaTopicPartition

from worker.errors import UnreadableError
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.kafka.kafka_python.translation import translated
from worker.kafka.kafka_python.unpacking import Unpacking
from worker.kafka.skips import Skips
from worker.records import Record

log = logging.getLogger(__name__)

READER_MAX_RECORDS = 2_000
UNREADABLE_RETRY_S = 15.0
READER_METADATA_S = 60.0  # how soon a reader finds partitions that a topic is given later
READER_METADATA_MS = 10_000  # how soon it finds out that the topic was deleted and made again


class KafkaPythonReader:
    """Reads all partitions of a topic from their beginning, those that it is given later included."""

    def __init__(self, consumer: KafkaConsumer, unpacking: Unpacking, skips: Skips, topic: str) -> None:
        self._consumer = consumer
        self._unpacking = unpacking
        self._skips = skips
        self._topic = topic
        self._stopped: dict[KafkaTopicPartition, tuple[UnreadableError, float]] = {}
        """With when to try again, monotonic."""
        self._look_again_at = 0.0
        self._topic_id: Any = None
        try:
            self._take_new_partitions()
            self._topic_id = self._current_id()
            self._ends = self._find_ends()
        except BaseException:
            consumer.close(timeout_ms=1_000)
            raise

    def _find_ends(self) -> dict[KafkaTopicPartition, int]:
        return dict(self._consumer.end_offsets(list(self._consumer.assignment()), timeout_ms=CALL_TIMEOUT_MS))

    def look_again(self) -> None:
        with translated(f"reading {self._topic}"):
            self._take_new_partitions()
            self._ends = self._find_ends()

    def poll(self, timeout_ms: int) -> Sequence[Record]:
        with translated(f"reading {self._topic}"):
            self._begin_again_in_new_log()
            if time.monotonic() > self._look_again_at:
                self._take_new_partitions()
            self._retry_due(time.monotonic())
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=READER_MAX_RECORDS)
            self._stop_unreadable()
            for tp in polled:
                if tp in self._stopped and self._stopped[tp][1] == inf:
                    del self._stopped[tp]
        return [record for records in polled.values() for record in records]

    def num_behind(self) -> int:
        with translated(f"reading {self._topic}"):
            return sum(
                max(0, end - self._consumer.position(tp, timeout_ms=CALL_TIMEOUT_MS))
                for tp, end in self._ends.items()
                if tp not in self._stopped
            )

    def _current_id(self) -> Any:
        """Id of the topic, as far as the client knows; None where the cluster gives topics none, or it is gone."""
        return self._consumer._client.cluster.topic_id(self._topic)  # noqa: SLF001  # nothing public tells

    def _begin_again_in_new_log(self) -> None:
        """A topic that was deleted and made again has another log under the same name: offsets of the old one say
        nothing, and where that was shorter nothing would be noticed."""
        topic_id, numbers = self._current_id(), self._consumer.partitions_for_topic(self._topic)
        if topic_id is None or topic_id == self._topic_id or not numbers:
            return
        is_another, self._topic_id = self._topic_id is not None, topic_id
        if is_another:
            log.warning(
                "topic %s was deleted and made again: it is read from its beginning", self._topic,
                extra={"action": "new_log"},
            )  # fmt: skip
            partitions = [KafkaTopicPartition(self._topic, number) for number in sorted(numbers)]
            self._consumer.assign(partitions)
            self._consumer.seek_to_beginning(*partitions)
            self._consumer.resume(*partitions)
            self._stopped.clear()
            self._ends = self._find_ends()

    def unreadable(self) -> Sequence[UnreadableError]:
        return [error for error, _ in self._stopped.values()]

    def _stop_unreadable(self) -> None:
        for tp, error in self._unpacking.take_faults().items():
            until = self._skips.behind(error)
            if until is None:
                self._stopped[tp] = (error, time.monotonic() + UNREADABLE_RETRY_S)
            else:
                self._stopped.pop(tp, None)
                self._consumer.seek(tp, until)
                self._consumer.resume(tp)

    def _retry_due(self, now: float) -> None:
        """Try again what could not be read; it counts as stopped until records have come of it."""
        for tp, (error, due) in self._stopped.items():
            if now >= due:
                self._stopped[tp] = (error, inf)
                self._consumer.resume(tp)

    def close(self) -> None:
        self._consumer.close(timeout_ms=1_000)

    def _take_new_partitions(self) -> None:
        self._look_again_at = time.monotonic() + READER_METADATA_S
        known = self._consumer.assignment()
        numbers = self._consumer.partitions_for_topic(self._topic) or ()
        if new := [tp for number in sorted(numbers) if (tp := KafkaTopicPartition(self._topic, number)) not in known]:
            positions = {tp: self._consumer.position(tp, timeout_ms=CALL_TIMEOUT_MS) for tp in known}
            self._consumer.assign([*known, *new])
            self._consumer.seek_to_beginning(*new)
            for tp, position in positions.items():
                self._consumer.seek(tp, position)
