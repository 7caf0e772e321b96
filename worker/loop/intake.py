"""From polled records to what waits to be computed: decode, encode raw content, accept, queue."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from worker.errors import ClientError
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.key_watch import KeyWatch
from worker.loop.ledger import Ledger
from worker.loop.log_continuity import LogContinuity
from worker.loop.read_faults import ReadFaults
from worker.loop.restore import RestoreStage
from worker.mapping.registry import Lookup
from worker.monitoring.metrics import Metrics
from worker.partitions.state import PartitionState, StopReason
from worker.partitions.tenure import Tenure
from worker.records import Record, TopicPartition
from worker.roles.role import Role
from worker.stages.batch_queue import BatchQueue

log = logging.getLogger(__name__)

MARKER = 1  # offset: behind the last record of a transaction, where there may be nothing else


class Intake:
    """Poll thread."""

    def __init__(
        self,
        role: Role,
        assignment: Assignment,
        queue: BatchQueue,
        continuity: LogContinuity,
        faults: ReadFaults,
        restore: RestoreStage,
        ledger: Ledger,
        lag: Callable[[Collection[TopicPartition]], Mapping[TopicPartition, int]],
        rewind: Callable[[TopicPartition, int], None],
        max_records: int,
        metrics: Metrics,
    ) -> None:
        """`lag`: offsets that partitions have which have not been polled. `rewind` has a partition, once it is running,
        read again from an offset; raises what the client raises. `max_records`: of a micro-batch; so many are
        computed anew at a time."""
        self._role = role
        self._topic = role.topics.inputs
        self._encoding = role.encoding
        self._assignment = assignment
        self._queue = queue
        self._continuity = continuity
        self._faults = faults
        self._restore = restore
        self._ledger = ledger
        self._lag = lag
        self._rewind = rewind
        self._max_records = max_records
        self._metrics = metrics
        self._keys = KeyWatch(role.topics, metrics)
        self._awaited: dict[TopicPartition, tuple[Tenure, Lookup[Any]]] = {}
        """Partitions that are held before a record whose schema is being asked for."""

    def accept(self, polled: Mapping[TopicPartition, Sequence[Record]]) -> None:
        """Queue what has been polled, or hand it to be encoded first."""
        if not polled:
            self._queue.expect_more(False)
            return
        started = time.monotonic()
        self._queue.expect_more(True)  # of all partitions together
        for partition, records in polled.items():
            if partition in self._assignment:
                self._accept(self._assignment[partition], records)
        lags = self._lag(list(polled))
        self._queue.expect_more(any(lag > MARKER for lag in lags.values()))
        self._metrics.stage_duration.labels("decode").observe(time.monotonic() - started)

    def _accept(self, assigned: AssignedPartition, records: Sequence[Record]) -> None:
        tenure = assigned.tenure
        if not assigned.is_running or tenure is None or tenure.overlay is None:
            return  # fetched before it was paused; the seek of its tenure brings it again
        if not self._continuity.follow(assigned, records[0].offset):
            return
        decoded = self._role.decode(records)
        if decoded.awaits is not None:
            first = records[len(decoded.entries)].offset
            records = records[: len(decoded.entries)]
            if not self._await(assigned, tenure, first, decoded.awaits) or not records:
                return
        tenure.reached(records[-1].offset + 1)
        if (notice := self._keys.look(assigned.partition, records, self._restore.looked)) is not None:
            self._ledger.notice(notice)
        self._metrics.features_ignored.labels(self._topic).inc(decoded.num_features_ignored)
        self._metrics.content_ignored.labels(self._topic).inc(decoded.num_content_ignored)
        self._ledger.consumed(len(records))
        tenure.consumed(records)
        self._faults.read_on(assigned)
        if self._encoding is not None and self._encoding.takes(tenure, decoded.entries):
            self._encoding.put(tenure, decoded.entries)
        else:
            self._queue.put(tenure, self._role.accept(decoded.entries, tenure.overlay))

    def _await(self, assigned: AssignedPartition, tenure: Tenure, offset: int, lookup: Lookup[Any]) -> bool:
        """Read a partition no further than to a record that cannot be read yet. Whether it can be read on from there;
        otherwise it begins again from its commit."""
        try:
            self._rewind(assigned.partition, offset)
        except ClientError as error:
            self._assignment.rewind(assigned, 0.0, error.one_line(), StopReason.REGISTRY_DOWN)
            return False
        assigned.hold(StopReason.REGISTRY_DOWN, lookup.detail)
        self._awaited[assigned.partition] = tenure, lookup
        return True

    def hold_for_registry(self) -> None:
        """A partition with a record whose schema is being asked for is read on once that is settled, one way or the
        other; the others go on."""
        for partition, (tenure, lookup) in list(self._awaited.items()):
            if partition not in self._assignment:
                del self._awaited[partition]
                continue
            assigned = self._assignment[partition]
            if assigned.tenure is not tenure or not assigned.is_held_for(StopReason.REGISTRY_DOWN):
                del self._awaited[partition]
            elif lookup.is_settled:
                del self._awaited[partition]
                log.info("partition %d is read on", partition.partition, extra={"action": "read_on"})
                assigned.go_on()
            else:
                assigned.hold(StopReason.REGISTRY_DOWN, lookup.detail)

    def accept_encoded(self) -> None:
        """Queue what was raw content and has become features."""
        if self._encoding is None:
            return
        for tenure, entries in self._encoding.take():
            assert tenure.overlay is not None  # or it would not have been put in
            self._queue.put(tenure, self._role.accept(entries, tenure.overlay))

    def hold_for_encoders(self) -> None:
        """A partition whose content waits for an encoder that is down is read no further; the others go on."""
        stalled = {} if self._encoding is None else self._encoding.stalled()
        for assigned in self._assignment.all():
            detail = None if assigned.tenure is None else stalled.get(assigned.tenure)
            is_held = assigned.is_held_for(StopReason.ENCODER_DOWN)
            if detail is not None and (assigned.is_running or is_held):
                assigned.hold(StopReason.ENCODER_DOWN, detail)
            elif detail is None and is_held:
                log.info("partition %d is read on", assigned.partition.partition, extra={"action": "read_on"})
                assigned.go_on()

    def recompute(self, *, is_backlog: bool) -> None:
        """Queue what has to be computed anew without a record, as far as there is room."""
        for number, ids in self._role.newly_due().items():
            partition = TopicPartition(self._topic, number)
            if partition in self._assignment:
                self._assignment[partition].recompute_later(ids)
        if is_backlog and not self._role.recomputes_in_backlog:
            return
        working = (PartitionState.RUNNING, PartitionState.STOPPED)  # held before a batch that cannot be read
        for assigned in [each for state in working for each in self._assignment.in_state(state)]:
            tenure = assigned.tenure
            if tenure is None:
                continue
            while assigned.has_to_recompute and tenure.overlay is not None and not self._queue.is_full():
                ids = assigned.take_to_recompute(self._max_records)
                entries = self._role.recompute(ids, assigned.partition.partition, tenure.overlay)
                self._metrics.recomputed.labels(self._topic).inc(len(entries))
                self._queue.put(tenure, entries)
            if not assigned.has_to_recompute:
                tenure.all_queued()
                tenure.finish_outputs(is_idle=not self._queue.num_records)
