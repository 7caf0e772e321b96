"""The loop: source → decode → encode → batch → fuse → publish → commit, for one role.

Three threads carry the records: the poll thread (this loop: fetch, decode, accept, commit), the compute thread (batches
to vectors) and the publish thread (vectors to the client). They overlap because the model releases the interpreter
lock; more of them would only fight for it. `worker/README.md` has the argument for why nothing is lost.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from worker.errors import (
    AccessError,
    ClientError,
    NotMemberError,
    SpaceError,
    StateError,
    SystemicError,
    TopicError,
    UnreadableError,
    WorkerError,
)
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Commit
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.backfilling import Backfilling
from worker.loop.catch_up import CatchUp
from worker.loop.commits import Commits
from worker.loop.intake import Intake
from worker.loop.ledger import Ledger
from worker.loop.log_continuity import LogContinuity
from worker.loop.observer import Observer
from worker.loop.read_faults import ReadFaults
from worker.loop.recovery import Recovery, abort_reason
from worker.loop.restore import Restored, RestoreStage
from worker.loop.source import Source
from worker.monitoring.health import Health
from worker.monitoring.metrics import Metrics
from worker.monitoring.watchdog import Vitals
from worker.partitions.lease import MembershipLease, lease_seconds
from worker.partitions.state import PartitionState
from worker.roles.role import Role
from worker.settings import Settings
from worker.stages.batch_queue import BatchQueue
from worker.stages.compute import ComputeStage
from worker.stages.fuse import Fused
from worker.stages.producers import Producers
from worker.stages.publish import Publisher, Unacknowledged
from worker.stages.publish_stage import PublishStage
from worker.stages.stage import STEP_TIMEOUT_S
from worker.stages.transaction import TransactionalPublisher
from worker.state import Stores

log = logging.getLogger(__name__)

NUM_FUSED_WAITING = 2  # batches between compute and publish: enough to overlap, little to throw away
NUM_FUSED_WAITING_FOR_COMMIT = 8  # the same where publish stands still while a transaction is committed
WAIT_STEP_S = 0.1

T = TypeVar("T")


class StopFlag(Protocol):
    """A `threading.Event`, as far as the loop is concerned."""

    def is_set(self) -> bool: ...


class _StoppedError(Exception):
    """The process is to end before it has begun."""


class Pipeline:
    """Everything between the topics of a role. `run` is called once; its thread is the poll thread.

    Other threads may call `vitals`, `leave` and `abort`.
    """

    def __init__(
        self,
        settings: Settings,
        client: ClientPort,
        role: Role,
        stores: Stores,
        metrics: Metrics,
        health: Health,
        *,
        until_caught_up: bool = False,
    ) -> None:
        """`until_caught_up`: `run` returns once everything is done that was there when it began."""
        self._settings = settings
        self.role = role
        self._topic = role.topics.inputs
        self._client = client
        self._stores = stores
        self._metrics = metrics
        self._health = health
        self._until_caught_up = until_caught_up
        self._is_transactional = settings.delivery == "exactly_once"

        # Stages, and what lies between them.
        batch = settings.batch
        self._lease = MembershipLease(lease_seconds(settings.kafka))
        self._queue = BatchQueue(batch)
        fused: queue.Queue[Fused] = queue.Queue(
            NUM_FUSED_WAITING_FOR_COMMIT if self._is_transactional else NUM_FUSED_WAITING
        )
        self._unacknowledged = Unacknowledged(settings.publish.max_in_flight_records)
        self.compute = ComputeStage(self._queue, role.embedder, fused, batch.max_records, metrics)
        self._transactions: TransactionalPublisher | None = None
        publish = PublishStage(fused, self._make_publisher, metrics)
        self.restore = RestoreStage(
            client,
            role,
            stores,
            refuses_new_logs=settings.kafka.on_new_log == "refuse",
            next_space=lambda: self.backfilling.space,
        )
        self._stages = (self.compute, publish, self.restore, *role.stages)

        # What the poll thread works with.
        self._producers = Producers(client, role.topics, settings, self._lease, publish.publisher)
        self.ledger = Ledger(metrics, self._producers.doubt_limits)
        self.assignment = Assignment(
            self._queue,
            self._lease,
            metrics,
            settings.shutdown.revoke_timeout_s,
            self.ledger.finished,
            role.forget,
            commits_itself=self._is_transactional,
        )
        self._consumer = patiently(
            "opening a consumer", lambda: client.consumer(role.topics.group_id), *patience(settings.kafka)
        )
        self._has_subscribed = False
        self._source = Source(
            self._consumer, self.assignment, self._queue, role.encoding, 2 * batch.max_records, metrics
        )
        self.backfilling = Backfilling(
            self.assignment,
            self._queue,
            lambda: self.restore,
            settings.rollout,
            batch.queue_records // 2,
            self._producers.write_to,
            role.wait_in_next,
            metrics,
        )
        self._commits = Commits(
            self._consumer,
            self.assignment,
            self._lease,
            self._producers,
            self._transactions,
            settings.commit.interval_ms / 1000,
            metrics,
        )
        self._recovery = Recovery(
            self.assignment,
            self._producers,
            self._unacknowledged,
            self._transactions,
            metrics,
            lambda: self.backfilling.space,
        )
        self.faults = ReadFaults(self._consumer, self.assignment, self.restore, role)
        self._continuity = LogContinuity(
            role.topics, self._consumer, self.assignment, self._source, self.restore, self.ledger, metrics
        )
        self._intake = Intake(
            role,
            self.assignment,
            self._queue,
            self._continuity,
            self.faults,
            self.restore,
            self.ledger,
            self._consumer.lag,
            self._source.rewind,
            batch.max_records,
            metrics,
        )
        self.observer = Observer(
            role,
            self._consumer,
            self.assignment,
            self._source,
            self._queue,
            self._unacknowledged,
            self._stages,
            self.restore,
            stores,
            self.ledger,
            self._continuity,
            self.faults,
            batch.backlog_records,
            metrics,
        )
        self._catch_up = CatchUp(self._consumer, self.assignment, self._queue, role)

    def _make_publisher(self, beat: Callable[[], None]) -> Publisher:
        output, unacknowledged = self.role.output, self._unacknowledged
        if not self._is_transactional:
            return Publisher(output, self._lease, unacknowledged, beat)
        self._transactions = TransactionalPublisher(
            output, unacknowledged, beat, self._settings.transaction, self._transaction_ended
        )
        return self._transactions

    # ------------------------------------------------------------------ the loop

    def run(self, stop: StopFlag, observe: Callable[[], None] = lambda: None) -> None:
        """Work until `stop` is set or the goal is reached, then drain. Raises the `WorkerError` that ends the process.

        `observe` is called twice a second on this thread, after figures have been refreshed.
        """
        try:
            self._start(stop)
        except _StoppedError:
            self._close()
            return
        while not stop.is_set() and not self.is_caught_up:
            self._require_stages()  # a dead stage ends the process
            self._recovery.recover()  # failed outputs: back to what is committed
            self._source.make_room()  # back-pressure
            self._source.await_encoded()  # rather than sleep in a poll while it becomes ready
            polled = self._source.poll()
            self._prove_membership()  # a new assignment is a new lease
            self._continuity.require_same_logs()  # a topic that is another one, or gone
            self._begin_new()  # partitions that have just come
            self._start_restored()  # partitions restored, or stopped long enough
            self._intake.accept(polled)  # decode, accept, queue
            self.faults.stop_unreadable(time.monotonic())  # partitions with a batch that cannot be read
            self._intake.hold_for_registry()  # partitions with a record whose schema is being asked for
            self._intake.hold_for_encoders()  # partitions whose content waits for an encoder that is down
            self._intake.accept_encoded()  # the same for what was raw content
            self._intake.recompute(is_backlog=self.observer.is_backlog)  # what has changed outside the log
            self.backfilling.step(time.monotonic())  # what is remembered, into the next space
            self.assignment.settle()  # receipts move what may be committed
            self._commits.commit_due()
            self._observe_due(observe)
            self._look_for_end()
        self._drain(observe)

    def _start(self, stop: StopFlag) -> None:
        """Some brokers may be down meanwhile. What can be had later is had later; the rest is waited for, until `stop`
        is set."""
        self._producers.learn_limits()
        if self._until_caught_up:
            self._await("asking where the inputs end", lambda: self._catch_up.begin(self._client), stop)
        self.backfilling.step(time.monotonic())  # so that a next space has the first record, too
        self._producers.open_soon()
        for stage in self._stages:
            stage.start()
        self._await("subscribing", lambda: self._consumer.subscribe([self._topic], self.assignment), stop)
        self._has_subscribed = True
        self._metrics.silence.ask([self._topic], lambda: self._consumer.contact().heard_at)
        self.observer.begin()

    def _await(self, doing: str, call: Callable[[], T], stop: StopFlag) -> T:
        """The answer to a call at the start, which brokers may keep us waiting for. Raises `_StoppedError`."""

        def pause(seconds: float) -> None:
            deadline = time.monotonic() + seconds
            while (left := deadline - time.monotonic()) > 0:
                if stop.is_set():
                    raise _StoppedError
                time.sleep(min(left, WAIT_STEP_S))
            self._source.beat()

        self._source.beat()
        return patiently(doing, call, *patience(self._settings.kafka), sleep=pause)

    def _require_stages(self) -> None:
        for stage in self._stages:
            if isinstance(stage.error, WorkerError):
                raise stage.error
            if stage.error is not None:
                raise SystemicError(f"the {stage.name} stage failed: {stage.error!r}") from stage.error

    def _observe_due(self, observe: Callable[[], None]) -> None:
        if self.observer.look_due():
            self.backfilling.look(time.monotonic())
            if self._consumer.is_stable() and self.role.is_ready():
                self._health.joined(self.role.topics.role)
            observe()

    def _look_for_end(self) -> None:
        """End a run that is to end by itself: because it has caught up, or with what keeps it from that."""
        if not self._until_caught_up:
            return
        if self._consumer.is_stable():
            self.faults.require_none(self.observer.lags, self._queue.num_records)
        self._catch_up.look_due(time.monotonic())

    @property
    def is_caught_up(self) -> bool:
        """Whether a run that is to end by itself has done everything that was there when it began."""
        return self._catch_up.is_done

    # ------------------------------------------------------------------ partitions

    def _prove_membership(self) -> None:
        """Start the lease of a new assignment, once nothing written for partitions that were lost is under way. What is
        written in transactions needs none: it is committed in the name of the place in the group, or not at all."""
        if self._is_transactional and (membership := self._consumer.membership()) is not None:
            self.assignment.held_by(membership)
        if self.assignment.was_lost:
            self.assignment.was_lost = False
            self._producers.drop(reopen_at=time.monotonic())
            self._unacknowledged.clear()
        if self.assignment.assigned_at is not None:
            self._lease.renew(self.assignment.assigned_at)
            self.assignment.assigned_at = None
            self.restore.keep_only([each.partition.partition for each in self.assignment.all()])

    def _begin_new(self) -> None:
        """Start partitions that have just been assigned: from the group's commit, once restored."""
        new = self.assignment.in_state(PartitionState.NEW)
        if not new:
            return
        self._require_output_partitions(new)
        try:
            commits = self._consumer.committed([each.partition for each in new])
            for each in new:
                commit = commits.get(each.partition) or Commit(self._consumer.beginning(each.partition))
                self._source.rewind(each.partition, commit.offset)
                self.restore.request(each.begin(commit))
        except NotMemberError:
            return
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "begin_failed"})

    def _require_output_partitions(self, new: Collection[AssignedPartition]) -> None:
        """The input topic can have been given more partitions since the start."""
        num_needed = max(each.partition.partition for each in new) + 1
        topics = self.role.topics
        for topic in topics.aligned[1:]:
            found = self._producers.num_partitions(topic, at_least=num_needed)
            if found is not None and found < num_needed:
                raise TopicError(
                    f"topic {topic!r} has {found} partitions, {topics.inputs!r} has {num_needed} or more: give it as "
                    f"many, then start again"
                )

    def _start_restored(self) -> None:
        """Work on what has been restored, and begin again what has been stopped for long enough."""
        now = time.monotonic()
        for restored in self.restore.results():
            assigned = next((each for each in self.assignment.all() if each.tenure is restored.tenure), None)
            if assigned is not None:
                self._take_restored(assigned, restored, now)
        for assigned in self.assignment.in_state(PartitionState.STOPPED):
            if assigned.tenure is None and now >= assigned.stopped_until and self._producers.are_open:
                assigned.renew()
        self.faults.retry_due(now)

    def _take_restored(self, assigned: AssignedPartition, restored: Restored, now: float) -> None:
        error = restored.error
        if isinstance(error, SpaceError | AccessError | StateError | TopicError):
            raise error
        if isinstance(error, UnreadableError):
            self.faults.restoring_failed(assigned, restored.tenure, error, now)
        elif restored.overlay is None:
            detail = "" if error is None else error.one_line()
            log.warning("%s", detail, extra={"action": "restore_failed"})
            assigned.restoring_failed(detail)
            self.restore.request(restored.tenure)
        else:
            self._continuity.take_origin(assigned, restored)
            assigned.start(restored.overlay, restored.recompute, now)

    # ------------------------------------------------------------------ the end

    def _drain(self, observe: Callable[[], None]) -> None:
        """Finish what has been accepted within the budget, commit it, and leave the group.

        Order matters: nothing new is fetched, so the queue runs empty; outputs are acknowledged before the last commit;
        the producer is closed only after it, because closing fails what is still under way.
        """
        log.info("%s: draining %d records", self.role.topics.role, self.assignment.in_flight, extra={"action": "drain"})
        self._health.draining()
        deadline = time.monotonic() + self._settings.shutdown.drain_timeout_s
        self._queue.drain()
        self._commits.drain()
        while self.assignment.in_flight and time.monotonic() < deadline and not self.assignment.failures():
            self._require_stages()
            self._source.beat()
            self._intake.accept_encoded()
            self.assignment.settle()
            self._commits.commit_due()
            self._observe_due(observe)
            self._unacknowledged.wait_for_change(0.02)
        self._commits.commit()
        num_abandoned = self.assignment.in_flight
        self._close()
        log.info(
            "%s: drained, %d records left to the next owner", self.role.topics.role, num_abandoned,
            extra={"action": "drained"},
        )  # fmt: skip

    def _close(self) -> None:
        self.assignment.retire_all()
        self.ledger.check(self.assignment.in_flight, is_last=True)
        self._metrics.silence.set_since([self._topic], None)  # nobody asks the brokers any more
        for stage in self._stages:
            stage.stop(STEP_TIMEOUT_S * 5)
        try:
            self._consumer.close(2.0)
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "close_failed"})
        self._producers.drop()
        self.restore.close()
        self._catch_up.close()
        self._stores.close()
        self.role.close()

    def leave(self, timeout_s: float) -> None:
        """Take this member out of its group while the loop is stuck. Any thread; the process ends after it."""
        self._lease.end()
        self._consumer.leave(timeout_s)

    def abort(self) -> None:
        """Leave without draining, after an error: what is not committed is computed again by the next owner."""
        self._lease.end()
        self._close()

    # ------------------------------------------------------------------ other threads

    def vitals(self) -> Vitals:
        """For the watchdog; called on its thread."""
        moved_at = {f"{self.role.topics.role} {stage.name}": stage.moved_at for stage in self._stages}
        moved_at[f"{self.role.topics.role} poll"] = self._source.polled_at
        is_stable = self._consumer.is_stable() or not self._has_subscribed
        return Vitals(moved_at, is_stable, self._client.reachable)

    def _transaction_ended(self, duration_s: float, error: WorkerError | None) -> None:
        """Publish thread."""
        if error is None:
            self._metrics.transaction_duration.observe_many(self._topic, [duration_s])
            self._metrics.transactions.labels("committed").inc()
        else:
            self._metrics.transactions.labels(abort_reason(error)).inc()
            log.warning("a transaction is given up: %s", error.one_line(), extra={"action": "transaction_aborted"})
