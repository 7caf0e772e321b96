"""The partitions this worker has, and what each of them is doing.

Rebalances reach `Assignment` while the poll thread is blocked in a poll or in closing the consumer, so poll thread
and client thread never work on it at the same time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from worker.kafka.port import Commit, Membership
from worker.loop.assigned_partition import AssignedPartition
from worker.monitoring.metrics import Metrics
from worker.partitions.batch_slice import BatchSlice
from worker.partitions.lease import MembershipLease, boottime
from worker.partitions.state import PartitionState, StopReason
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.stages.batch_queue import BatchQueue

log = logging.getLogger(__name__)

_DRAIN_STEP_S = 0.01


class Assignment:
    """Implements `kafka.PartitionListener`, and keeps the tenures."""

    def __init__(
        self,
        queue: BatchQueue,
        lease: MembershipLease,
        metrics: Metrics,
        revoke_timeout_s: float,
        on_settled: Callable[[BatchSlice], None],
        on_forgotten: Callable[[int], None],
        *,
        commits_itself: bool = False,
    ) -> None:
        """`commits_itself`: what is finished has been committed with it."""
        self._commits_itself = commits_itself
        self._queue = queue
        self._lease = lease
        self._metrics = metrics
        self._revoke_timeout_s = revoke_timeout_s
        self._on_settled = on_settled
        self._on_forgotten = on_forgotten
        self._assigned: dict[TopicPartition, AssignedPartition] = {}
        self.assigned_at: float | None = None
        """`boottime` of the last assignment, which proves membership; None once it has been used."""
        self.was_lost = False
        """Partitions were lost since the loop last looked: what the producers still hold must not be written."""

    def __getitem__(self, partition: TopicPartition) -> AssignedPartition:
        return self._assigned[partition]

    def __contains__(self, partition: object) -> bool:
        return partition in self._assigned

    def all(self) -> list[AssignedPartition]:
        return list(self._assigned.values())

    def in_state(self, state: PartitionState) -> list[AssignedPartition]:
        return [each for each in self._assigned.values() if each.state == state]

    def tenures(self) -> list[Tenure]:
        return [each.tenure for each in self._assigned.values() if each.tenure is not None]

    # What the client tells.

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.assigned_at = boottime()
        for partition in partitions:
            if partition not in self._assigned:
                self._assigned[partition] = AssignedPartition(partition)
        self._count("assigned", partitions)

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        """Drop what has not been begun, give what has been begun a moment, and return what is finished."""
        tenures = [each.tenure for each in self._of(partitions) if each.tenure is not None]
        for tenure in tenures:
            self._queue.discard(tenure)
        deadline = time.monotonic() + self._revoke_timeout_s
        while any(self._settle(tenure) for tenure in tenures) and time.monotonic() < deadline:
            time.sleep(_DRAIN_STEP_S)
        commits = {tenure.partition: tenure.commit for tenure in tenures if tenure.has_news()}
        self._forget(partitions)
        self._count("revoked", partitions)
        return commits

    def lost(self, partitions: Collection[TopicPartition]) -> None:
        self._lease.end()
        self.was_lost = True
        self._forget(partitions)
        self._count("lost", partitions)

    # What the loop asks for.

    def rewind(self, assigned: AssignedPartition, until: float, detail: str, reason: StopReason) -> None:
        """Give up what is in flight. The partition begins again from its commit, not before `until`."""
        if (ended := assigned.stop(reason, detail, until, time.monotonic())) is not None:
            self._retire(ended)

    def settle(self) -> None:
        """Book what has been acknowledged."""
        for tenure in self.tenures():
            self._settle(tenure)

    def failures(self) -> list[tuple[AssignedPartition, BatchSlice]]:
        """Slices with an output that could not be written, with their partitions."""
        return [
            (assigned, failed)
            for assigned in self._assigned.values()
            if assigned.tenure is not None
            for failed in assigned.tenure.failures()
        ]

    def commits(self) -> dict[TopicPartition, Commit]:
        """Commits that are due: finished and not committed."""
        return {tenure.partition: tenure.commit for tenure in self.tenures() if tenure.has_news()}

    def positions(self) -> dict[TopicPartition, Commit]:
        """Committable positions, committed or not."""
        return {tenure.partition: tenure.commit for tenure in self.tenures()}

    def held_by(self, membership: Membership) -> None:
        """The partitions are held by this place in the group, as of the last poll."""
        for tenure in self.tenures():
            tenure.membership = membership

    @property
    def in_flight(self) -> int:
        return sum(tenure.in_flight for tenure in self.tenures())

    def retire_all(self) -> None:
        """End every tenure: the process stops."""
        for tenure in self.tenures():
            self._retire(tenure)

    def _settle(self, tenure: Tenure) -> bool:
        """Whether the tenure has unfinished slices that may still finish."""
        settled = tenure.settle()
        for each in settled:
            self._on_settled(each)
        if self._commits_itself and settled:  # what moved the commit besides, as markers do, has still to be committed
            tenure.committed(tenure.commit)
        return tenure.is_live and tenure.has_open_slices() and not tenure.failures()

    def _retire(self, tenure: Tenure) -> None:
        if tenure.is_live:
            self._queue.discard(tenure)
            self._settle(tenure)
            self._metrics.accounting.abandoned += tenure.retire()

    def _forget(self, partitions: Collection[TopicPartition]) -> None:
        for assigned in self._of(partitions):
            if assigned.tenure is not None:
                self._retire(assigned.tenure)
            del self._assigned[assigned.partition]
            self._on_forgotten(assigned.partition.partition)
            self._metrics.forget_partition(*assigned.partition)

    def _of(self, partitions: Iterable[TopicPartition]) -> list[AssignedPartition]:
        return [self._assigned[partition] for partition in partitions if partition in self._assigned]

    def _count(self, event: str, partitions: Collection[TopicPartition]) -> None:
        if not partitions and event != "assigned":  # the client also tells a member that had nothing to lose
            return
        self._metrics.rebalances.labels(event).inc()
        self._metrics.assigned_partitions.labels(self._metrics.topic).set(len(self._assigned))
        log.info(
            "partitions %s: %s",
            event,
            sorted(partition for _, partition in partitions),
            extra={"action": event},
        )
