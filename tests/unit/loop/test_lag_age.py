"""How old the oldest record may be that is not finished, whatever is known of the log."""

import pytest

from tests.fakes import FakeRecord
from worker.kafka.port import Commit
from worker.loop.assigned_partition import AssignedPartition
from worker.partitions.state import StopReason
from worker.records import Delete, TopicPartition
from worker.state import MemoryStore
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay

P0 = TopicPartition("items", 0)
EPOCH_S = 1_000_000.0
"""What a wall clock shows when the monotonic one shows 0."""


@pytest.fixture
def assigned() -> AssignedPartition:
    partition = AssignedPartition(P0)
    partition.begin(Commit(0))
    partition.start(StateOverlay(MemoryStore(), ItemState.decode), (), now=0.0)
    partition.behind_since = 0.0
    return partition


def age(assigned: AssignedPartition, now: float, lag: int | None = 0, heard_at: float | None = None) -> float:
    assigned.look(lag, heard_at, now, (EPOCH_S + now) * 1000)
    return now - assigned.behind_since


def begin_again(assigned: AssignedPartition) -> None:
    assigned.stop(StopReason.PUBLISH_FAILED, "", until=0.0, now=0.0)
    assigned.renew()
    assigned.begin(Commit(0))


def take(assigned: AssignedPartition, offsets: range, at: float) -> None:
    """Records that were appended at this time."""
    tenure = assigned.tenure
    assert tenure is not None
    tenure.consumed([FakeRecord(offset=offset, timestamp=int((EPOCH_S + at) * 1000)) for offset in offsets])


def finish(assigned: AssignedPartition, offsets: range) -> None:
    tenure = assigned.tenure
    assert tenure is not None
    read = tenure.open_slice()
    for offset in offsets:
        read.add(Delete(FakeRecord(offset=offset), str(offset)))
    read.written.expect(0, lambda: None)
    tenure.settle()


def test_who_has_read_all_is_as_old_as_the_last_answer(assigned: AssignedPartition) -> None:
    assert age(assigned, 10, heard_at=9.5) == pytest.approx(0.5)
    assert age(assigned, 20, heard_at=19.9) == pytest.approx(0.1)


def test_it_grows_while_nobody_answers_although_no_record_is_known_to_wait(assigned: AssignedPartition) -> None:
    age(assigned, 10, heard_at=9.5)
    assert age(assigned, 70, heard_at=9.5) == pytest.approx(60.5)


def test_it_is_the_age_of_the_oldest_record_in_flight(assigned: AssignedPartition) -> None:
    age(assigned, 10, heard_at=10)
    take(assigned, range(3), at=4.0)
    take(assigned, range(3, 6), at=9.0)
    assert age(assigned, 12, heard_at=12) == pytest.approx(8)
    finish(assigned, range(2))
    assert age(assigned, 12, heard_at=12) == pytest.approx(8), "one of those taken together is left"
    finish(assigned, range(2, 3))
    assert age(assigned, 12, heard_at=12) == pytest.approx(3)
    finish(assigned, range(3, 6))
    assert age(assigned, 13, heard_at=12.5) == pytest.approx(0.5)


def test_records_that_wait_in_the_log_count_from_when_there_were_none(assigned: AssignedPartition) -> None:
    age(assigned, 10, heard_at=9.9)
    assert age(assigned, 15, lag=100, heard_at=15) == pytest.approx(5.1)


def test_a_partition_that_is_begun_again_stays_as_old_as_what_it_has_not_finished(assigned: AssignedPartition) -> None:
    take(assigned, range(3), at=1.0)
    age(assigned, 5, heard_at=5)
    assigned.stop(StopReason.PUBLISH_FAILED, "", until=0.0, now=5.0)
    assert age(assigned, 40, lag=3, heard_at=40) == pytest.approx(39)
    assigned.renew()
    assigned.begin(Commit(0))
    assert age(assigned, 50, lag=3, heard_at=50) == pytest.approx(49)


def test_times_that_are_none_or_lie_ahead_are_no_age(assigned: AssignedPartition) -> None:
    age(assigned, 10, heard_at=10)
    take(assigned, range(3), at=100.0)
    assert age(assigned, 20) == 0
    begin_again(assigned)
    assigned.tenure.consumed([FakeRecord(offset=0, timestamp=-1)])
    assert age(assigned, 25) == pytest.approx(5)


def test_nothing_is_known_of_a_partition_before_it_runs(assigned: AssignedPartition) -> None:
    assigned.stop(StopReason.PUBLISH_FAILED, "", until=0.0, now=0.0)
    assigned.renew()
    assert age(assigned, 30, lag=None) == pytest.approx(30)
