"""Whether what is read, and written to, is still the log of before, and follows on what was read of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from worker.kafka.port import ConsumerPort
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.ledger import Ledger
from worker.loop.log_watch import LogWatch
from worker.loop.restore import Restored, RestoreStage
from worker.loop.source import Source
from worker.monitoring.metrics import Metrics
from worker.partitions.state import StopReason
from worker.topics import RoleTopics

log = logging.getLogger(__name__)


class LogContinuity:
    """Poll thread."""

    def __init__(
        self,
        topics: RoleTopics,
        consumer: ConsumerPort,
        assignment: Assignment,
        source: Source,
        restore: RestoreStage,
        ledger: Ledger,
        metrics: Metrics,
    ) -> None:
        self._watch = LogWatch(topics)
        self._consumer = consumer
        self._assignment = assignment
        self._source = source
        self._restore = restore
        self._ledger = ledger
        self._metrics = metrics

    def take_origin(self, assigned: AssignedPartition, restored: Restored) -> None:
        """Begin where restoring has settled, and say what that passes over."""
        origin = restored.origin
        if origin is None:
            return
        if restored.told:
            number = assigned.partition.partition
            self._ledger.new_log(
                assigned.partition, f"partition {number}: {'; '.join(restored.told)}; taken up at its beginning"
            )
        if origin.num_expired:
            self._ledger.expired(assigned.partition, origin.offset - origin.num_expired, origin.offset)
        self._source.rewind(assigned.partition, origin.offset)

    def require_same_logs(self) -> None:
        """Begin anew where a topic is not the one that the work was begun with; raises `TopicError` for one that has
        gone and does not come back."""
        reason = self._watch.changed(self._restore.looked, self._assignment.tenures(), time.monotonic())
        if reason:
            self._begin_again(self._assignment.all(), reason)

    def follow(self, assigned: AssignedPartition, first: int | None) -> bool:
        """Whether what the log hands out next, from offset `first` (None: nothing at present), follows on what it has
        handed out. What it has dropped unseen is counted; where it has gone back, work begins anew."""
        tenure, partition = assigned.tenure, assigned.partition
        reached = self._consumer.position(partition) if first is None else first
        if tenure is None or reached is None or reached == tenure.position:
            return True
        if reached < tenure.position:
            detail = f"the log went back from offset {tenure.position} to {reached}"
            assigned.doubt_log(detail)
            self._begin_again([assigned], f"partition {partition.partition}: {detail}")
            return False
        log_start = self._consumer.log_start(partition)
        if log_start is not None and log_start > tenure.position:
            self._ledger.expired(partition, tenure.position, min(log_start, reached))
        tenure.reached(reached)  # over offsets of markers, and of what was compacted
        return True

    def _begin_again(self, partitions: Sequence[AssignedPartition], reason: str) -> None:
        log.warning("%s: beginning anew with what there is now", reason, extra={"action": "log_changed"})
        self._metrics.rewinds.labels(StopReason.LOG_CHANGED).inc()
        for assigned in partitions:
            self._assignment.rewind(assigned, 0.0, reason, StopReason.LOG_CHANGED)
