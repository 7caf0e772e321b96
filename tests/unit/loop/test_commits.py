"""A commit whose outcome comes later: one at a time, and it proves what was true when it was sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes import FakeCluster
from tests.unit.loop.test_pipeline import P0, Harness, feed
from worker.errors import CallTimeoutError, FencedError, WorkerError
from worker.kafka.port import Commit, CommitOutcome
from worker.records import TopicPartition


class Late:
    """Keeps what is committed to itself until told to answer."""

    def __init__(self, harness: Harness) -> None:
        self._commit = harness.consumer.commit
        self.sent: list[tuple[Mapping[TopicPartition, Commit], CommitOutcome]] = []
        self.num_waits = 0
        consumer: Any = harness.consumer
        consumer.commit = lambda commits, on_outcome: self.sent.append((commits, on_outcome))
        consumer.await_commits = self.wait

    def wait(self) -> None:
        self.num_waits += 1
        while self.sent:
            self.answer()

    def answer(self, error: WorkerError | None = None) -> None:
        commits, on_outcome = self.sent.pop(0)
        if error is None:
            self._commit(commits, on_outcome)
        else:
            on_outcome(error)


def is_done(harness: Harness, num_records: int) -> bool:
    return harness.metrics.accounting.consumed == num_records and not harness.pipeline.assignment.in_flight


def test_no_commit_overtakes_another() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    harness = Harness(cluster)
    late = Late(harness)
    with harness:
        harness.until(lambda: len(late.sent) == 1)
        feed(cluster, 20)
        harness.until(lambda: is_done(harness, 40))
        assert len(late.sent) == 1, "the loop goes on, and sends no other one"
        late.answer()
        harness.until(lambda: len(late.sent) == 1)
        late.answer(CallTimeoutError("no answer"))
        harness.until(lambda: len(late.sent) == 1)
        late.answer()
        harness.until_committed()
    assert harness.error is None


def test_a_drain_waits_for_the_last_commit() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    harness = Harness(cluster)
    late = Late(harness)
    with harness:
        harness.until(lambda: is_done(harness, 20) and len(late.sent) == 1)
    assert late.num_waits >= 1
    assert cluster.commits[P0].offset == 20


def test_an_outcome_that_nobody_recovers_from_ends_the_loop() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    harness = Harness(cluster)
    late = Late(harness)
    with harness:
        harness.until(lambda: len(late.sent) == 1)
        late.answer(FencedError("another process has this name"))
        assert isinstance(harness.until_failed(), FencedError)


@pytest.mark.parametrize("is_lost", [False, True])
def test_a_commit_of_partitions_that_were_lost_meanwhile_renews_no_lease(is_lost: bool) -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    harness = Harness(cluster)
    late = Late(harness)
    with harness:
        harness.until(lambda: len(late.sent) == 1)
        if is_lost:
            harness.consumer.rebalance("lost", [P0])
            harness.until(lambda: not harness.pipeline.assignment.all())
        renewed: list[float] = []
        lease: Any = harness.pipeline._lease
        lease.renew = renewed.append
        late.answer()
        assert bool(renewed) != is_lost
