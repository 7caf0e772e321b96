"""Unreadable batches, and the partitions that wait before them: in the log, or in what a partition is restored from."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from worker.errors import UnreadableError
from worker.kafka.port import ConsumerPort
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.restore import RestoreStage
from worker.partitions.state import PartitionState, StopReason
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.roles.role import Role

log = logging.getLogger(__name__)

UNREADABLE_RETRY_S = 15.0
READ_ON_S = 5.0
"""A partition that has run for this long since it was tried again can be read on, even if nothing has come of it."""


class ReadFaults:
    """Poll thread."""

    def __init__(self, consumer: ConsumerPort, assignment: Assignment, restore: RestoreStage, role: Role) -> None:
        self._consumer = consumer
        self._assignment = assignment
        self._restore = restore
        self._role = role
        self._restore_again: list[tuple[float, Tenure]] = []
        """Tenures whose state cannot be read, and when to try again (monotonic)."""

    def stop_unreadable(self, now: float) -> None:
        """A partition that cannot be read on finishes what lies before and waits; the others go on."""
        for error in self._consumer.unreadable():
            partition = TopicPartition(error.topic, error.partition)
            # Else it was fetched before it was paused, and is read again from where it begins.
            if partition in self._assignment and self._assignment[partition].is_running:
                assigned = self._assignment[partition]
                self._note(assigned, error, now)
                assigned.hold(StopReason.UNREADABLE, assigned.detail)

    def restoring_failed(self, assigned: AssignedPartition, tenure: Tenure, error: UnreadableError, now: float) -> None:
        """Its changelog, say, cannot be read: it stays restoring, and is tried again."""
        self._note(assigned, error, now)
        self._restore_again.append((assigned.stopped_until, tenure))

    def _note(self, assigned: AssignedPartition, error: UnreadableError, now: float) -> None:
        number = assigned.partition.partition
        log.error("partition %d waits: %s", number, error.one_line(), extra={"action": "unreadable"})
        assigned.cannot_read(error, now + UNREADABLE_RETRY_S)

    def retry_due(self, now: float) -> None:
        """Try again what could not be read, and forget it once a partition has been read on for a while."""
        for assigned in self._assignment.all():
            if assigned.unreadable is None or now < assigned.stopped_until:
                continue
            if assigned.is_held_for(StopReason.UNREADABLE):
                assigned.go_on()
            elif assigned.is_running and now > assigned.stopped_until + READ_ON_S:
                self.read_on(assigned)
        for tenure in [tenure for due, tenure in self._restore_again if now >= due and tenure.is_live]:
            self._restore.request(tenure)
        self._restore_again = [(due, tenure) for due, tenure in self._restore_again if now < due]

    def read_on(self, assigned: AssignedPartition) -> None:
        """Records of the partition have come, or nothing has stood in their way."""
        if assigned.unreadable is not None:
            log.info("partition %d is read on", assigned.partition.partition, extra={"action": "read_on"})
            assigned.can_read()

    def errors(self) -> list[UnreadableError]:
        """Errors that keep partitions from going on: of the log, of what they are restored from, and of the item
        vectors."""
        found = [each.unreadable for each in self._assignment.all() if each.unreadable is not None]
        return [*found, *self._role.unreadable()]

    def require_none(self, lags: Mapping[TopicPartition, int], num_queued: int) -> None:
        """For a run that is to end by itself: raise the error once there is nothing else to do."""
        assigned = self._assignment.all()
        failed = [each.unreadable for each in assigned if each.unreadable is not None and each.num_tries > 1]
        failed += self._role.unreadable()
        is_busy = num_queued or any(
            (each.unreadable is None and (each.state != PartitionState.RUNNING or lags.get(each.partition, 1)))
            or (each.tenure is not None and each.tenure.in_flight)
            for each in assigned
        )
        if failed and assigned and not is_busy:
            raise failed[0]
