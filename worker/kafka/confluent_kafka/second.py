"""Calls that librdkafka or its binding lacks, made by kafka-python, which is always installed: rare, and short.

- Take a named member out of its group, or one whose own calls are stuck.
- Show the bytes of a batch that cannot be read, and where the next one begins.
- Read and write headers whose names are not UTF-8.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from worker.errors import BATCH_FAULTS, UnreadableError, WorkerError
from worker.kafka.port import Lease, Membership, PartitionReader, ProducerPort
from worker.records import Record, TopicPartition
from worker.settings import KafkaSettings

if TYPE_CHECKING:
    from worker.kafka.kafka_python.client import KafkaPythonClient

log = logging.getLogger(__name__)

TIMEOUT_S = 10.0


class Second:
    """Any thread; each call opens a connection of its own."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings

    def leave_group(self, member: Membership, timeout_s: float) -> None:
        """Raises what the port's `leave` does."""
        from worker.kafka.kafka_python.membership import leave

        leave(self._settings, member, timeout_s)

    def unreadable(self, partition: TopicPartition, offset: int, reason: str) -> UnreadableError | None:
        """Find what keeps a partition from being read from an offset on; None where nothing does. `reason`: what the
        first library says."""
        try:
            with contextlib.closing(self._client().log()) as log_:
                return log_.unreadable(partition, offset, TIMEOUT_S)
        except Exception as error:  # what stands is that it cannot be read
            log.warning("%s", error, extra={"action": "diagnosis_failed"})
            return UnreadableError(*partition, offset, BATCH_FAULTS[0], reason)

    def reread(self, partition: TopicPartition, first: int, last: int) -> Sequence[Record]:
        """The records from `first` to `last`; what cannot be had is missing."""
        found: list[Record] = []
        try:
            with contextlib.closing(self._client().log()) as log_:
                self._read(log_, partition, first, last, found.append)
        except WorkerError as error:
            log.warning("headers are missing: %s", error.one_line(), extra={"action": "headers_missing"})
        return found

    def _read(
        self, log_: PartitionReader, partition: TopicPartition, first: int, last: int, take: Callable[[Record], None]
    ) -> None:
        for records in log_.read(partition, first, timeout_s=TIMEOUT_S):
            for record in records:
                if record.offset > last:
                    return
                take(record)
            if records[-1].offset >= last:
                return

    def producer(self, lease: Lease | None) -> ProducerPort:
        return self._client().producer(lease)

    def _client(self) -> KafkaPythonClient:
        from worker.kafka.kafka_python.client import KafkaPythonClient

        return KafkaPythonClient(self._settings)
