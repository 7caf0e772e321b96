"""Recovery from an output that cannot be written: back to what is committed, with new producers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    NextSpaceError,
    NotMemberError,
    RecordTooLargeError,
    ReplacedError,
    SystemicError,
    WorkerError,
)
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.monitoring.metrics import Metrics
from worker.partitions.state import StopReason
from worker.roles.next_space import NextSpace
from worker.stages.producers import Producers
from worker.stages.publish import Unacknowledged
from worker.stages.transaction import TransactionalPublisher

log = logging.getLogger(__name__)

DEAD_LETTER_RETRY_S = 15.0


class Recovery:
    """Poll thread."""

    def __init__(
        self,
        assignment: Assignment,
        producers: Producers,
        unacknowledged: Unacknowledged,
        transactions: TransactionalPublisher | None,
        metrics: Metrics,
        next_space: Callable[[], NextSpace | None] = lambda: None,
    ) -> None:
        """`transactions`: where outputs are written in them, one refused record takes all partitions with it.
        `next_space`: that is given up where its outputs are refused."""
        self._next_space = next_space
        self._assignment = assignment
        self._producers = producers
        self._unacknowledged = unacknowledged
        self._transactions = transactions
        self._metrics = metrics

    def recover(self) -> None:
        """Return to the committed offset what could not be written, and replace a producer that refused a record.
        Raises what nobody recovers from: no access, another process in our place, a broken model."""
        now = time.monotonic()
        failure = self._transactions.take_failure() if self._transactions is not None else None
        self._blame_next(failure)
        _raise_if_final(failure)
        for assigned, failed in self._assignment.failures():
            error = failed.written.error
            if failure is None:
                self._blame_next(error)
            _raise_if_final(error)
            is_refused_letter = failed.written.error_is_dead_letter
            if is_refused_letter and not (isinstance(error, ClientError) and error.retriable):
                self._stop_partition(assigned, error, now)
                if self._transactions is not None:  # its records share a transaction with those of other partitions
                    failure = failure or error
            else:
                failure = failure or error
            if failure is not None:
                break
        if failure is not None:
            self._rewind_all(failure, now)
        self._producers.reopen_due(now)
        self._producers.relearn_due(now)

    def _blame_next(self, error: WorkerError | None) -> None:
        """Give the next space up where it is its outputs that cannot be written: what is in flight is done again
        without it."""
        space = self._next_space()
        if isinstance(error, NextSpaceError) and space is not None:
            space.output_failed(error, is_transient=error.retriable)

    def _stop_partition(self, assigned: AssignedPartition, error: WorkerError | None, now: float) -> None:
        """A dead letter that cannot be written: rather than lose it, its partition waits, and the others go on."""
        detail, number = error.one_line() if error is not None else "", assigned.partition.partition
        self._metrics.dead_letter_failures.labels(assigned.partition.topic).inc()
        self._metrics.rewinds.labels(StopReason.DEAD_LETTER_FAILED).inc()
        log.error("partition %d waits: %s", number, detail, extra={"action": "dead_letter_failed"})
        self._assignment.rewind(assigned, now + DEAD_LETTER_RETRY_S, detail, StopReason.DEAD_LETTER_FAILED)
        self._producers.learn_limits()
        if self._transactions is None:
            self._producers.replace_for_dead_letters()

    def _rewind_all(self, error: WorkerError, now: float) -> None:
        """After one refused record a producer may fail all later ones, so everything it had is void."""
        is_rebalance = isinstance(error, NotMemberError)  # that is nobody's fault, and over
        delay_s = 0.0 if is_rebalance else self._producers.failed()
        detail = error.one_line()
        self._metrics.rewinds.labels(StopReason.PUBLISH_FAILED).inc()
        log.warning(
            "an output could not be written, starting again from the last acknowledged one in %.1f s: %s",
            delay_s, detail, extra={"action": "rewind"},
        )  # fmt: skip
        self._producers.drop(reopen_at=now + delay_s)
        for assigned in self._assignment.all():
            until, reason = max(now + delay_s, assigned.stopped_until), assigned.reason or StopReason.PUBLISH_FAILED
            self._assignment.rewind(assigned, until, assigned.detail or detail, reason)
        self._unacknowledged.clear()
        if isinstance(error, RecordTooLargeError):
            self._producers.learn_limits()


def _raise_if_final(error: WorkerError | None) -> None:
    if isinstance(error, AccessError | FencedError | SystemicError):
        raise error


def abort_reason(error: WorkerError) -> str:
    """One of `metrics.TRANSACTION_RESULTS`."""
    if isinstance(error, NotMemberError):
        return "rebalance"
    if isinstance(error, ReplacedError | FencedError):
        return "replaced"
    return "timeout" if isinstance(error, CallTimeoutError) else "failed"
