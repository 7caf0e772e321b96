"""What becomes of partitions when outputs cannot be written: each failure of a moment counts, whichever comes first."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from worker.errors import AccessError, ClientError, NextSpaceError, NotMemberError, RecordTooLargeError, WorkerError
from worker.kafka.port import Commit
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.recovery import Recovery, likeliest_cause
from worker.monitoring.metrics import Metrics
from worker.partitions.batch_slice import Output
from worker.partitions.lease import MembershipLease
from worker.partitions.state import PartitionState, StopReason
from worker.records import TopicPartition
from worker.settings import BatchSettings
from worker.stages.batch_queue import BatchQueue
from worker.stages.publish import Unacknowledged
from worker.state import MemoryStore
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay

P0, P1, P2 = (TopicPartition("items", number) for number in range(3))
AWAY = ClientError("the broker went away")
TOO_LARGE = RecordTooLargeError("too large for the topic")


class CalledProducers:
    """Notes what is asked of it; a failure in a row costs a second."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def called(*_: Any, **__: Any) -> float:
            self.calls.append(name)
            return 1.0

        return called


class CalledSpace:
    """A next space that notes what it is blamed for."""

    def __init__(self) -> None:
        self.blamed: list[tuple[str, bool]] = []

    def output_failed(self, error: WorkerError, *, is_transient: bool) -> None:
        self.blamed.append((str(error), is_transient))


class CalledTransactions:
    def __init__(self) -> None:
        self.failure: WorkerError | None = None

    def take_failure(self) -> WorkerError | None:
        failure, self.failure = self.failure, None
        return failure


class Setup:
    """Three partitions that run."""

    def __init__(self, transactions: Any = None) -> None:
        metrics = Metrics(CollectorRegistry(), "items")
        self.assignment = Assignment(
            BatchQueue(BatchSettings()), MembershipLease(60), metrics, 0.0, lambda done: None, lambda number: None
        )
        self.assignment.assigned([P0, P1, P2])
        for each in self.assignment.all():
            each.begin(Commit(0))
            start(each)
        self.producers, self.space = CalledProducers(), CalledSpace()
        producers: Any = self.producers
        space: Any = self.space
        self.recovery = Recovery(
            self.assignment, producers, Unacknowledged(100), transactions, metrics, lambda: space
        )  # fmt: skip

    def fail(self, partition: TopicPartition, error: WorkerError, output: Output = Output.VECTOR) -> None:
        tenure = self.assignment[partition].tenure
        assert tenure is not None
        tenure.open_slice().written.fail(output, error)

    def reasons(self) -> list[StopReason | None]:
        return [each.reason for each in self.assignment.all()]


def start(assigned: AssignedPartition) -> None:
    assigned.start(StateOverlay(MemoryStore(), ItemState.decode), [], now=0.0)


def test_a_record_that_is_too_large_is_found_behind_the_failures_that_it_has_caused() -> None:
    setup = Setup()
    setup.fail(P0, AWAY)
    setup.fail(P1, TOO_LARGE)
    setup.recovery.recover()
    assert setup.producers.calls.count("learn_limits") == 1
    assert [each.detail for each in setup.assignment.all()] == ["too large for the topic"] * 3


def test_a_refused_dead_letter_stops_its_partition_whatever_else_has_failed() -> None:
    setup = Setup()
    setup.fail(P0, AWAY, Output.DEAD_LETTER)
    setup.fail(P1, TOO_LARGE, Output.DEAD_LETTER)
    setup.recovery.recover()
    failed, waits = StopReason.PUBLISH_FAILED, StopReason.DEAD_LETTER_FAILED
    assert setup.reasons() == [failed, waits, failed]
    assert setup.assignment[P1].detail == "too large for the topic"


def test_in_a_transaction_too_a_refused_dead_letter_stops_its_own_partition() -> None:
    transactions = CalledTransactions()
    setup = Setup(transactions)
    transactions.failure = TOO_LARGE
    setup.fail(P0, TOO_LARGE)  # given up with the transaction
    setup.fail(P1, TOO_LARGE, Output.DEAD_LETTER)
    setup.recovery.recover()
    failed, waits = StopReason.PUBLISH_FAILED, StopReason.DEAD_LETTER_FAILED
    assert setup.reasons() == [failed, waits, failed]
    assert setup.assignment[P1].stopped_until > setup.assignment[P0].stopped_until


def test_a_second_failure_of_a_partition_counts_too() -> None:
    setup = Setup()
    setup.fail(P0, AWAY)
    setup.fail(P0, TOO_LARGE, Output.DEAD_LETTER)
    setup.recovery.recover()
    assert setup.reasons() == [StopReason.DEAD_LETTER_FAILED, *[StopReason.PUBLISH_FAILED] * 2]


def test_the_next_space_is_blamed_once_and_for_what_is_its_own() -> None:
    setup = Setup()
    setup.fail(P0, AWAY)
    setup.fail(P1, AWAY, Output.NEXT)
    setup.fail(P2, TOO_LARGE, Output.NEXT)
    setup.recovery.recover()
    assert setup.space.blamed == [("too large for the topic", False)]


def test_what_ends_the_process_does_so_behind_other_failures() -> None:
    setup = Setup()
    setup.fail(P0, AWAY)
    setup.fail(P1, AccessError("not allowed"))
    with pytest.raises(AccessError):
        setup.recovery.recover()


def test_a_rebalance_is_the_cause_only_where_there_is_no_other() -> None:
    moved = NotMemberError("the group has moved on")
    assert likeliest_cause([moved, AWAY, TOO_LARGE]) is TOO_LARGE
    assert likeliest_cause([moved, AWAY]) is AWAY
    assert likeliest_cause([moved]) is moved
    assert likeliest_cause([AWAY, NextSpaceError("refused", retriable=False)]) is not AWAY


def test_a_partition_says_why_it_waits_now_and_not_why_it_once_did() -> None:
    setup = Setup()
    begun_again, held, unreadable = setup.assignment.all()
    begun_again.stop(StopReason.LOG_CHANGED, "made again", until=0.0, now=0.0)
    begun_again.renew()
    begun_again.begin(Commit(0))
    held.hold(StopReason.ENCODER_DOWN, "image: no answer")
    unreadable.stopped_until = float("inf")
    unreadable.hold(StopReason.UNREADABLE, "checksum")
    setup.fail(P1, AWAY)
    setup.recovery.recover()
    assert setup.reasons() == [StopReason.PUBLISH_FAILED, StopReason.PUBLISH_FAILED, StopReason.UNREADABLE]
    assert [each.detail for each in setup.assignment.all()] == [str(AWAY), str(AWAY), "checksum"]
    assert {each.state for each in setup.assignment.all()} == {PartitionState.STOPPED}


def test_a_partition_that_reads_on_does_not_keep_the_words_of_before() -> None:
    setup = Setup()
    read_on = setup.assignment[P0]
    read_on.detail = "checksum"  # until it is seen that it can be read on
    setup.fail(P1, AWAY)
    setup.recovery.recover()
    assert (read_on.reason, read_on.detail) == (StopReason.PUBLISH_FAILED, str(AWAY))
