"""A model that cannot keep up: the log waits, not the memory, and the group never takes the worker for dead."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread
from worker.process.service import ModelEmbedder
from worker.records import Change
from worker.stages.fuse import Result

NUM_ITEMS = 600
QUEUE_RECORDS = 128
BATCH_RECORDS = 32
SILENCE_S = 7.0  # longer than the session of `QUICK_GROUP`, 6 s


@pytest.fixture
def model_may_run(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The models of this process stand still until it is set."""
    may_run, vectors = threading.Event(), ModelEmbedder.vectors

    def waiting(embedder: ModelEmbedder, entries: Sequence[Change]) -> list[Result]:
        may_run.wait()
        return vectors(embedder, entries)

    monkeypatch.setattr(ModelEmbedder, "vectors", waiting)
    yield may_run
    may_run.set()


def test_a_model_that_stands_still_costs_neither_the_partitions_nor_a_record(
    stream: Stream, model_may_run: threading.Event
) -> None:
    stream.feed_items(names(NUM_ITEMS))
    settings = stream.settings({"batch.queue_records": QUEUE_RECORDS, "batch.max_records": BATCH_RECORDS})
    with WorkerThread(settings) as worker:
        worker.until(lambda: worker.metric("align_paused_partitions") == stream.num_partitions)
        ends_at = time.time() + SILENCE_S
        worker.until(lambda: worker.metric("align_last_poll_timestamp_seconds") > ends_at)
        # One poll may bring two batches on top of a queue that was not quite full.
        assert worker.items.accounting.in_flight <= QUEUE_RECORDS + 4 * BATCH_RECORDS
        assert worker.items.group_stable
        assert not any(stream.commits().values())
        model_may_run.set()
        stream.wait_committed(worker)
        worker.until(lambda: worker.metric("align_paused_partitions") == 0)
        rebalances = {
            event: worker.metric("align_rebalances_total", event=event) for event in ("assigned", "revoked", "lost")
        }
    assert rebalances == {"assigned": 1, "revoked": 0, "lost": 0}
    assert Counter(stream.published()) == Counter((name, 1) for name in names(NUM_ITEMS))


def test_a_drain_that_runs_out_of_time_leaves_the_rest_to_the_next_owner(
    stream: Stream, model_may_run: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    stream.feed_items(names(100))
    with WorkerThread(stream.settings({"shutdown.drain_timeout_s": 0.5})) as first:
        first.until(lambda: first.items.accounting.in_flight == 100)
        started = time.monotonic()
        first.stop()
        assert time.monotonic() - started < 5
        totals = first.service.metrics["items"].accounting.totals
    assert (totals.abandoned, totals.in_flight, totals.unaccounted()) == (100, 0, 0)
    assert not [record for record in caplog.records if getattr(record, "action", "") == "accounting_broken"]
    assert stream.published() == []
    model_may_run.set()
    with WorkerThread(stream.settings()) as second:
        stream.wait_committed(second)
    assert Counter(stream.published()) == Counter((name, 1) for name in names(100))
