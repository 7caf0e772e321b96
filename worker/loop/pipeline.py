"""The loop: source → decode → encode → batch → fuse → publish → commit, for one role.

Three threads carry the records: the poll thread (this loop: fetch, decode, gate, commit), the compute thread (batches
to vectors) and the publish thread (vectors to the client). They overlap because the model releases the interpreter
lock; more of them would only fight for it. `worker/README.md` has the argument for why nothing is lost.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Protocol, TypeVar

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
    SpaceError,
    StateError,
    SystemicError,
    TopicError,
    UnreadableError,
    WorkerError,
)
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Commit
from worker.loop.assignment import AssignedPartition, Assignment
from worker.loop.catch_up import CatchUp
from worker.loop.ledger import Ledger
from worker.loop.log_watch import LogWatch
from worker.loop.restore import Progress, Restored, Restorer
from worker.loop.source import Source
from worker.monitoring.health import Health
from worker.monitoring.metrics import BUSY_STAGES, Metrics, raise_to
from worker.monitoring.status import DeadLetterStatus, IncidentStatus
from worker.monitoring.watchdog import Vitals
from worker.partitions.lease import MembershipLease, boottime, lease_seconds
from worker.partitions.placement import Placement
from worker.partitions.state import PartitionState, StopReason
from worker.partitions.tenure import Tenure
from worker.records import Notice, Record, TopicPartition
from worker.roles.role import Role
from worker.settings import Settings
from worker.stages.batch_queue import BatchQueue
from worker.stages.compute import ComputeStage
from worker.stages.fuse import Fused
from worker.stages.producers import Producers
from worker.stages.publish import Publisher, Unacknowledged
from worker.stages.stage import STEP_TIMEOUT_S, Stage
from worker.stages.transaction import TransactionalPublisher
from worker.state import Stores

log = logging.getLogger(__name__)

NUM_FUSED_WAITING = 2  # batches between compute and publish: enough to overlap, little to throw away
NUM_FUSED_WAITING_FOR_COMMIT = 8  # the same where publish stands still while a transaction is committed
OBSERVE_INTERVAL_S = 0.5
NUM_QUIET_LOOKS = 2
NUM_SAMPLED = 16  # keys of a poll; a look at one takes some microseconds
DEAD_LETTER_RETRY_S = 15.0
WAIT_STEP_S = 0.1
UNREADABLE_RETRY_S = 15.0
READ_ON_S = 5.0
"""A partition that has run for this long since it was tried again can be read on, even if nothing has come of it."""

T = TypeVar("T")


class StopFlag(Protocol):
    """A `threading.Event`, as far as the loop is concerned."""

    def is_set(self) -> bool: ...


class _StoppedError(Exception):
    """The process is to end before it has begun."""


class Pipeline:
    """Everything between the topics of a role. `run` is called once; its thread is the poll thread."""

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
        self._encoding = role.encoding
        self._stores = stores
        self._metrics = metrics
        self._health = health

        self._is_transactional = settings.delivery == "exactly_once"
        self._lease = MembershipLease(lease_seconds(settings.kafka))
        self._queue = BatchQueue(settings.batch)
        self._unacknowledged = Unacknowledged(settings.publish.max_in_flight_records)
        num_fused = NUM_FUSED_WAITING_FOR_COMMIT if self._is_transactional else NUM_FUSED_WAITING
        self._fused: queue.Queue[Fused] = queue.Queue(num_fused)

        self._compute = ComputeStage(self._queue, role.embedder, self._fused, settings.batch.max_records, metrics)
        self._publish = Stage("publish", self._publish_step)
        self._restore = Stage("restore", lambda: self._restorer.step())
        refuses = settings.kafka.on_new_log == "refuse"
        self._restorer = Restorer(client, role, stores, self._restore.beat, refuses_new_logs=refuses)
        self._logs = LogWatch(role.topics)
        self._placement = Placement()
        self._num_partitioners: int | None = None
        self._stages = (self._compute, self._publish, self._restore, *role.stages)

        self._transactions: TransactionalPublisher | None = None
        if self._is_transactional:
            self._transactions = TransactionalPublisher(
                role.output, self._unacknowledged, self._publish.beat, settings.transaction, self._transaction_ended
            )
        self._publisher = self._transactions or Publisher(
            role.output, self._lease, self._unacknowledged, self._publish.beat
        )
        self._num_transactions = 0
        self._producers = Producers(client, role.topics, settings, self._lease, self._publisher)
        self._ledger = Ledger(metrics, self._producers.doubt_limits)
        self.assignment = Assignment(
            self._queue,
            self._lease,
            metrics,
            settings.shutdown.revoke_timeout_s,
            self._ledger.finished,
            role.forget,
            commits_itself=self._is_transactional,
        )
        self._consumer = patiently(
            "opening a consumer", lambda: client.consumer(role.topics.group_id), *patience(settings.kafka)
        )
        self._has_subscribed = False
        self._source = Source(
            self._consumer, self.assignment, self._queue, role.encoding, 2 * settings.batch.max_records, metrics
        )

        self._until_caught_up = until_caught_up
        self._goal: CatchUp | None = None
        self._next_look = 0.0
        self._num_quiet_looks = 0
        self.is_caught_up = False
        self._next_commit = 0.0
        self._next_observation = 0.0
        self._began_at = time.monotonic()
        self.restoring_since: float | None = None
        """Monotonic time since when the partition has not been running that is restored, or about to be, longest."""
        self._restore_again: list[tuple[float, Tenure]] = []
        """Whose state cannot be read, and when to try again (monotonic)."""
        self.is_backlog = False
        self.num_values = 0
        self.num_state_bytes = 0
        self.lags: Mapping[TopicPartition, int] = {}

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
            self._recover()  # failed outputs: back to the watermark
            self._source.make_room()  # back-pressure
            self._source.await_encoded()  # rather than sleep in a poll while it becomes ready
            polled = self._source.poll()
            self._prove_membership()  # a new assignment is a new lease
            self._require_logs()  # a topic that is another one, or gone
            self._begin_new()  # partitions that have just come
            self._resume_ready()  # partitions restored, or held long enough
            self._accept(polled)  # decode, gate, queue
            self._stop_unreadable()  # partitions with a batch that cannot be read
            self._await_encoders()  # partitions whose content waits for an encoder that is down
            self._accept_encoded()  # the same for what was raw content
            self._recompute()  # what has changed outside the log
            self.assignment.settle()  # receipts move the watermarks
            self._commit_due()
            self._observe_due(observe)
            self._require_readable()
            self._look_for_end()
        self._drain(observe)

    def _start(self, stop: StopFlag) -> None:
        """Some brokers may be down meanwhile. What can be had later is had later; the rest is waited for, until `stop`
        is set."""
        self._producers.learn_limits()
        if self._until_caught_up:
            self._goal = self._await("asking where the inputs end", self._find_goal, stop)
        self._producers.open_soon()
        for stage in self._stages:
            stage.start()
        self._await("subscribing", lambda: self._consumer.subscribe([self._topic], self.assignment), stop)
        self._has_subscribed = True
        self._metrics.silence.ask([self._topic], lambda: self._consumer.contact().heard_at)
        self._began_at = time.monotonic()

    def _find_goal(self) -> CatchUp:
        described = self._client.describe_topics([self._topic])
        return CatchUp(self._client.log(), self._topic, described[self._topic].num_partitions)

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

    def _drain(self, observe: Callable[[], None]) -> None:
        """Finish what has been accepted within the budget, commit it, and leave the group.

        Order matters: nothing new is fetched, so the queue runs empty; outputs are acknowledged before the last commit;
        the producer is closed only after it, because closing fails what is still under way.
        """
        log.info("%s: draining %d records", self.role.topics.role, self.assignment.in_flight, extra={"action": "drain"})
        self._health.draining()
        deadline = time.monotonic() + self._settings.shutdown.drain_timeout_s
        self._queue.drain()
        while self.assignment.in_flight and time.monotonic() < deadline and not self.assignment.failures():
            self._require_stages()
            self._source.beat()
            self._accept_encoded()
            self.assignment.settle()
            self._commit_due()
            self._observe_due(observe)
            self._unacknowledged.wait_for_change(0.02)
        self._commit()
        num_abandoned = self.assignment.in_flight
        self._close()
        log.info(
            "%s: drained, %d records left to the next owner", self.role.topics.role, num_abandoned,
            extra={"action": "drained"},
        )  # fmt: skip

    def _close(self) -> None:
        self.assignment.retire_all()
        self._ledger.check(self.assignment.in_flight, is_last=True)
        self._metrics.silence.set_since([self._topic], None)  # nobody asks the brokers any more
        for stage in self._stages:
            stage.stop(STEP_TIMEOUT_S * 5)
        try:
            self._consumer.close(2.0)
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "close_failed"})
        self._producers.drop()
        self._restorer.close()
        if self._goal is not None:
            self._goal.close()
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

    def _look_for_end(self) -> None:
        """Whether the goal is reached, and nothing has come up since the last look: what the catalogue has just read
        is known to the loop only when it has come round again."""
        now = time.monotonic()
        if self._goal is None or now < self._next_look:
            return
        self._next_look = now + OBSERVE_INTERVAL_S
        try:
            is_reached = self._is_quiet() and self._goal.is_reached(self._consumer.committed(self._goal.partitions))
            is_quiet = is_reached and self.role.is_up_to_date()  # with the outputs of the whole group
        except (ClientError, CallTimeoutError) as error:
            log.warning("%s", error.one_line(), extra={"action": "look_failed"})
            is_quiet = False
        self._num_quiet_looks = self._num_quiet_looks + 1 if is_quiet else 0
        self.is_caught_up = self._num_quiet_looks >= NUM_QUIET_LOOKS

    def _is_quiet(self) -> bool:
        held = self.assignment.all()
        return (
            self._consumer.is_stable()
            and self.role.is_ready()
            and not self._queue.num_records
            and all(each.state == PartitionState.RUNNING and not each.to_recompute for each in held)
            and not any(tenure.in_flight or tenure.has_open_slices() for tenure in self.assignment.tenures())
        )

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
            self._restorer.keep_only([held.partition.partition for held in self.assignment.all()])

    def _begin_new(self) -> None:
        """Start partitions that have just been assigned: from the group's commit, once restored."""
        new = self.assignment.in_state(PartitionState.NEW)
        if not new:
            return
        self._require_output_partitions(new)
        try:
            commits = self._consumer.committed([held.partition for held in new])
            for held in new:
                commit = commits.get(held.partition) or Commit(self._consumer.beginning(held.partition))
                self._source.rewind(held.partition, commit.offset)
                self._restorer.request(self.assignment.begin(held, commit))
        except NotMemberError:
            return
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "begin_failed"})

    def _require_output_partitions(self, new: Sequence[AssignedPartition]) -> None:
        """The input topic can have been given more partitions since the start."""
        num_needed = max(held.partition.partition for held in new) + 1
        topics = self.role.topics
        for topic in topics.aligned[1:]:
            found = self._producers.num_partitions(topic, at_least=num_needed)
            if found is not None and found < num_needed:
                raise TopicError(
                    f"topic {topic!r} has {found} partitions, {topics.inputs!r} has {num_needed} or more: give it as "
                    f"many, then start again"
                )

    def _resume_ready(self) -> None:
        for restored in self._restorer.results():
            held = next((each for each in self.assignment.all() if each.tenure is restored.tenure), None)
            if held is None:
                continue
            if isinstance(restored.error, SpaceError | AccessError | StateError | TopicError):
                raise restored.error
            if isinstance(restored.error, UnreadableError):
                self._note_unreadable(held, restored.error)
                self._restore_again.append((held.stopped_until, restored.tenure))
                continue
            if restored.error is not None:
                log.warning("%s", restored.error.one_line(), extra={"action": "restore_failed"})
                held.detail = restored.error.one_line()
                self._restorer.request(restored.tenure)
                continue
            restored.tenure.overlay = restored.overlay
            held.to_recompute.update(dict.fromkeys(restored.recompute))
            self._take_origin(held, restored)
            held.state, held.detail, held.reason = PartitionState.RUNNING, "", None
            held.stopped_until = time.monotonic()
        for held in self.assignment.in_state(PartitionState.STOPPED):
            if held.tenure is None and time.monotonic() >= held.stopped_until and self._producers.are_open:
                held.state = PartitionState.NEW
        self._retry_unreadable(time.monotonic())

    # ------------------------------------------------------------------ what cannot be read

    def _stop_unreadable(self) -> None:
        """A partition that cannot be read on finishes what lies before and waits; the others go on."""
        for error in self._consumer.unreadable():
            partition = TopicPartition(error.topic, error.partition)
            # Else it was fetched before it was paused, and is read again from where it begins.
            if partition in self.assignment and self.assignment[partition].state == PartitionState.RUNNING:
                held = self.assignment[partition]
                self._note_unreadable(held, error)
                held.state, held.reason = PartitionState.STOPPED, StopReason.UNREADABLE

    def _await_encoders(self) -> None:
        """A partition whose content waits for an encoder that is down is read no further; the others go on."""
        stalled = {} if self._encoding is None else self._encoding.stalled()
        for held in self.assignment.all():
            detail = stalled.get(id(held.tenure))
            if detail is not None and (held.state == PartitionState.RUNNING or held.reason == StopReason.ENCODER_DOWN):
                held.state, held.reason, held.detail = PartitionState.STOPPED, StopReason.ENCODER_DOWN, detail
            elif (
                detail is None
                and (held.state, held.reason) == (PartitionState.STOPPED, StopReason.ENCODER_DOWN)
                and held.tenure is not None
            ):
                log.info("partition %d is read on", held.partition.partition, extra={"action": "read_on"})
                held.state, held.reason, held.detail = PartitionState.RUNNING, None, ""

    def _note_unreadable(self, held: AssignedPartition, error: UnreadableError) -> None:
        log.error("partition %d waits: %s", held.partition.partition, error.one_line(), extra={"action": "unreadable"})
        held.stopped_until, held.detail = time.monotonic() + UNREADABLE_RETRY_S, error.one_line()
        held.unreadable, held.num_tries = error, held.num_tries + 1

    def _retry_unreadable(self, now: float) -> None:
        for held in self.assignment.all():
            if held.unreadable is None or now < held.stopped_until:
                continue
            if held.state == PartitionState.STOPPED and held.tenure is not None:
                held.state, held.reason = PartitionState.RUNNING, None
            elif held.state == PartitionState.RUNNING and now > held.stopped_until + READ_ON_S:
                self._read_on(held)
        for tenure in [tenure for due, tenure in self._restore_again if now >= due and tenure.is_live]:
            self._restorer.request(tenure)
        self._restore_again = [(due, tenure) for due, tenure in self._restore_again if now < due]

    def _read_on(self, held: AssignedPartition) -> None:
        if held.unreadable is not None:
            log.info("partition %d is read on", held.partition.partition, extra={"action": "read_on"})
            held.unreadable, held.detail, held.num_tries = None, "", 0

    def unreadable(self) -> list[UnreadableError]:
        """What keeps partitions from going on: of the log, of what they are restored from, and of the item vectors."""
        found = [held.unreadable for held in self.assignment.all() if held.unreadable is not None]
        return [*found, *self.role.unreadable()]

    def _require_readable(self) -> None:
        """A run that is to end by itself ends with the error, once there is nothing else to do."""
        if not self._until_caught_up or not self._consumer.is_stable():
            return
        held = self.assignment.all()
        failed = [each.unreadable for each in held if each.unreadable is not None and each.num_tries > 1]
        failed += self.role.unreadable()
        is_busy = self._queue.num_records or any(
            (each.unreadable is None and (each.state != PartitionState.RUNNING or self.lags.get(each.partition, 1)))
            or (each.tenure is not None and each.tenure.in_flight)
            for each in held
        )
        if failed and held and not is_busy:
            raise failed[0]

    # ------------------------------------------------------------------ logs

    def _take_origin(self, held: AssignedPartition, restored: Restored) -> None:
        """Begin where restoring has settled, and say what that passes over."""
        origin = restored.origin
        if origin is None:
            return
        if restored.told:
            detail = f"partition {held.partition.partition}: {'; '.join(restored.told)}; taken up at its beginning"
            self._ledger.new_log(held.partition, detail)
        if origin.num_expired:
            self._ledger.expired(held.partition, origin.offset - origin.num_expired, origin.offset)
        self._source.rewind(held.partition, origin.offset)

    def _require_logs(self) -> None:
        """Begin anew where a topic is not the one that the work was begun with; raises `TopicError` for one that has
        gone and does not come back."""
        reason = self._logs.changed(self._restorer.looked, self.assignment.tenures(), time.monotonic())
        if reason:
            self._begin_again(self.assignment.all(), reason)

    def _begin_again(self, partitions: Sequence[AssignedPartition], reason: str, doubt: str = "") -> None:
        log.warning("%s: beginning anew with what there is now", reason, extra={"action": "log_changed"})
        self._metrics.rewinds.labels(StopReason.LOG_CHANGED).inc()
        for held in partitions:
            held.doubt = doubt
            self.assignment.rewind(held, 0.0, reason, StopReason.LOG_CHANGED)

    def _follow(self, held: AssignedPartition, first: int | None) -> bool:
        """Whether what the log hands out next, from offset `first` (None: nothing at present), follows on what it has
        handed out. What it has dropped unseen is counted; where it has gone back, work begins anew."""
        tenure, partition = held.tenure, held.partition
        reached = self._consumer.position(partition) if first is None else first
        if tenure is None or reached is None or reached == tenure.position:
            return True
        if reached < tenure.position:
            detail = f"the log went back from offset {tenure.position} to {reached}"
            self._begin_again([held], f"partition {partition.partition}: {detail}", detail)
            return False
        log_start = self._consumer.log_start(partition)
        if log_start is not None and log_start > tenure.position:
            self._ledger.expired(partition, tenure.position, min(log_start, reached))
        tenure.position = reached  # over offsets of markers, and of what was compacted
        return True

    def _look_at_keys(self, partition: TopicPartition, records: Sequence[Record]) -> None:
        """See whether the partitioners of all producers agree, by all keys of small polls and some of large ones."""
        looked = self._restorer.looked
        if self.role.topics.is_relay:  # keys of other people need not agree on anything
            return
        if looked is None or partition.topic not in looked or self._num_partitioners in (0, 2):
            return
        sampled = records if len(records) <= NUM_SAMPLED else records[:: -(-len(records) // NUM_SAMPLED)]
        keys = [record.key for record in sampled if record.key is not None]
        self._placement.look(keys, partition.partition, looked[partition.topic].num_partitions)
        explanations = self._placement.explanations()
        if explanations is None or len(explanations) == self._num_partitioners:
            return
        self._num_partitioners = len(explanations)
        self._metrics.partitioners.labels(self._topic).set(len(explanations))
        if len(explanations) != 1:
            found = f"those of {' and '.join(explanations)}" if explanations else "none that is known here"
            advice = (
                "its producers disagree, and a key may lie in two partitions" if explanations else "see that all agree"
            )
            self._ledger.notice(
                Notice(
                    "partitioners",
                    f"{self.role.topics.settings[0]}: the partitioners that explain where the keys of {self._topic!r} "
                    f"lie are {found}: {advice} (schemas/README.md, Partitions)",
                )
            )

    # ------------------------------------------------------------------ decode and gate

    def _accept(self, polled: Mapping[TopicPartition, Sequence[Record]]) -> None:
        started = time.monotonic()
        for partition, records in polled.items():
            if partition not in self.assignment:
                continue
            held = self.assignment[partition]
            if held.state != PartitionState.RUNNING or held.tenure is None or held.tenure.overlay is None:
                continue  # fetched before it was paused; the seek of its tenure brings it again
            if not self._follow(held, records[0].offset):
                continue
            held.tenure.position = records[-1].offset + 1
            self._look_at_keys(partition, records)
            decoded = self.role.decode(records)
            self._metrics.features_ignored.labels(self._topic).inc(decoded.num_features_ignored)
            self._metrics.content_ignored.labels(self._topic).inc(decoded.num_content_ignored)
            self._ledger.consumed(len(records))
            held.tenure.consumed(records)
            self._read_on(held)
            if self._encoding is not None and self._encoding.takes(held.tenure, decoded.entries):
                self._encoding.put(held.tenure, decoded.entries)
            else:
                self._queue.put(held.tenure, self.role.accept(decoded.entries, held.tenure.overlay))
        if polled:
            self._metrics.stage_duration.labels("decode").observe(time.monotonic() - started)

    def _accept_encoded(self) -> None:
        if self._encoding is None:
            return
        for tenure, entries in self._encoding.take():
            assert tenure.overlay is not None  # or it would not have been put in
            self._queue.put(tenure, self.role.accept(entries, tenure.overlay))

    def _recompute(self) -> None:
        """Queue what has to be computed anew without a record, as far as there is room."""
        for number, keys in self.role.arrivals().items():
            partition = TopicPartition(self._topic, number)
            if partition in self.assignment:
                self.assignment[partition].to_recompute.update(dict.fromkeys(keys))
        if self.is_backlog and not self.role.recomputes_in_backlog:
            return
        working = (PartitionState.RUNNING, PartitionState.STOPPED)  # stopped before a batch that cannot be read
        for held in [held for state in working for held in self.assignment.in_state(state)]:
            while held.to_recompute and held.tenure and held.tenure.overlay is not None and not self._queue.is_full():
                keys = list(islice(held.to_recompute, self._settings.batch.max_records))
                for key in keys:
                    del held.to_recompute[key]
                entries = self.role.recompute(keys, held.partition.partition, held.tenure.overlay)
                self._metrics.recomputed.labels(self._topic).inc(len(entries))
                self._queue.put(held.tenure, entries)
            if held.tenure is not None and not held.to_recompute:
                held.tenure.all_queued()
                held.tenure.finish_outputs(is_idle=not self._queue.num_records)

    # ------------------------------------------------------------------ publish (publish thread)

    def _publish_step(self) -> None:
        try:
            fused = self._fused.get(timeout=self._publisher.wait_s())
        except queue.Empty:
            fused = None
        started, waited_s = time.monotonic(), self._publisher.waited_s
        if fused is not None:
            self._publisher.publish(fused)
            self._metrics.stage_duration.labels("publish").observe(time.monotonic() - started)
        self._publisher.tick()
        self._publish.busy_s += time.monotonic() - started - (self._publisher.waited_s - waited_s)

    def _transaction_ended(self, duration_s: float, error: WorkerError | None) -> None:
        if error is None:
            self._metrics.transaction_duration.observe_many(self._topic, [duration_s])
            self._metrics.transactions.labels("committed").inc()
        else:
            self._metrics.transactions.labels(abort_reason(error)).inc()
            log.warning("a transaction is given up: %s", error.one_line(), extra={"action": "transaction_aborted"})

    # ------------------------------------------------------------------ commit

    def _commit_due(self) -> None:
        now = time.monotonic()
        if self._transactions is not None:
            self._note_transactions(self._transactions)
            # What no transaction will commit, because it is behind the last record, or before the first of a log.
            if now >= self._next_commit and not any(each.has_open_slices() for each in self.assignment.tenures()):
                self._next_commit = now + self._settings.commit.interval_ms / 1000
                self._commit()
            return
        # What is computed anew is no record in flight, and is written, too.
        has_work = self.assignment.in_flight > 0 or any(each.has_open_slices() for each in self.assignment.tenures())
        lease_due = has_work and self._lease.is_due(boottime())
        if now >= self._next_commit or lease_due:
            self._next_commit = now + self._settings.commit.interval_ms / 1000
            self._commit(prove_membership=lease_due)

    def _commit(self, *, prove_membership: bool = False) -> None:
        """Commit what is finished. With nothing new to commit, the old offsets prove membership just as well."""
        # Transactions have committed what is settled: there are no such commits then.
        commits = self.assignment.commits() or (self.assignment.positions() if prove_membership else {})
        if not commits:
            return
        sent_at, started = boottime(), time.monotonic()
        try:
            self._consumer.commit(commits)
        except NotMemberError as error:  # the next poll says what became of the partitions
            self._metrics.commits.labels("not_member").inc()
            log.info("%s", error.one_line(), extra={"action": "commit_refused"})
            return
        except ClientError as error:  # the next commit covers these offsets, too
            self._metrics.commits.labels("error").inc()
            log.warning("%s", error.one_line(), extra={"action": "commit_failed"})
            return
        self._lease.renew(sent_at)
        self.assignment.committed(commits)
        self._producers.succeeded()
        self._metrics.commits.labels("ok").inc()
        self._metrics.last_commit.set_to_current_time()
        self._metrics.stage_duration.labels("commit").observe(time.monotonic() - started)

    def _note_transactions(self, transactions: TransactionalPublisher) -> None:
        if (num_new := transactions.num_committed - self._num_transactions) > 0:
            self._num_transactions += num_new
            self._producers.succeeded()
            self._metrics.commits.labels("ok").inc(num_new)
            self._metrics.last_commit.set_to_current_time()

    # ------------------------------------------------------------------ recovery

    def _recover(self) -> None:
        """Return to the watermark what could not be written, and replace a producer that refused a record."""
        now = time.monotonic()
        failure = self._transactions.take_failure() if self._transactions is not None else None
        if isinstance(failure, AccessError | FencedError | SystemicError):
            raise failure
        for held, failed in self.assignment.failures():
            error = failed.written.error
            if isinstance(error, AccessError | FencedError | SystemicError):
                raise error
            if failed.written.error_is_dead_letter and not getattr(error, "retriable", False):
                self._stop_partition(held, error, now)
                if self._is_transactional:  # its records share a transaction with those of other partitions
                    failure = failure or error
            else:
                failure = failure or error
            if failure is not None:
                break
        if failure is not None:
            self._rewind_all(failure, now)
        self._producers.reopen_due(now)
        self._producers.relearn_due(now)

    def _stop_partition(self, held: AssignedPartition, error: WorkerError | None, now: float) -> None:
        """A dead letter that cannot be written: rather than lose it, its partition waits, and the others go on."""
        detail = error.one_line() if error is not None else ""
        self._metrics.dead_letter_failures.labels(self._topic).inc()
        self._metrics.rewinds.labels(StopReason.DEAD_LETTER_FAILED).inc()
        log.error("partition %d waits: %s", held.partition.partition, detail, extra={"action": "dead_letter_failed"})
        self.assignment.rewind(held, now + DEAD_LETTER_RETRY_S, detail, StopReason.DEAD_LETTER_FAILED)
        self._producers.learn_limits()
        if not self._is_transactional:
            self._producers.replace_for_dead_letters()

    def _rewind_all(self, error: WorkerError | None, now: float) -> None:
        """After one refused record kafka-python's producer fails all later ones, so everything it had is void."""
        is_rebalance = isinstance(error, NotMemberError)  # that is nobody's fault, and over
        delay_s = 0.0 if is_rebalance else self._producers.failed()
        detail = error.one_line() if error is not None else ""
        self._metrics.rewinds.labels(StopReason.PUBLISH_FAILED).inc()
        log.warning(
            "an output could not be written, starting again from the last acknowledged one in %.1f s: %s",
            delay_s, detail, extra={"action": "rewind"},
        )  # fmt: skip
        self._producers.drop(reopen_at=now + delay_s)
        for held in self.assignment.all():
            until, reason = max(now + delay_s, held.stopped_until), held.reason or StopReason.PUBLISH_FAILED
            self.assignment.rewind(held, until, held.detail or detail, reason)
        self._unacknowledged.clear()
        if isinstance(error, RecordTooLargeError):
            self._producers.learn_limits()

    # ------------------------------------------------------------------ figures

    def _require_stages(self) -> None:
        for stage in self._stages:
            if isinstance(stage.error, WorkerError):
                raise stage.error
            if stage.error is not None:
                raise SystemicError(f"the {stage.name} stage failed: {stage.error!r}") from stage.error

    def _observe_due(self, observe: Callable[[], None]) -> None:
        now = time.monotonic()
        if now < self._next_observation:
            return
        self._next_observation = now + OBSERVE_INTERVAL_S
        for notice in self.role.notices():
            self._ledger.notice(notice)
        for each in self.assignment.in_state(PartitionState.RUNNING):
            if self._follow(each, None) and each.tenure is not None:
                each.tenure.pass_over()
        held = self.assignment.all()
        self.lags = self._consumer.lag([each.partition for each in held])
        total_lag = sum(self.lags.values())
        backlog = total_lag + self.num_queued > self._settings.batch.backlog_records
        if backlog != self.is_backlog:
            log.info("%s mode, lag %d", "backlog" if backlog else "live", total_lag, extra={"action": "mode"})
            self.is_backlog = backlog
            self._queue.set_backlog(backlog)
        if self._consumer.is_stable() and self.role.is_ready():
            self._health.joined(self.role.topics.role)
        metrics = self._metrics
        for each in held:
            topic, partition = each.partition
            lag = self.lags.get(each.partition)
            if lag is not None and each.tenure is not None:
                metrics.position_lag.labels(topic, str(partition)).set(lag)
                metrics.lag.labels(topic, str(partition)).set(lag + each.tenure.in_flight)
            each.look(lag, self._consumer.heard_of(each.partition), now, time.time() * 1000)
            metrics.lag_seconds.set_since([topic, str(partition)], each.behind_since)
        self._measure_partitions(held)
        self._measure_busy(now)
        metrics.show_unreadable(self.unreadable())
        self._ledger.check(self.assignment.in_flight)
        metrics.queue_depth.set(self.num_queued)
        metrics.unacknowledged.set(self._unacknowledged.num_records)
        self.num_values, self.num_state_bytes = self._stores.size()
        metrics.state_values.labels(self._topic).set(self.num_values)
        metrics.state_bytes.labels(self._topic).set(self.num_state_bytes)
        raise_to(metrics.restored.labels(self._topic), self._restorer.num_records)
        self.role.measure(metrics)
        observe()

    def _measure_partitions(self, held: Sequence[AssignedPartition]) -> None:
        metrics, topic = self._metrics, self._topic
        if (num_partitions := self._consumer.num_partitions(topic)) is not None:
            metrics.topic_partitions.labels(topic).set(num_partitions)
        for state in PartitionState:
            metrics.partitions.labels(topic, state).set(sum(each.state == state for each in held))
        stopped = [each.reason for each in held if each.state == PartitionState.STOPPED]
        for reason in StopReason:
            metrics.stopped_partitions.labels(topic, reason).set(stopped.count(reason))
        restoring = (PartitionState.NEW, PartitionState.RESTORING)
        since = [each.not_running_since for each in held if each.state in restoring]
        self.restoring_since = min(since, default=None)
        metrics.restoring_seconds.set_since([topic], self.restoring_since)

    def _measure_busy(self, now: float) -> None:
        busy = {stage.name: stage.busy_s for stage in self._stages} | {
            "poll": now - self._began_at - self._source.idle_s
        }
        for name in BUSY_STAGES:
            if name in busy:
                raise_to(self._metrics.busy.labels(name), busy[name])

    def vitals(self) -> Vitals:
        """For the watchdog; called on its thread."""
        moved_at = {f"{self.role.topics.role} {stage.name}": stage.moved_at for stage in self._stages}
        moved_at[f"{self.role.topics.role} poll"] = self._source.polled_at
        is_stable = self._consumer.is_stable() or not self._has_subscribed
        return Vitals(moved_at, is_stable, self._client.reachable)

    @property
    def batch_fill(self) -> float:
        return self._compute.batch_fill

    @property
    def recent_dead_letters(self) -> Sequence[DeadLetterStatus]:
        """The newest first."""
        return self._ledger.recent_dead_letters

    @property
    def unaccounted(self) -> int:
        """Records that the books have lost, or count twice."""
        return self._ledger.unaccounted

    @property
    def silent_s(self) -> float:
        """Since a broker has answered."""
        return time.monotonic() - self._consumer.contact().heard_at

    @property
    def incidents(self) -> Sequence[IncidentStatus]:
        """The newest first."""
        return self._ledger.incidents

    @property
    def num_expired(self) -> int:
        """Records that the log had dropped before they were read."""
        return self._ledger.num_expired

    @property
    def restoring(self) -> Progress | None:
        """How far the partition is that is being restored."""
        return self._restorer.progress

    @property
    def num_queued(self) -> int:
        return self._queue.num_records + (0 if self._encoding is None else self._encoding.num_records)

    @property
    def num_unacknowledged(self) -> int:
        return self._unacknowledged.num_records

    @property
    def is_stable(self) -> bool:
        return self._consumer.is_stable()


def abort_reason(error: WorkerError) -> str:
    """One of `metrics.TRANSACTION_RESULTS`."""
    if isinstance(error, NotMemberError):
        return "rebalance"
    if isinstance(error, ReplacedError | FencedError):
        return "replaced"
    return "timeout" if isinstance(error, CallTimeoutError) else "failed"
