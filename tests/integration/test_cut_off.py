"""A worker that no broker answers: what the person on call and Prometheus see of it, although its polls are fresh."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import pytest

from tests.brokers import RealKafka
from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread, silence_s
from worker.kafka.embedded import EmbeddedBroker
from worker.monitoring.concerns import SILENT_S

FRESH_S = 5.0


def ages(worker: WorkerThread) -> list[float]:
    """Time since a broker has answered, and the lag in seconds of each partition."""
    topic = worker.service.metrics["items"].topic
    lags = [
        worker.metric("align_consumer_lag_seconds", topic=topic, partition=str(number)) for number in range(2)
    ]  # fmt: skip
    return [silence_s(worker), *lags]


def run_cut_off(
    stream: Stream, cut: Callable[[], None], mend: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    """All work is done when the link breaks: lag in records is 0, and stays so."""
    with WorkerThread(stream.settings()) as worker, caplog.at_level(logging.INFO, "worker"):
        worker.wait_ready()
        stream.feed_items(names(20))
        stream.wait_committed(worker)
        worker.until(lambda: max(ages(worker)) < FRESH_S, name="idle and in touch")
        before = worker.metric("align_poll_errors_total")
        assert before == 0
        cut()
        at = time.monotonic()
        worker.until(lambda: min(ages(worker)) > SILENT_S + 2, name="aware of the silence")
        for age in ages(worker):
            assert age <= time.monotonic() - at + FRESH_S
        worker.until(lambda: worker.metric("align_poll_errors_total") > before, name="counting polls in vain")
        assert worker.metric("align_consumer_lag_records") == 0, "the old figure shows nothing"
        lines = [record.getMessage() for record in caplog.records if record.__dict__.get("action") == "silence"]
        assert any("no broker has answered for 1" in line for line in lines), lines
        mend()
        worker.until(lambda: max(ages(worker)) < FRESH_S, name="in touch again")
        worker.until(lambda: any("a broker answers again" in each.getMessage() for each in caplog.records))
        stream.feed_items(names(20, "later"))
        stream.wait_committed(worker)


@pytest.mark.embedded
def test_connections_that_are_refused_are_seen(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    run_cut_off(make_stream(own_embedded), own_embedded.set_down, own_embedded.set_up, caplog)


@pytest.mark.real_kafka
def test_a_broker_that_takes_connections_and_answers_nothing_is_seen(
    make_stream: Callable[..., Stream], own_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    run_cut_off(make_stream(own_kafka), own_kafka.pause, own_kafka.resume, caplog)


@pytest.mark.embedded
def test_a_worker_in_touch_is_never_silent(make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker) -> None:
    """With nothing to do, the brokers answer fetches and heartbeats."""
    stream = make_stream(own_embedded)
    with WorkerThread(stream.settings()) as worker:
        worker.wait_ready()
        stream.feed_items(names(4))
        stream.wait_committed(worker)
        worker.until(lambda: max(ages(worker)) < FRESH_S)
        deadline, worst = time.monotonic() + 8, 0.0
        while time.monotonic() < deadline:
            worst = max(worst, *ages(worker))
            time.sleep(0.1)
        assert worst < FRESH_S
        assert worker.metric("align_topic_partitions") == 2 == worker.metric("align_assigned_partitions")
        assert worker.metric("align_partitions", state="running") == 2
        assert worker.metric("align_stopped_partitions") == 0
