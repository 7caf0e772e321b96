"""Commits of what is finished: on time, and often enough to prove that the place in the group is still ours."""

from __future__ import annotations

import logging
import time

from worker.errors import ClientError, NotMemberError, WorkerError
from worker.kafka.port import ConsumerPort
from worker.loop.assignment import Assignment
from worker.monitoring.metrics import Metrics
from worker.partitions.lease import MembershipLease, boottime
from worker.stages.producers import Producers
from worker.stages.transaction import TransactionalPublisher

log = logging.getLogger(__name__)


class Commits:
    """Poll thread."""

    def __init__(
        self,
        consumer: ConsumerPort,
        assignment: Assignment,
        lease: MembershipLease,
        producers: Producers,
        transactions: TransactionalPublisher | None,
        interval_s: float,
        metrics: Metrics,
    ) -> None:
        """`transactions` commit offsets with their outputs; None where outputs are written without."""
        self._consumer = consumer
        self._assignment = assignment
        self._lease = lease
        self._producers = producers
        self._transactions = transactions
        self._interval_s = interval_s
        self._metrics = metrics
        self._next_at = 0.0
        self._is_under_way = False
        """A commit has been sent, and its outcome is not known: another one waits for that."""
        self._is_draining = False
        self._final: WorkerError | None = None
        """An outcome that ends the process."""
        self._num_transactions = 0

    def drain(self) -> None:
        """Wait for each outcome from now on: there are no more polls that would tell it."""
        self._is_draining = True

    def commit_due(self) -> None:
        """Commit when the interval is over, or the lease soon is. Raises what nobody recovers from: another process in
        our place, no access."""
        if self._final is not None:
            raise self._final
        now = time.monotonic()
        has_open_slices = any(each.has_open_slices() for each in self._assignment.tenures())
        if self._transactions is not None:
            self._count(self._transactions)
            # What no transaction will commit, because it is behind the last record, or before the first of a log.
            if now >= self._next_at and not has_open_slices:
                self._next_at = now + self._interval_s
                self.commit()
            return
        # What is computed anew is no record in flight, and is written, too.
        has_work = self._assignment.in_flight > 0 or has_open_slices
        lease_due = has_work and self._lease.is_due(boottime())
        if now >= self._next_at or lease_due:
            self._next_at = now + self._interval_s
            self.commit(prove_membership=lease_due)

    def commit(self, *, prove_membership: bool = False) -> None:
        """Commit what is finished. With nothing new to commit, the old offsets prove membership just as well."""
        if self._is_under_way:
            if not self._is_draining:
                return
            self._await()
        # Transactions have committed what is settled: there are no such commits then.
        commits = self._assignment.commits() or (self._assignment.positions() if prove_membership else {})
        if not commits:
            return
        tenures = [each for each in self._assignment.tenures() if each.partition in commits]
        sent_at, started = boottime(), time.monotonic()

        def ended(error: WorkerError | None) -> None:
            self._is_under_way = False
            if isinstance(error, NotMemberError):  # the next poll says what became of the partitions
                self._metrics.commits.labels("not_member").inc()
                log.info("%s", error.one_line(), extra={"action": "commit_refused"})
            elif isinstance(error, ClientError):  # the next commit covers these offsets, too
                self._metrics.commits.labels("error").inc()
                log.warning("%s", error.one_line(), extra={"action": "commit_failed"})
            elif error is not None:
                self._final = error
            else:
                if any(each.is_live for each in tenures):  # or else all of it may have been lost meanwhile
                    self._lease.renew(sent_at)
                for tenure in tenures:
                    tenure.committed(commits[tenure.partition])
                self._succeeded(1)
                self._metrics.stage_duration.labels("commit").observe(time.monotonic() - started)

        self._is_under_way = True
        self._consumer.commit(commits, ended)
        if self._is_draining and self._is_under_way:
            self._await()
        if self._final is not None:
            raise self._final

    def _await(self) -> None:
        try:
            self._consumer.await_commits()
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "commit_failed"})

    def _count(self, transactions: TransactionalPublisher) -> None:
        if (num_new := transactions.num_committed - self._num_transactions) > 0:
            self._num_transactions += num_new
            self._succeeded(num_new)

    def _succeeded(self, num_commits: int) -> None:
        self._producers.succeeded()
        self._metrics.commits.labels("ok").inc(num_commits)
        self._metrics.last_commit.set_to_current_time()
