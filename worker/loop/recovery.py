"""Recovery from an output that cannot be written: back to what is committed, with new producers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence

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
        Raises what nobody recovers from: no access, another process in our place, a broken model.

        All failures are looked at before anything is done: a producer that has refused one record fails all others, of
        any partition, so that the first one found may be a consequence, and going back forgets the rest."""
        now = time.monotonic()
        given_up = self._transactions.take_failure() if self._transactions is not None else None
        letters: dict[AssignedPartition, WorkerError] = {}
        others = [] if given_up is None else [given_up]
        for assigned, failed in self._assignment.failures():
            error = failed.written.error
            assert error is not None, "it has failed with something"
            if failed.written.error_is_dead_letter and not _is_retriable(error):
                letters.setdefault(assigned, error)
            else:
                others.append(error)
        errors = [*others, *letters.values()]
        is_next_given_up = self._blame_next(errors)
        # Its topic may be forbidden, and the producer have failed the others with that: if not, it is told again.
        _raise_if_final([each for each in errors if not (is_next_given_up and isinstance(each, AccessError))])
        if letters:
            self._stop_partitions(letters, now)
            if self._transactions is not None:  # their records share a transaction with those of other partitions
                others += letters.values()
        if others:
            self._rewind_all(given_up or likeliest_cause(others), now)
        if any(isinstance(error, RecordTooLargeError) for error in errors) or letters:
            self._producers.learn_limits()
        self._producers.reopen_due(now)
        self._producers.relearn_due(now)

    def _blame_next(self, errors: Sequence[WorkerError]) -> bool:
        """Give the next space up where it is its outputs that cannot be written: what is in flight is done again
        without it. Returns whether it is."""
        space = self._next_space()
        if space is not None and (blamed := [each for each in errors if isinstance(each, NextSpaceError)]):
            error = likeliest_cause(blamed)
            return space.output_failed(error, is_transient=_is_retriable(error))
        return False

    def _stop_partitions(self, letters: Mapping[AssignedPartition, WorkerError], now: float) -> None:
        """Dead letters that cannot be written: rather than lose them, their partitions wait, and the others go on."""
        for assigned, error in letters.items():
            detail, number = error.one_line(), assigned.partition.partition
            self._metrics.dead_letter_failures.labels(assigned.partition.topic).inc()
            self._metrics.rewinds.labels(StopReason.DEAD_LETTER_FAILED).inc()
            log.error("partition %d waits: %s", number, detail, extra={"action": "dead_letter_failed"})
            self._assignment.rewind(assigned, now + DEAD_LETTER_RETRY_S, detail, StopReason.DEAD_LETTER_FAILED)
        if self._transactions is None:
            self._producers.replace_for_dead_letters()

    def _rewind_all(self, error: WorkerError, now: float) -> None:
        """After one refused record a producer may fail all later ones, so everything it had is void."""
        is_rebalance = isinstance(error, NotMemberError)  # that is nobody's fault, and over
        delay_s = 0.0 if is_rebalance else self._producers.failed()
        detail, until = error.one_line(), now + delay_s
        self._metrics.rewinds.labels(StopReason.PUBLISH_FAILED).inc()
        log.warning(
            "an output could not be written, starting again from the last acknowledged one in %.1f s: %s",
            delay_s, detail, extra={"action": "rewind"},
        )  # fmt: skip
        self._producers.drop(reopen_at=until)
        for assigned in self._assignment.all():
            if assigned.reason is not None and assigned.is_stopped_beyond(until):
                self._assignment.rewind(assigned, assigned.stopped_until, assigned.detail, assigned.reason)
            else:
                until_then = max(until, assigned.stopped_until)
                self._assignment.rewind(assigned, until_then, detail, StopReason.PUBLISH_FAILED)
        self._unacknowledged.clear()


def likeliest_cause(errors: Sequence[WorkerError]) -> WorkerError:
    """Which of several failures of one moment is the one to speak of: a refusal rather than what may be its
    consequence, and a rebalance last. Pure."""
    return min(errors, key=lambda error: (_is_retriable(error), isinstance(error, NotMemberError)))


def _is_retriable(error: WorkerError) -> bool:
    return isinstance(error, ClientError) and error.retriable


def _raise_if_final(errors: Sequence[WorkerError]) -> None:
    for error in errors:
        if isinstance(error, AccessError | FencedError | SystemicError):
            raise error


def abort_reason(error: WorkerError) -> str:
    """One of `metrics.TRANSACTION_RESULTS`."""
    if isinstance(error, NotMemberError):
        return "rebalance"
    if isinstance(error, ReplacedError | FencedError):
        return "replaced"
    return "timeout" if isinstance(error, CallTimeoutError) else "failed"
