"""The figures of a role: looked at twice a second, exported as metrics, and kept for the status page."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from worker.kafka.port import ConsumerPort
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.ledger import Ledger
from worker.loop.log_continuity import LogContinuity
from worker.loop.read_faults import ReadFaults
from worker.loop.restore import RestoreStage
from worker.loop.source import Source
from worker.monitoring.metrics import BUSY_STAGES, Metrics, raise_to
from worker.partitions.state import PartitionState, StopReason
from worker.records import TopicPartition
from worker.roles.role import Role
from worker.stages.batch_queue import BatchQueue
from worker.stages.publish import Unacknowledged
from worker.stages.stage import Stage
from worker.state import Stores

log = logging.getLogger(__name__)

OBSERVE_INTERVAL_S = 0.5


class Observer:
    """Poll thread. What it keeps is read on that thread, too."""

    def __init__(
        self,
        role: Role,
        consumer: ConsumerPort,
        assignment: Assignment,
        source: Source,
        queue: BatchQueue,
        unacknowledged: Unacknowledged,
        stages: Sequence[Stage],
        restore: RestoreStage,
        stores: Stores,
        ledger: Ledger,
        continuity: LogContinuity,
        faults: ReadFaults,
        backlog_records: int,
        metrics: Metrics,
    ) -> None:
        """`backlog_records`: with more than these not computed the role is in backlog mode."""
        self._role = role
        self._topic = role.topics.inputs
        self._consumer = consumer
        self._assignment = assignment
        self._source = source
        self._queue = queue
        self._unacknowledged = unacknowledged
        self._stages = stages
        self._restore = restore
        self._stores = stores
        self._ledger = ledger
        self._continuity = continuity
        self._faults = faults
        self._backlog_records = backlog_records
        self._metrics = metrics
        self._next_at = 0.0
        self._began_at = time.monotonic()
        self.is_backlog = False
        self.num_values = 0
        """Items or users that are remembered."""
        self.num_state_bytes = 0
        self.lags: Mapping[TopicPartition, int] = {}
        self.restoring_since: float | None = None
        """Monotonic time since when the partition has not been running that is restored, or about to be, longest."""

    def begin(self) -> None:
        """From now on the loop polls."""
        self._began_at = time.monotonic()

    def look_due(self) -> bool:
        """Refresh the figures, and move commits over markers, if half a second has passed; returns whether it did."""
        now = time.monotonic()
        if now < self._next_at:
            return False
        self._next_at = now + OBSERVE_INTERVAL_S
        for notice in self._role.notices():
            self._ledger.notice(notice)
        for each in self._assignment.in_state(PartitionState.RUNNING):
            if self._continuity.follow(each, None) and each.tenure is not None:
                each.tenure.pass_over()
        assigned = self._assignment.all()
        self.lags = self._consumer.lag([each.partition for each in assigned])
        self._choose_mode()
        self._measure_lags(assigned, now)
        self._measure_states(assigned)
        self._measure_busy(now)
        self._measure_rest()
        self._ledger.check(self._assignment.in_flight)
        return True

    @property
    def num_queued(self) -> int:
        """Records read and not computed."""
        encoding = self._role.encoding
        return self._queue.num_records + (0 if encoding is None else encoding.num_records)

    @property
    def num_unacknowledged(self) -> int:
        return self._unacknowledged.num_records

    @property
    def silent_s(self) -> float:
        """Since a broker has answered."""
        return time.monotonic() - self._consumer.contact().heard_at

    @property
    def is_stable(self) -> bool:
        """Whether the group is."""
        return self._consumer.is_stable()

    def _choose_mode(self) -> None:
        total_lag = sum(self.lags.values())
        is_backlog = total_lag + self.num_queued > self._backlog_records
        if is_backlog != self.is_backlog:
            log.info("%s mode, lag %d", "backlog" if is_backlog else "live", total_lag, extra={"action": "mode"})
            self.is_backlog = is_backlog
            self._queue.set_backlog(is_backlog)

    def _measure_lags(self, assigned: Sequence[AssignedPartition], now: float) -> None:
        metrics = self._metrics
        for each in assigned:
            topic, partition = each.partition
            lag = self.lags.get(each.partition)
            if lag is not None and each.tenure is not None:
                metrics.position_lag.labels(topic, str(partition)).set(lag)
                metrics.lag.labels(topic, str(partition)).set(lag + each.tenure.in_flight)
            each.look(lag, self._consumer.heard_of(each.partition), now, time.time() * 1000)
            metrics.lag_seconds.set_since([topic, str(partition)], each.behind_since)

    def _measure_states(self, assigned: Sequence[AssignedPartition]) -> None:
        metrics, topic = self._metrics, self._topic
        if (num_partitions := self._consumer.num_partitions(topic)) is not None:
            metrics.topic_partitions.labels(topic).set(num_partitions)
        for state in PartitionState:
            metrics.partitions.labels(topic, state).set(sum(each.state == state for each in assigned))
        stopped = [each.reason for each in assigned if each.state == PartitionState.STOPPED]
        for reason in StopReason:
            metrics.stopped_partitions.labels(topic, reason).set(stopped.count(reason))
        restoring = (PartitionState.NEW, PartitionState.RESTORING)
        since = [each.not_running_since for each in assigned if each.state in restoring]
        self.restoring_since = min(since, default=None)
        metrics.restoring_seconds.set_since([topic], self.restoring_since)

    def _measure_busy(self, now: float) -> None:
        busy = {stage.name: stage.busy_s for stage in self._stages}
        busy["poll"] = now - self._began_at - self._source.idle_s
        for name in BUSY_STAGES:
            if name in busy:
                raise_to(self._metrics.busy.labels(name), busy[name])

    def _measure_rest(self) -> None:
        metrics = self._metrics
        metrics.show_unreadable(self._faults.errors())
        metrics.queue_depth.set(self.num_queued)
        metrics.unacknowledged.set(self.num_unacknowledged)
        self.num_values, self.num_state_bytes = self._stores.size()
        metrics.state_values.labels(self._topic).set(self.num_values)
        metrics.state_bytes.labels(self._topic).set(self.num_state_bytes)
        raise_to(metrics.restored.labels(self._topic), self._restore.num_records)
        self._role.export(metrics)
        if (watch := self._role.watch) is not None:
            metrics.show_vector_health(self._role.output.space_id or "", watch.findings, watch.num_ill)
