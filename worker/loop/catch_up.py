"""When a worker that is to end by itself has done what was there when it began."""

from __future__ import annotations

from collections.abc import Mapping

from worker.kafka.port import Commit, PartitionReader
from worker.records import TopicPartition

READ_TIMEOUT_S = 10.0


class CatchUp:
    """The whole group's commits have come to where the partitions ended at the start.

    All partitions count, whoever has them, so that the users of a worker with both roles are not begun before every
    item has its vector. Poll thread; raises what the client raises.
    """

    def __init__(self, log: PartitionReader, topic: str, num_partitions: int) -> None:
        self._log = log
        partitions = [TopicPartition(topic, number) for number in range(num_partitions)]
        self._missing = {partition: log.end(partition, READ_TIMEOUT_S) for partition in partitions}

    @property
    def partitions(self) -> list[TopicPartition]:
        """Those that have not come to their end yet."""
        return list(self._missing)

    def is_reached(self, commits: Mapping[TopicPartition, Commit]) -> bool:
        self._missing = {
            partition: end
            for partition, end in self._missing.items()
            if self._is_left(partition, commits.get(partition, Commit(0)).offset, end)
        }
        return not self._missing

    def _is_left(self, partition: TopicPartition, committed: int, end: int) -> bool:
        """Whether there is a record between commit and end. Markers of transactions, aborted and compacted records
        take offsets that nobody ever commits."""
        if committed >= end:
            return False
        first = next(iter(self._log.read(partition, committed, timeout_s=READ_TIMEOUT_S)), None)
        return first is not None and first[0].offset < end

    def close(self) -> None:
        self._log.close()
