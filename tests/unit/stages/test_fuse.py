from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Reason
from tests.fakes import FakeEmbedder, FakeRecord, feature
from worker.align import OutOfMemoryError
from worker.errors import SystemicError
from worker.kafka.port import Commit
from worker.partitions.tenure import Tenure
from worker.records import Delete, Item, TopicPartition
from worker.stages.batch import MicroBatch
from worker.stages.fuse import Vector, fuse, isolate

POISON = 13.0


def items(*fills: float) -> list[Item]:
    return [
        Item(FakeRecord(offset=offset), f"i{offset}", 1, 0, {"text": feature(fill=fill)})
        for offset, fill in enumerate(fills)
    ]


def batch_of(*fills: float) -> MicroBatch:
    read = Tenure(TopicPartition("items", 0), Commit(0)).open_slice()
    for item in items(*fills):
        read.add(item)
    return MicroBatch([read], "full", 0.0, len(fills))


def no_call() -> None:
    pytest.fail("memory did not run out")


@given(st.lists(st.sampled_from([1.0, 2.0, 3.0, POISON]), max_size=40))
def test_a_failing_item_takes_only_itself(fills: Any) -> None:
    alone = [isolate(items(fill), FakeEmbedder(POISON), no_call)[0] for fill in fills]
    together = isolate(items(*fills), FakeEmbedder(POISON), no_call)
    assert [isinstance(result, Vector) for result in together] == [fill != POISON for fill in fills]
    for one, many in zip(alone, together, strict=True):
        assert one == many or isinstance(one, ValueError)


def test_a_batch_without_fault_is_computed_at_once() -> None:
    embedder = FakeEmbedder(POISON)
    isolate(items(*range(32)[:12]), embedder, no_call)
    assert embedder.batch_sizes == [12]


def test_one_bad_item_costs_a_logarithm_of_calls() -> None:
    embedder = FakeEmbedder(POISON)
    isolate(items(*[1.0] * 63, POISON), embedder, no_call)
    assert len(embedder.batch_sizes) == 1 + 2 * 6


class SpoilingEmbedder(FakeEmbedder):
    """What is poison has no vector, nor have those beside it in the batch."""

    def vectors(self, entries: Any) -> Any:
        results = super().vectors(entries)
        bad = {row for row, entry in enumerate(entries) if entry.features["text"].to_numpy()[0] == POISON}
        return [None if bad & {row - 1, row, row + 1} else result for row, result in enumerate(results)]


def test_an_entry_that_its_neighbour_in_the_batch_has_spoilt_is_computed_again_alone() -> None:
    fills = [1.0, POISON, 2.0, 3.0, POISON, POISON, 1.0, 2.0]
    embedder = SpoilingEmbedder()
    together = isolate(items(*fills), embedder, no_call)
    assert [result is None for result in together] == [fill == POISON for fill in fills]
    assert embedder.batch_sizes == [len(fills)] + [1] * 7


def test_rejections_say_what_happened() -> None:
    batch = batch_of(1.0, POISON, 2.0)
    fused = fuse(batch, FakeEmbedder(POISON), no_call)
    ((read, results, *_),) = fused.slices
    assert list(read.newest) == ["i0", "i2"]
    assert [entry for entry, vector in results if vector is not None] == list(read.newest.values())
    (rejection,) = read.rejections
    assert (rejection.reason, rejection.stage) == (Reason.MODEL_FAILURE, "fuse")
    assert "this item breaks the model" in rejection.detail


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([None, 1.0, 2.0, POISON])), min_size=1, max_size=12))
def test_a_failed_input_does_not_take_the_older_one_that_it_displaced(inputs: Any) -> None:
    """As if each input had been a batch of its own: the last good one of an item is what remains."""
    read = Tenure(TopicPartition("items", 0), Commit(0)).open_slice()
    for offset, (name, fill) in enumerate(inputs):
        record = FakeRecord(offset=offset)
        read.add(Delete(record, name) if fill is None else Item(record, name, 1, 0, {"text": feature(fill=fill)}))
    fuse(MicroBatch([read], "full", 0.0, len(read.newest)), FakeEmbedder(POISON), no_call)
    one_by_one = {name: offset for offset, (name, fill) in enumerate(inputs) if fill != POISON}
    assert {name: entry.record.offset for name, entry in read.newest.items()} == one_by_one
    assert read.num_records == len(read.newest) + len(read.rejections) + read.num_same_batch


def test_a_vector_that_is_not_finite_is_rejected() -> None:
    class NotFinite(FakeEmbedder):
        def vectors(self, entries: Any) -> Any:
            results = zip(entries, super().vectors(entries), strict=True)
            return [None if entry.features["text"].to_numpy()[0] == 2.0 else vector for entry, vector in results]

    batch = batch_of(1.0, 2.0)
    fuse(batch, NotFinite(), no_call)
    assert [rejection.detail for rejection in batch.slices[0].rejections] == ["the vector is not finite"]


def test_a_broken_model_ends_the_process_instead_of_dead_lettering_the_topic() -> None:
    embedder = FakeEmbedder(POISON, probe_error=RuntimeError("device lost"))
    with pytest.raises(SystemicError, match="even on what is known to be good: this item breaks the model"):
        isolate(items(1.0, POISON), embedder, no_call)


class SmallMemory(FakeEmbedder):
    """Holds at most two items."""

    most = 2

    def vectors(self, entries: Any) -> Any:
        if len(entries) > self.most:
            raise OutOfMemoryError("no memory")
        return super().vectors(entries)


def test_memory_that_runs_out_halves_the_batch_and_goes_on() -> None:
    halved = []
    results = isolate(items(*range(8)[1:]), SmallMemory(), lambda: halved.append(1))
    assert all(isinstance(result, Vector) for result in results)
    assert halved


def test_no_memory_for_one_item_ends_the_process() -> None:
    embedder = SmallMemory()
    embedder.most = 0
    with pytest.raises(SystemicError, match="batch of one"):
        isolate(items(1.0, 2.0), embedder, lambda: None)


def test_a_systemic_error_of_the_model_is_not_blamed_on_an_item() -> None:
    class Lost(FakeEmbedder):
        def vectors(self, entries: Any) -> Any:
            raise SystemicError("the device is gone")

    with pytest.raises(SystemicError, match="the device is gone"):
        isolate(items(1.0, 2.0), Lost(), no_call)
