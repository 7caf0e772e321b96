import gc
import weakref

import pytest

from schemas import Reason
from tests.fakes import FakeRecord
from worker.errors import ClientError
from worker.kafka.port import Commit
from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Note, Tenure, format_note, parse_note
from worker.records import Delete, Item, Rejection, Superseded, TopicPartition
from worker.state.input_log import InputLog


def item(item_id: str, offset: int) -> Item:
    return Item(FakeRecord(offset=offset, key=item_id.encode()), item_id, 1, 0, {})


@pytest.fixture
def tenure() -> Tenure:
    return Tenure(TopicPartition("items", 0), Commit(10, format_note(Note(4))))


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


def test_nothing_is_committed_before_its_receipt(tenure: Tenure) -> None:
    (read,) = slices_of(tenure, [2])
    read.written.receipts().vectors.acknowledged(4)
    assert tenure.settle() == []
    assert tenure.commit.offset == 10
    read.written.receipts().vectors.acknowledged(5)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(12, format_note(Note(6)))


def test_what_may_be_committed_moves_over_the_contiguous_prefix_only(tenure: Tenure) -> None:
    first, second, third = slices_of(tenure, [1, 1, 1])
    third.written.receipts().vectors.acknowledged(8)
    second.written.receipts().vectors.acknowledged(7)
    assert tenure.settle() == []
    first.written.receipts().vectors.acknowledged(4)
    assert tenure.settle() == [first, second, third]
    assert tenure.commit == Commit(13, format_note(Note(9)))
    assert tenure.in_flight == 0


def test_a_failed_output_holds_what_may_be_committed_for_good(tenure: Tenure) -> None:
    first, second = slices_of(tenure, [2, 1])
    first.written.receipts().vectors.acknowledged(4)
    first.written.receipts().vectors.failed(ClientError("refused"))
    first.written.receipts().vectors.acknowledged(5)
    second.written.receipts().vectors.acknowledged(6)
    assert tenure.settle() == []
    assert tenure.failures() == [first]


def test_nothing_has_failed_before_a_receipt_says_so(tenure: Tenure) -> None:
    slices_of(tenure, [1])
    assert not tenure.failures()


def test_outputs_made_again_are_named_beside_what_others_have_committed() -> None:
    tenure = Tenure(TopicPartition("items", 0), Commit(10, "of another program"))
    tenure.new_outputs_id = "new"
    tenure.all_queued()
    tenure.finish_outputs(is_idle=True)
    assert parse_note(tenure.commit.metadata) == Note(0, outputs_id="new")


def test_a_share_without_outputs_is_done_at_once(tenure: Tenure) -> None:
    read = tenure.open_slice()
    read.add(Superseded(FakeRecord(offset=10)))
    tenure.num_consumed += 1
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(11, format_note(Note(4)))


def test_a_dead_letter_counts_as_an_output_but_does_not_move_the_vectors_end(tenure: Tenure) -> None:
    read = tenure.open_slice()
    read.add(Rejection(FakeRecord(offset=10), Reason.INVALID_FIELD, "decode", ""))
    tenure.num_consumed += 1
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    read.written.receipts().dead_letters.acknowledged(99)
    assert tenure.settle() == [read]
    assert tenure.commit == Commit(11, format_note(Note(4)))


def test_what_is_remembered_reaches_as_far_as_the_greatest_receipt_of_the_changelog(tenure: Tenure) -> None:
    read = tenure.open_slice()
    read.add(item("a", 10))
    read.written.expect(3, lambda: None)
    receipts = read.written.receipts()
    receipts.state.acknowledged(7, 2)
    receipts.dead_letters.acknowledged(99)
    assert (read.written.state_end, read.written.vectors_end, read.written.is_done) == (8, 0, True)
    receipts.state.acknowledged(5)
    assert read.written.state_end == 8


def test_a_failed_dead_letter_is_told_from_a_failed_vector(tenure: Tenure) -> None:
    read = tenure.open_slice()
    read.add(Rejection(FakeRecord(offset=10), Reason.INVALID_FIELD, "decode", ""))
    read.written.expect(len(read.newest) + len(read.rejections), lambda: None)
    read.written.receipts().dead_letters.failed(ClientError("too large"))
    assert read.written.error_is_dead_letter
    assert tenure.failures() == [read]


def test_the_newest_input_of_an_item_stands_for_all_in_a_slice(tenure: Tenure) -> None:
    read = tenure.open_slice()
    added = [
        read.add(entry) for entry in (item("a", 10), item("b", 11), item("a", 12), Delete(FakeRecord(offset=13), "b"))
    ]
    assert added == [1, 1, 0, 0]
    assert read.newest["a"].record.offset == 12
    assert isinstance(read.newest["b"], Delete)
    assert (read.num_records, read.num_same_batch, read.next_offset) == (4, 2, 14)


def test_everyone_is_told_once_when_a_share_is_finished(tenure: Tenure) -> None:
    read = tenure.open_slice()
    read.add(item("a", 10))
    told = []
    read.written.expect(1, lambda: told.append(1))
    read.written.receipts().vectors.failed(ClientError("x"))
    read.written.receipts().vectors.failed(ClientError("y"))
    read.written.receipts().vectors.acknowledged(3)
    assert told == [1]


def test_a_finished_share_is_freed_at_once_and_its_records_with_it(tenure: Tenure) -> None:
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


def test_retiring_gives_up_what_is_not_settled(tenure: Tenure) -> None:
    first, _ = slices_of(tenure, [2, 3])
    first.written.receipts().vectors.acknowledged(4)
    first.written.receipts().vectors.acknowledged(5)
    tenure.settle()
    assert tenure.retire() == 3
    assert not tenure.is_live
    assert tenure.in_flight == 0


def test_what_finishes_after_retirement_does_not_count_again(tenure: Tenure) -> None:
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
def test_notes_of_others_are_not_taken_for_ours(note: str, vectors_end: int | None) -> None:
    assert parse_note(note) == (None if vectors_end is None else Note(vectors_end))
    if vectors_end is not None:
        assert format_note(Note(vectors_end)) == note


def test_a_note_names_the_logs_that_a_commit_belongs_to() -> None:
    note = Note(17, InputLog("aZ-_9", 3), "outputs-id", "state-id")
    assert parse_note(format_note(note)) == note


def test_what_a_later_version_says_in_a_note_is_passed_over() -> None:
    assert parse_note("vectors_end=4 log=abc weather=fair") == Note(4, InputLog("abc"))


@pytest.mark.parametrize("note", ["vectors_end=4 era=x", "vectors_end=4 era=-1", "vectors_end=\u0664"])
def test_a_note_with_a_number_that_is_none_says_nothing(note: str) -> None:
    assert parse_note(note) is None


def begin(tenure: Tenure, offset: int, note: Note, *, is_remembered: bool = True) -> None:
    tenure.begin_at(offset, note, is_remembered=is_remembered)


def test_the_first_share_in_a_log_remembers_it_and_no_other(tenure: Tenure) -> None:
    begin(tenure, 0, Note(4, InputLog("x", 1)), is_remembered=False)
    assert [tenure.open_slice().log, tenure.open_slice().log] == [InputLog("x", 1), None]
    begin(tenure, 0, Note(4, InputLog("x", 1)), is_remembered=True)
    assert tenure.open_slice().log is None


def test_a_log_that_is_taken_up_is_news_to_the_group_before_anything_of_it_is_finished(tenure: Tenure) -> None:
    begin(tenure, 0, Note(4, InputLog("x", 1)))
    assert tenure.has_news()
    assert parse_note(tenure.commit.metadata) == Note(4, InputLog("x", 1))
    tenure.committed(tenure.commit)
    assert not tenure.has_news()


def test_a_commit_that_names_other_logs_is_news_though_no_offset_has_moved(tenure: Tenure) -> None:
    begin(tenure, 10, Note(9))
    assert not tenure.has_news(), "where the vectors end is no name"
    begin(tenure, 10, Note(9, InputLog("x")))
    assert tenure.has_news()
    assert tenure.position == 10


def test_what_others_have_committed_is_left_until_there_is_more_to_commit() -> None:
    tenure = Tenure(TopicPartition("items", 0), Commit(10, "of another program"))
    begin(tenure, 10, Note(0, InputLog("x")))
    assert not tenure.has_news()


def test_commits_go_on_naming_the_logs(tenure: Tenure) -> None:
    begin(tenure, 3, Note(4, InputLog("x", 1), "outputs", "state"))
    (read,) = slices_of(tenure, [2])
    read.written.expect(1, lambda: None)
    read.written.receipts().vectors.acknowledged(8)
    tenure.settle()
    assert tenure.commit == Commit(5, format_note(Note(9, InputLog("x", 1), "outputs", "state")))


def test_offsets_of_markers_are_finished_when_nothing_is_in_flight(tenure: Tenure) -> None:
    tenure.position, tenure.num_consumed = 14, 1
    tenure.pass_over()
    assert tenure.commit.offset == 10, "a record waits to be batched"
    tenure.num_consumed = 0
    (read,) = slices_of(tenure, [1])
    tenure.pass_over()
    assert tenure.commit.offset == 10
    read.written.expect(1, lambda: None)
    read.written.receipts().vectors.acknowledged(0)
    tenure.settle()
    tenure.pass_over()
    assert tenure.commit.offset == 14


def test_outputs_made_again_are_named_once_everything_is_in_them(tenure: Tenure) -> None:
    begin(tenure, 10, Note(4, InputLog("x"), "old", "state"))
    tenure.committed(tenure.commit)
    tenure.all_queued()  # of the old one: it says nothing of the new
    tenure.new_outputs_id = "new"
    tenure.finish_outputs(is_idle=True)
    assert tenure.outputs_id == "old", "not everything has been queued"
    read = tenure.open_slice()
    tenure.all_queued()
    tenure.finish_outputs(is_idle=True)
    assert tenure.outputs_id == "old"
    read.written.expect(1, lambda: None)
    read.written.receipts().vectors.acknowledged(0)
    tenure.settle()
    tenure.finish_outputs(is_idle=True)
    assert (tenure.outputs_id, tenure.has_news()) == ("new", True)
    assert parse_note(tenure.commit.metadata) == Note(4, InputLog("x"), "new", "state")
