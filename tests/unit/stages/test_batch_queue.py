"""The queue between two threads. Its clock stands still, so nothing in it ever grows old."""

import pytest

from tests.unit.stages.test_batch import items, tenure
from worker.settings import BatchSettings
from worker.stages.batch_queue import BatchQueue


@pytest.fixture
def batches() -> BatchQueue:
    settings = BatchSettings(max_records=4, max_age_ms=1_000_000, queue_records=16)
    return BatchQueue(settings, clock_ms=lambda: 1_000.0)


def test_what_waits_is_taken_at_once_when_nothing_more_is_expected(batches: BatchQueue) -> None:
    batches.put(tenure(), items("a"))
    batch = batches.take(0)
    assert (batch.reason, batch.num_outputs) == ("idle", 1)


def test_a_batch_that_is_not_full_waits_while_more_is_expected(batches: BatchQueue) -> None:
    batches.expect_more(True)
    batches.put(tenure(), items("a"))
    assert batches.take(0) is None
    batches.put(tenure(1), items("b", "c", "d"))
    assert batches.take(0).reason == "full"


def test_what_was_waited_for_is_taken_when_it_does_not_come(batches: BatchQueue) -> None:
    batches.expect_more(True)
    batches.put(tenure(), items("a"))
    assert batches.take(0) is None
    batches.expect_more(False)
    assert batches.take(0).reason == "idle"
