import gc
import weakref

import pytest

from schemas import Reason
from tests.fakes import FakeRecord
from worker.errors import ClientError
from worker.kafka.port import Commit
from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Tenure, format_note, parse_note
from worker.records import Delete, Item, Rejection, Superseded, TopicPartition


def item(item_id: str, offset: int) -> Item:
    return Item(FakeRecord(offset=offset, key=item_id.encode()), item_id, 1, 0, {})


@pytest.fixture
def tenure() -> Tenure:
    return Tenure(TopicPartition("items", 0), Commit(10, format_note(4)))


def slices_of(tenure: Tenure, sizes: list[int]) -> list[BatchSlice]:
    offset, slices = tenure.commit.offset, []
    for size in sizes:
        read = tenure.open_slice()
        for _ in range(size):
            read.add(item(f"i{offset}", offset))
            offset += 1
        tenure.num_consumed += size
        read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
        slices.append(read)
    return slices


def test_nothing_is_committed_before_its_receipt(tenure):
    (read,) = slices_of(tenure, [2])
    read.written.receipts().vectors.acknowledged(4)
    assert tenure.settle() == []
    assert tenure.commit.offset == 10
    read.written.receipts().vectors.acknowledged(5)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(12, format_note(6))


def test_the_watermark_moves_over_the_contiguous_prefix_only(tenure):
    first, second, third = slices_of(tenure, [1, 1, 1])
    third.written.receipts().vectors.acknowledged(8)
    second.written.receipts().vectors.acknowledged(7)
    assert tenure.settle() == []
    first.written.receipts().vectors.acknowledged(4)
    assert tenure.settle() == [first, second, third]
    assert tenure.commit == Commit(13, format_note(9))
    assert tenure.in_flight == 0


def test_a_failed_output_holds_the_watermark_for_good(tenure):
    first, second = slices_of(tenure, [2, 1])
    first.written.receipts().vectors.acknowledged(4)
    first.written.receipts().vectors.failed(ClientError("refused"))
    first.written.receipts().vectors.acknowledged(5)
    second.written.receipts().vectors.acknowledged(6)
    assert tenure.settle() == []
    assert tenure.failure() is first


def test_a_share_without_outputs_is_done_at_once(tenure):
    read = tenure.open_slice()
    read.add(Superseded(FakeRecord(offset=10)))
    tenure.num_consumed += 1
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(11, format_note(4))


def test_a_dead_letter_counts_as_an_output_but_does_not_move_the_vectors_end(tenure):
    read = tenure.open_slice()
    read.add(Rejection(FakeRecord(offset=10), Reason.INVALID_FIELD, "decode", ""))
    tenure.num_consumed += 1
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    read.written.receipts().dead_letters.acknowledged(99)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(11, format_note(4))


def test_a_failed_dead_letter_is_told_from_a_failed_vector(tenure):
    read = tenure.open_slice()
    read.add(Rejection(FakeRecord(offset=10), Reason.INVALID_FIELD, "decode", ""))
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    read.written.receipts().dead_letters.failed(ClientError("too large"))
    assert read.written.error_is_dead_letter
    assert tenure.failure() is read


def test_the_newest_input_of_an_item_stands_for_all_in_a_share(tenure):
    read = tenure.open_slice()
    added = [
        read.add(entry) for entry in (item("a", 10), item("b", 11), item("a", 12), Delete(FakeRecord(offset=13), "b"))
    ]
    assert added == [1, 1, 0, 0]
    assert read.newest["a"].record.offset == 12
    assert isinstance(read.newest["b"], Delete)
    assert (read.num_records, read.num_same_batch, read.next_offset) == (4, 2, 14)


def test_everyone_is_told_once_when_a_share_is_finished(tenure):
    read = tenure.open_slice()
    read.add(item("a", 10))
    told = []
    read.written.expect(1, lambda: told.append(1))
    read.written.receipts().vectors.failed(ClientError("x"))
    read.written.receipts().vectors.failed(ClientError("y"))
    read.written.receipts().vectors.acknowledged(3)
    assert told == [1]


def test_a_finished_share_is_freed_at_once_and_its_records_with_it(tenure):
    """Without the help of the garbage collector, which hardly ever runs in the worker."""

    class Watched:
        """Lives as long as the read that its callback refers to."""

    read, watched = tenure.open_slice(), Watched()
    read.add(item("a", 10))
    read.written.expect(1, lambda read=read, watched=watched: None)
    freed = weakref.ref(watched)
    gc.disable()
    try:
        read.written.receipts().vectors.acknowledged(4)
        tenure.settle()
        del read, watched
        assert freed() is None
    finally:
        gc.enable()


def test_retiring_gives_up_what_is_not_settled(tenure):
    first, _ = slices_of(tenure, [2, 3])
    first.written.receipts().vectors.acknowledged(4)
    first.written.receipts().vectors.acknowledged(5)
    tenure.settle()
    assert tenure.retire() == 3
    assert not tenure.is_live
    assert tenure.in_flight == 0


def test_what_finishes_after_retirement_does_not_count_again(tenure):
    first, second = slices_of(tenure, [1, 1])
    first.written.receipts().vectors.acknowledged(4)
    assert tenure.retire() == 2
    second.written.receipts().vectors.acknowledged(5)
    assert tenure.settle() == []
    assert (tenure.commit.offset, tenure.num_settled) == (10, 0)


@pytest.mark.parametrize(
    ("note", "vectors_end"),
    [("vectors_end=17", 17), ("", None), ("something", None), ("vectors_end=", None), ("vectors_end=-1", None)],
)
def test_notes_of_others_are_not_taken_for_ours(note, vectors_end):
    assert parse_note(note) == vectors_end
    if vectors_end is not None:
        assert format_note(vectors_end) == note
