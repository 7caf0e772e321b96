"""When a worker that is to end by itself has done what was there when it began."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from worker.errors import CallTimeoutError, ClientError
from worker.kafka.port import ClientPort, Commit, ConsumerPort, PartitionReader
from worker.loop.assignment import Assignment
from worker.records import TopicPartition
from worker.roles.role import Role
from worker.stages.batch_queue import BatchQueue

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 10.0
LOOK_INTERVAL_S = 0.5
NUM_QUIET_LOOKS = 2


class EndOffsets:
    """Where the partitions of a topic ended at the start, as a goal for the commits of the whole group.

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

    def are_reached(self, commits: Mapping[TopicPartition, Commit]) -> bool:
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


class CatchUp:
    """Sees when the group has come to where the inputs ended, and nothing is left to do. Poll thread."""

    def __init__(self, consumer: ConsumerPort, assignment: Assignment, queue: BatchQueue, role: Role) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._queue = queue
        self._role = role
        self._ends: EndOffsets | None = None
        self._next_look = 0.0
        self._num_quiet_looks = 0
        self.is_done = False

    def begin(self, client: ClientPort) -> None:
        """Take note of where the inputs end now; raises what the client raises."""
        topic = self._role.topics.inputs
        self._ends = EndOffsets(client.log(), topic, client.describe_topics([topic])[topic].num_partitions)

    def look_due(self, now: float) -> None:
        """See whether the ends are reached, and nothing has come up since the last look: what the item vectors have
        just brought is known to the loop only when it has come round again."""
        if self._ends is None or now < self._next_look:
            return
        self._next_look = now + LOOK_INTERVAL_S
        try:
            is_reached = self._is_quiet() and self._ends.are_reached(self._consumer.committed(self._ends.partitions))
            is_quiet = is_reached and self._role.is_up_to_date()  # with the outputs of the whole group
        except (ClientError, CallTimeoutError) as error:
            log.warning("%s", error.one_line(), extra={"action": "look_failed"})
            is_quiet = False
        self._num_quiet_looks = self._num_quiet_looks + 1 if is_quiet else 0
        self.is_done = self._num_quiet_looks >= NUM_QUIET_LOOKS

    def _is_quiet(self) -> bool:
        return (
            self._consumer.is_stable()
            and self._role.is_ready()
            and not self._queue.num_records
            and all(each.is_running and not each.has_to_recompute for each in self._assignment.all())
            and not any(tenure.in_flight or tenure.has_open_slices() for tenure in self._assignment.tenures())
        )

    def close(self) -> None:
        if self._ends is not None:
            self._ends.close()
