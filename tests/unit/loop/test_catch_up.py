"""A worker that ends once it has done what was there: neither before, nor never."""

from typing import Any

import pytest

from tests.fakes import FakeClient, FakeCluster, FakeTransactionalProducer, item_value
from tests.unit.loop import test_users_loop as users
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS
from tests.unit.loop.test_pipeline import P0, P1, Harness, feed, vectors
from worker.errors import CallTimeoutError
from worker.kafka.port import Commit
from worker.loop.catch_up import EndOffsets
from worker.settings import Settings


@pytest.fixture(autouse=True)
def _look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.catch_up.LOOK_INTERVAL_S", 0.01)


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_it_ends_when_everything_is_done(settings: Settings) -> None:
    cluster = FakeCluster(2)
    feed(cluster, 300, 0)
    feed(cluster, 20, 1)
    run = Harness(cluster, settings=settings, until_caught_up=True)
    with run:
        run.until_ended()
    assert run.pipeline.is_caught_up
    assert len(vectors(cluster)) == 320
    assert {tp.partition: commit.offset for tp, commit in cluster.commits.items()} == {0: 300, 1: 20}


def test_with_nothing_to_do_it_ends_at_once() -> None:
    run = Harness(FakeCluster(2), until_caught_up=True)
    with run:
        run.until_ended()
    assert run.pipeline.is_caught_up


def test_one_that_is_stopped_before_has_not_caught_up() -> None:
    cluster = FakeCluster(2)
    feed(cluster, 20, 1)
    run = Harness(cluster, until_caught_up=True)
    run.consumer.subscribe = lambda topics, listener: None  # nothing is assigned: another member has the partitions
    with run:
        run.until(lambda: run.pipeline._catch_up._num_quiet_looks == 0 and run.pipeline._catch_up._next_look > 0)
    assert not run.pipeline.is_caught_up


def test_it_waits_for_what_other_members_have() -> None:
    cluster = FakeCluster(2)
    feed(cluster, 5, 0)
    feed(cluster, 5, 1)
    goal = EndOffsets(FakeClient(cluster).log(), "items", 2)
    assert not goal.are_reached({P0: Commit(5), P1: Commit(4)})
    assert goal.partitions == [P1]
    feed(cluster, 5, 1)  # comes later, and is none of its business
    assert goal.are_reached({P1: Commit(5)})


def test_offsets_without_a_record_are_not_waited_for() -> None:
    cluster = FakeCluster(1)
    producer = FakeTransactionalProducer(FakeClient(cluster), "feeder")
    producer.begin()
    cluster.append_open("feeder", "items", 0, b"a", item_value("a"))
    cluster.end_transaction("feeder", commit=True)
    cluster.append_open("feeder", "items", 0, b"b", item_value("b"))
    cluster.end_transaction("feeder", commit=False)
    run = Harness(cluster, until_caught_up=True)
    with run:
        run.until_ended()
    assert 1 <= cluster.commits[P0].offset <= len(cluster.log[P0])
    assert vectors(cluster) == [("a", 1)]


def test_users_that_wait_for_an_item_which_is_there_are_done_first() -> None:
    cluster = FakeCluster(1)
    users.feed(cluster, users.event("u", "x", 0), users.event("u", "later", 1))
    users.publish_item(cluster, "x", (1.0, 0.0))
    with users.Harness(cluster) as first:
        first.until_committed()
    users.publish_item(cluster, "later", (0.0, 1.0))
    run = users.Harness(cluster, until_caught_up=True)
    with run:
        run.until_ended()
    assert run.pipeline.is_caught_up
    assert users.published(cluster)[-1].num_events == 2


def test_exactly_once_for_users_survives_a_commit_of_unknown_outcome() -> None:
    cluster, left = FakeCluster(1), [3]

    def on_commit(moment: Any) -> Any:
        left[0] -= 1
        return CallTimeoutError("no answer") if left[0] >= 0 else None

    users.publish_item(cluster, "x", (1.0, 0.0))
    users.feed(cluster, *[users.event(f"u{n % 7}", "x", n) for n in range(100)])
    run = users.Harness(cluster, settings=EXACTLY_ONCE, until_caught_up=True, on_commit=on_commit)
    with run:
        run.until_ended()
    for name in {f"u{n}" for n in range(7)}:
        counts = [vector.num_events for vector in users.published(cluster, name)]
        assert counts == sorted(counts), "no reader sees a user go back"
        assert counts[-1] == 4
    assert run.metrics.accounting.totals.unaccounted() == 0
