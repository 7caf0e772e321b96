"""How old the oldest record may be that is not finished, whatever is known of the log."""

import pytest

from tests.fakes import FakeRecord
from worker.kafka.port import Commit
from worker.loop.assignment import AssignedPartition
from worker.partitions.state import PartitionState
from worker.partitions.tenure import Tenure
from worker.records import Delete, TopicPartition

P0 = TopicPartition("items", 0)
EPOCH_S = 1_000_000.0
"""What a wall clock shows when the monotonic one shows 0."""


@pytest.fixture
def held() -> AssignedPartition:
    return AssignedPartition(P0, PartitionState.RUNNING, Tenure(P0, Commit(0)), behind_since=0.0)


def age(held: AssignedPartition, now: float, lag: int | None = 0, heard_at: float | None = None) -> float:
    held.look(lag, heard_at, now, (EPOCH_S + now) * 1000)
    return now - held.behind_since


def take(held: AssignedPartition, offsets: range, at: float) -> None:
    """Records that were appended at this time."""
    tenure = held.tenure
    assert tenure is not None
    tenure.consumed([FakeRecord(offset=offset, timestamp=int((EPOCH_S + at) * 1000)) for offset in offsets])


def finish(held: AssignedPartition, offsets: range) -> None:
    tenure = held.tenure
    assert tenure is not None
    read = tenure.open_slice()
    for offset in offsets:
        read.add(Delete(FakeRecord(offset=offset), str(offset)))
    read.written.expect(0, lambda: None)
    tenure.settle()


def test_who_has_read_all_is_as_old_as_the_last_answer(held):
    assert age(held, 10, heard_at=9.5) == pytest.approx(0.5)
    assert age(held, 20, heard_at=19.9) == pytest.approx(0.1)


def test_it_grows_while_nobody_answers_although_no_record_is_known_to_wait(held):
    age(held, 10, heard_at=9.5)
    assert age(held, 70, heard_at=9.5) == pytest.approx(60.5)


def test_it_is_the_age_of_the_oldest_record_in_flight(held):
    age(held, 10, heard_at=10)
    take(held, range(3), at=4.0)
    take(held, range(3, 6), at=9.0)
    assert age(held, 12, heard_at=12) == pytest.approx(8)
    finish(held, range(2))
    assert age(held, 12, heard_at=12) == pytest.approx(8), "one of those taken together is left"
    finish(held, range(2, 3))
    assert age(held, 12, heard_at=12) == pytest.approx(3)
    finish(held, range(3, 6))
    assert age(held, 13, heard_at=12.5) == pytest.approx(0.5)


def test_records_that_wait_in_the_log_count_from_when_there_were_none(held):
    age(held, 10, heard_at=9.9)
    assert age(held, 15, lag=100, heard_at=15) == pytest.approx(5.1)


def test_a_partition_that_is_begun_again_stays_as_old_as_what_it_has_not_finished(held):
    take(held, range(3), at=1.0)
    age(held, 5, heard_at=5)
    held.tenure, held.state = None, PartitionState.STOPPED
    assert age(held, 40, lag=3, heard_at=40) == pytest.approx(39)
    held.tenure, held.state = Tenure(P0, Commit(0)), PartitionState.RESTORING
    assert age(held, 50, lag=3, heard_at=50) == pytest.approx(49)


def test_times_that_are_none_or_lie_ahead_are_no_age(held):
    age(held, 10, heard_at=10)
    take(held, range(3), at=100.0)
    assert age(held, 20) == 0
    held.tenure = Tenure(P0, Commit(0))
    held.tenure.consumed([FakeRecord(offset=0, timestamp=-1)])
    assert age(held, 25) == pytest.approx(5)


def test_nothing_is_known_of_a_partition_before_it_runs(held):
    held.state = PartitionState.NEW
    assert age(held, 30, lag=None) == pytest.approx(30)
