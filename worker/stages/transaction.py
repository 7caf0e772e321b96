"""Exactly once: outputs, dead letters, changelog and offsets count together or not at all.

Micro-batches are sent within a transaction until it is large or old enough, and what they were made of is committed in
it. Compute goes on meanwhile. A transaction that fails is never continued, because kafka-python can then take records
for committed that are not: its producer is thrown away, and everything begins again from what the group has committed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from worker.errors import CallTimeoutError, ClientError, FencedError, NotMemberError, ReplacedError, WorkerError
from worker.kafka.port import Membership, Outbound, TransactionalProducerPort
from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Tenure, after
from worker.settings import TransactionSettings
from worker.stages.fuse import Fused, OutputFormat
from worker.stages.publish import OpenProducers, Publisher, Unacknowledged

STEP_S = 0.1
MEMBERSHIP_STEP_S = 0.005
MEMBERSHIP_WAIT_S = 5.0
# A request to take over an id may reach the broker late, after the one that has followed it, and so shut out our own
# producer; another process with the same id does so again and again.
NUM_REPLACED, REPLACED_WITHIN_S = 3, 60.0

OnEnded = Callable[[float, WorkerError | None], None]
"""Told how long a transaction took, and what ended it if it is not committed."""


@dataclass(slots=True)
class _Transaction:
    """One that is open."""

    producers: OpenProducers
    began_at: float
    slices: list[BatchSlice] = field(default_factory=list)
    num_records: int = 0

    @property
    def producer(self) -> TransactionalProducerPort:
        assert self.producers.transactions is not None
        return self.producers.transactions

    @property
    def tenures(self) -> dict[Tenure, None]:
        return dict.fromkeys(each.tenure for each in self.slices)


class TransactionalPublisher(Publisher):
    """A `Publisher` whose slices are done when their transaction is committed."""

    def __init__(
        self,
        output: OutputFormat,
        unacknowledged: Unacknowledged,
        beat: Callable[[], None],
        settings: TransactionSettings,
        on_ended: OnEnded,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(output, None, unacknowledged, beat)
        self._settings = settings
        self._on_ended = on_ended
        self._clock = clock
        self._open: _Transaction | None = None
        self._failure: WorkerError | None = None
        self._failure_lock = threading.Lock()
        """The publish thread puts a failure there, the poll thread takes it: one that got lost would hold the publisher
        back for good."""
        self._spent: OpenProducers | None = None
        """Those with which a transaction has failed: they are not used again."""
        self._replaced_at: deque[float] = deque(maxlen=NUM_REPLACED)
        self.num_committed = 0

    def take_failure(self) -> WorkerError | None:
        """Why the producers must be replaced, once; None while they need not. Poll thread."""
        with self._failure_lock:
            failure, self._failure = self._failure, None
        return failure

    def publish(self, fused: Fused) -> None:
        for each in fused.slices:
            read = each.read
            if read.tenure.is_blocked or not read.tenure.is_live:
                continue
            outbound = self._outbound(each)
            if outbound is None:
                read.tenure.block()
            elif self._may_send(read, len(outbound)):
                self._add(read, outbound)

    def _add(self, read: BatchSlice, outbound: list[Outbound]) -> None:
        try:
            transaction = self._opened()
        except WorkerError as error:
            read.written.give_up(error)
            return
        transaction.slices.append(read)
        transaction.num_records += len(outbound)
        read.written.await_commit()
        self._send(read, outbound)

    def _has_producers(self) -> bool:
        if self._producers is not None and self._producers is self._spent:
            time.sleep(MEMBERSHIP_STEP_S)
            return False
        return super()._has_producers()

    def _opened(self) -> _Transaction:
        self._drop_orphan()
        if self._open is None:
            producers = self._producers
            if producers is None or producers is self._spent:
                raise ClientError("the producer has just been given up")
            opened = _Transaction(producers, self._clock())
            opened.producer.begin()
            self._open = opened
        return self._open

    def _drop_orphan(self) -> None:
        """Forget a transaction whose producer was taken away by the poll thread."""
        transaction = self._open
        if transaction is not None and transaction.producers is not self._producers:
            self._fail(transaction, ClientError("the producer has been given up"))

    def tick(self) -> None:
        self._drop_orphan()
        if self._open is not None and self._remaining_s(self._open) <= 0:
            self._end(self._open)

    def wait_s(self) -> float:
        return STEP_S if self._open is None else min(STEP_S, max(0.001, self._remaining_s(self._open)))

    def _remaining_s(self, transaction: _Transaction) -> float:
        """Until the transaction is to be committed."""
        if transaction.num_records >= self._settings.max_records:
            return 0.0
        return transaction.began_at + self._settings.interval_ms / 1000 - self._clock()

    def _end(self, transaction: _Transaction) -> None:
        try:
            self._await_receipts(transaction)
            commits = {tenure: tenure.sent for tenure in transaction.tenures}
            for each in transaction.slices:
                commits[each.tenure] = after(commits[each.tenure], each)
            membership = self._membership(transaction)
            transaction.producer.commit({tenure.partition: commit for tenure, commit in commits.items()}, membership)
        except WorkerError as error:
            self._fail(transaction, error)
            return
        self._open = None
        for tenure, commit in commits.items():
            tenure.note_sent(commit)
        for each in transaction.slices:
            each.written.committed()
        self.num_committed += 1
        self._on_ended(self._clock() - transaction.began_at, None)

    def _await_receipts(self, transaction: _Transaction) -> None:
        """Nothing may be under way at a commit: the client says that it is committed, whatever becomes of the rest."""
        while not self._unacknowledged.wait_for_none(STEP_S):
            self._beat()
            self._require_intact(transaction)
            if self._is_expired(transaction):
                raise CallTimeoutError(
                    "the outputs of a transaction are not acknowledged within transaction.timeout_ms"
                )
        self._require_intact(transaction)
        if not all(each.written.has_receipts for each in transaction.slices):
            raise ClientError("the producer has been given up")

    def _require_intact(self, transaction: _Transaction) -> None:
        for each in transaction.slices:
            if each.written.error is not None:
                raise each.written.error

    def _membership(self, transaction: _Transaction) -> Membership:
        """By which place in the group all partitions are held.

        Two places mean that a rebalance has just ended: either the poll thread is about to say that the other
        partitions are held by the new one, too, or they have gone.
        """
        deadline = time.monotonic() + MEMBERSHIP_WAIT_S
        while True:
            found = {tenure.membership for tenure in transaction.tenures}
            if not all(tenure.is_live for tenure in transaction.tenures):
                raise NotMemberError("a partition has gone before what was made of it could be committed")
            if len(found) == 1 and (membership := found.pop()) is not None:
                return membership
            if time.monotonic() > deadline:
                raise NotMemberError("the group does not come to rest")
            self._beat()
            time.sleep(MEMBERSHIP_STEP_S)

    def _fail(self, transaction: _Transaction, error: WorkerError) -> None:
        self._open, self._spent = None, transaction.producers
        if transaction.producers is self._producers:  # else they have been given up, and everything with them
            if isinstance(error, ReplacedError) and not self._is_expired(transaction):
                self._replaced_at.append(self._clock())
                if self._is_contested():
                    error = FencedError(f"another process uses our transactional id: set transaction.id ({error})")
            with self._failure_lock:
                self._failure = error
        for each in transaction.slices:
            each.written.give_up(error)
        self._on_ended(self._clock() - transaction.began_at, error)

    def _is_contested(self) -> bool:
        """Whether some other process must have this one's transactional id."""
        first, last = self._replaced_at[0], self._replaced_at[-1]
        return len(self._replaced_at) == NUM_REPLACED and last - first < REPLACED_WITHIN_S

    def _is_expired(self, transaction: _Transaction) -> bool:
        return self._clock() - transaction.began_at >= self._settings.timeout_ms / 1000
