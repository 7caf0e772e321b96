"""The group protocol of KIP-848: whoever comes, goes or dies, the others go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.brokers import Broker
from tests.integration.flow import Flow
from tests.integration.stream import Stream
from tests.integration.test_rebalance import NUM_PARTITIONS, num_held
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess
from worker.errors import ConfigError

pytestmark = pytest.mark.real_kafka

NEW = {"kafka.client": "confluent-kafka", "kafka.group_protocol": "consumer"}
LONGEST_STAND_S = 3.0
"""What a busy machine may make of a moment; with the older protocol it would be the session, 6 s."""


@pytest.fixture
def stream(make_stream: Callable[..., Stream], real_kafka: Broker) -> Stream:
    return make_stream(real_kafka, NUM_PARTITIONS)


def longest_stand_s(worker: WorkerThread, until: Callable[[], bool]) -> float:
    """The longest time in which the worker has published nothing, until something has come about and one more time."""
    published, moved_at, longest_s = worker.items.accounting.published, time.monotonic(), 0.0
    deadline = time.monotonic() + 60
    has_come_about = False
    while True:
        assert time.monotonic() < deadline, worker.items
        now, found = time.monotonic(), worker.items.accounting.published
        longest_s = max(longest_s, now - moved_at)
        if found != published:
            published, moved_at = found, now
            if has_come_about:
                return longest_s
        has_come_about = has_come_about or until()
        time.sleep(0.02)


def test_nobody_stands_still_when_a_member_joins_dies_or_leaves(stream: Stream) -> None:
    settings: dict[str, Any] = stream.settings(NEW)
    with WorkerThread(settings) as stays, Flow(stream) as flow:
        stays.until(lambda: num_held(stays) == NUM_PARTITIONS)
        stays.until(lambda: stays.items.accounting.published > 50)
        with WorkerProcess(settings) as other:
            assert longest_stand_s(stays, lambda: num_held(stays) == 2) < LONGEST_STAND_S, "while one joins"
            other.wait_ready()
            other.kill()
            assert longest_stand_s(stays, lambda: num_held(stays) == NUM_PARTITIONS) < LONGEST_STAND_S, "while one dies"
        with WorkerThread(settings) as third:
            third.until(lambda: num_held(third) == 2)
        assert longest_stand_s(stays, lambda: num_held(stays) == NUM_PARTITIONS) < LONGEST_STAND_S, "while one leaves"
        flow.stop()
        stream.wait_committed(stays)
        stays.until(lambda: stays.items.accounting.in_flight == 0)
        verdict = stream.verdict()
    assert verdict.ok, verdict.explain()
    assert verdict.counts["inputs"] == flow.num_fed


def test_a_member_without_partitions_is_in_the_group(make_stream: Callable[..., Stream], real_kafka: Broker) -> None:
    """Nobody tells it that it has none; a watchdog would end it for not having come to rest."""
    stream = make_stream(real_kafka, 1)
    with WorkerThread(stream.settings(NEW)) as first, WorkerThread(stream.settings(NEW)) as second:
        for worker in (first, second):
            worker.until(lambda worker=worker: worker.items.group_stable, name="in the group")  # type: ignore[misc]
        first.until(lambda: num_held(first) + num_held(second) == 1)


def test_a_session_that_the_brokers_end_earlier_is_refused(stream: Stream) -> None:
    """Else a member that was frozen might still write for partitions that have a new owner."""
    with WorkerThread(stream.settings({**NEW, "kafka.session_timeout_ms": 6_900})) as worker:
        error = worker.failure()
    assert isinstance(error, ConfigError)
    assert "kafka.session_timeout_ms=6900" in error.one_line()
    assert "group.consumer.session.timeout.ms=7000" in error.one_line()


def test_a_killed_member_that_comes_back_at_once_waits_for_its_name(
    make_stream: Callable[..., Stream], real_kafka: Broker
) -> None:
    """The group keeps it until the session of the dead one ends, and by itself the library would give up."""
    stream = make_stream(real_kafka, 1)
    settings = stream.settings({**NEW, "kafka.group_instance_id": "same"})
    with WorkerProcess(settings) as killed:
        killed.wait_ready()
        killed.kill()
    with WorkerThread(settings) as successor:
        successor.until(lambda: num_held(successor) == 1)
