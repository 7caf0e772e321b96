"""Partitions that change hands while items flow: nothing is lost, and nothing old is written over something new."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.brokers import Broker
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.flow import Flow
from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess
from worker.kafka.embedded import EmbeddedBroker
from worker.loop.source import Source

NUM_PARTITIONS = 4
ASSIGNORS = ("range", "roundrobin", "cooperative-sticky")


def num_held(worker: WorkerThread) -> int:
    return sum(partition.state == "running" for partition in worker.items.partitions)


def scale_up_and_down(stream: Stream, settings: dict[str, Any]) -> int:
    """A second member joins, works, and leaves. Returns how many outputs were written twice."""
    with WorkerThread(settings) as first, Flow(stream) as flow:
        first.until(lambda: num_held(first) == NUM_PARTITIONS)
        with WorkerThread(settings) as second:
            second.until(lambda: (num_held(first), num_held(second)) == (2, 2))
            second.until(lambda: second.items.accounting.published > 50)
        taken_over = first.items.accounting.published
        first.until(lambda: num_held(first) == NUM_PARTITIONS)
        first.until(lambda: first.items.accounting.published > taken_over + 50)
        flow.stop()
        stream.wait_committed(first)
        first.until(lambda: first.items.accounting.in_flight == 0)
        verdict = stream.verdict([first.metrics_url])
        assert verdict.ok, verdict.explain()
        assert verdict.counts["inputs"] == flow.num_fed
        totals = second.service.metrics["items"].accounting.totals
        assert (totals.in_flight, totals.unaccounted()) == (0, 0)
        return verdict.counts["duplicates"]


@pytest.mark.real_kafka
@pytest.mark.parametrize("assignor", ASSIGNORS)
def test_a_member_comes_and_goes(make_stream: Callable[..., Stream], real_kafka: Broker, assignor: str) -> None:
    stream = make_stream(real_kafka, NUM_PARTITIONS)
    num_duplicates = scale_up_and_down(stream, stream.settings({"kafka.assignor": assignor}))
    assert num_duplicates == 0, "what has been begun is finished and committed before a partition moves"


@BOTH_LIBRARIES
@pytest.mark.embedded
def test_a_member_comes_and_goes_on_the_embedded_broker(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker
) -> None:
    """It refuses commits while it rebalances, so what was published since the last one is published again."""
    stream = make_stream(own_embedded, NUM_PARTITIONS)
    scale_up_and_down(stream, stream.settings(stream.for_several))


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_static_member_comes_back_to_its_partitions_and_nobody_else_notices(
    make_stream: Callable[..., Stream], real_kafka: Broker, tmp_path: Path
) -> None:
    """With a disk of its own it need not even read its changelog again."""
    stream = make_stream(real_kafka, NUM_PARTITIONS)

    def member(name: str) -> WorkerThread:
        return WorkerThread(stream.settings({"kafka.group_instance_id": name, "state.dir": tmp_path / name}))

    with member("a") as first, Flow(stream) as flow:
        with member("b") as second:
            second.until(lambda: (num_held(first), num_held(second)) == (2, 2))
            before = {partition.partition for partition in second.items.partitions}
        events = [first.metric("align_rebalances_total", event=event) for event in ("assigned", "revoked", "lost")]
        with member("b") as second:
            second.until(lambda: num_held(second) == 2)
            assert {partition.partition for partition in second.items.partitions} == before
            second.until(lambda: second.items.state["remembered"] > 0)
            assert second.metric("align_restored_records_total") == 0
            flow.stop()
            stream.wait_committed(first, second)
            assert events == [
                first.metric("align_rebalances_total", event=event) for event in ("assigned", "revoked", "lost")
            ]
            verdict = stream.verdict([first.metrics_url, second.metrics_url])
    assert verdict.ok, verdict.explain()


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_static_member_whose_name_is_taken_ends(make_stream: Callable[..., Stream], real_kafka: Broker) -> None:
    stream = make_stream(real_kafka)
    settings = stream.settings({"kafka.group_instance_id": "same"})
    with WorkerProcess(settings) as older, Flow(stream):
        older.wait_ready()
        with WorkerThread(settings) as newer:
            assert older.wait(30) == 7
            newer.until(lambda: num_held(newer) == 2)
        (line,) = [line for line in older.stderr.splitlines() if line.startswith("align-worker:")]
        assert "kafka.group_instance_id" in line


@pytest.mark.real_kafka
@pytest.mark.parametrize("identity", [{}, {"kafka.remember_member": False}], ids=["with a name", "without"])
def test_one_that_the_watchdog_ends_leaves_the_group_and_costs_nobody_a_session(
    make_stream: Callable[..., Stream], real_kafka: Broker, monkeypatch: pytest.MonkeyPatch, identity: dict[str, Any]
) -> None:
    stream = make_stream(real_kafka, NUM_PARTITIONS)
    long_session = {"kafka.session_timeout_ms": 60_000, "kafka.delivery_timeout_ms": 10_000}
    settings = stream.settings({**identity, **long_session, "watchdog.stalled_s": 8})
    stuck, released, poll = threading.Event(), threading.Event(), Source.poll
    with WorkerThread(settings) as other, WorkerThread(settings) as worker:
        worker.expect_stall()

        def poll_or_hang(source: Source) -> Any:
            if stuck.is_set() and threading.get_ident() == worker._thread.ident:
                released.wait(120)
            return poll(source)

        monkeypatch.setattr(Source, "poll", poll_or_hang)
        other.until(lambda: (num_held(other), num_held(worker)) == (2, 2))
        stuck.set()
        worker.until(lambda: worker.exit_code is not None, timeout=60, name="ended by its watchdog")
        try:
            other.until(lambda: num_held(other) == NUM_PARTITIONS, timeout=30, name="the owner of all partitions")
        finally:
            released.set()


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_what_a_killed_owner_published_is_not_undone_by_the_next_one(
    make_stream: Callable[..., Stream], real_kafka: Broker
) -> None:
    """It had published newer revisions and deletes, and committed none of it. As a static member it has its heir at
    once, and a session so long that it need not prove its membership by a commit meanwhile."""
    stream = make_stream(real_kafka)
    catalogue = list(names(60))
    changed, deleted = catalogue[:30], catalogue[30:]
    identity = {"kafka.group_instance_id": "a", "kafka.session_timeout_ms": 45_000}
    stream.feed_items(catalogue, revision=1)
    with WorkerThread(stream.settings(identity)) as first:
        stream.wait_committed(first)
    committed = stream.commits()

    with WorkerProcess(stream.settings({**identity, "commit.interval_ms": 600_000})) as owner:
        owner.wait_ready()
        stream.feed_items(catalogue, revision=5)
        owner.wait_until(lambda: len(stream.output_records()) == 120)
        stream.feed_items(changed, revision=6)
        stream.feed(stream.delete(name) for name in deleted)
        owner.wait_until(lambda: len(stream.output_records()) == 180)
        owner.kill()
    assert stream.commits() == committed, "the owner has committed, so that nothing is proven here"

    with WorkerThread(stream.settings(identity)) as heir:
        stream.wait_committed(heir)
        heir.until(lambda: heir.items.accounting.consumed == 2 * len(catalogue), name="shown to have read all of it")
        heir.until(lambda: heir.items.accounting.in_flight == 0)
        assert heir.items.accounting.superseded == len(catalogue)
        verdict = stream.verdict([heir.metrics_url])
    assert verdict.ok, verdict.explain()
    again = stream.published()
    assert sum(revision == 5 for _, revision in again) == len(catalogue)
    assert dict(again) == dict.fromkeys(changed, 6) | dict.fromkeys(deleted)
