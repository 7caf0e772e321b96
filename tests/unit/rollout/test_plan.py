"""Where a rollout stands, step by step, and what each step refuses."""

from dataclasses import replace

import pytest

from tests.fakes import FakeRecord
from worker.errors import RolloutError
from worker.kafka.port import Commit
from worker.partitions.backfill import COMPLETE, NextNote
from worker.partitions.tenure import Note, format_note
from worker.rollout.control import Board
from worker.rollout.health import LEAST_JUDGED, RoleHealth
from worker.rollout.plan import (
    Failure,
    Phase,
    Plan,
    PlannedSpace,
    Standing,
    begun,
    cut_over,
    finished,
    rolled_back,
    stable,
    swapped,
)
from worker.rollout.progress import objections, progress_of

A, B, C = (PlannedSpace(name * 16, f"/space/{name}", f"items-{name}", f"users-{name}") for name in "abc")
B_IN_PLACE = replace(A, space_id=B.space_id, path=B.path)
ROLES = ("items", "users")
WELL = {"items": RoleHealth(LEAST_JUDGED, {})}
START = stable(A, ROLES, 0)
MOVING = begun(START, B, ROLES, 1)
SWITCHED = cut_over(MOVING, [], 2)


def test_readers_read_the_next_space_from_the_cutover_until_it_is_rolled_back() -> None:
    assert (START.readers, MOVING.readers, SWITCHED.readers) == (A, A, B)
    back = rolled_back(SWITCHED, 3)
    assert (back.readers, back.next, back.phase, back.begun) == (A, B, Phase.MOVING, MOVING.begun)
    assert cut_over(back, [], 4).readers == B


def test_finishing_keeps_what_readers_read_and_nothing_else() -> None:
    assert (finished(SWITCHED, 3).primary, finished(SWITCHED, 3).next) == (B, None)
    assert (finished(MOVING, 3, abandon=True).primary, finished(MOVING, 3, abandon=True).next) == (A, None)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda: begun(SWITCHED, C, ROLES, 3), "is read already"),
        (lambda: begun(MOVING, C, ROLES, 3), "under way"),
        (lambda: begun(START, A, ROLES, 3), "is the one that is published now"),
        (lambda: cut_over(START, [], 3), "no rollout is under way"),
        (lambda: cut_over(SWITCHED, [], 3), "is read already"),
        (lambda: cut_over(MOVING, ["items: 3 of 4", "more"], 3), "stays shut: items: 3 of 4; more"),
        (lambda: rolled_back(MOVING, 3), "nothing to take back"),
        (lambda: rolled_back(START, 3), "nothing to take back"),
        (lambda: finished(START, 3), "no rollout is under way"),
        (lambda: finished(START, 3, abandon=True), "no rollout is under way"),
        (lambda: finished(MOVING, 3), "readers still read"),
        (lambda: finished(SWITCHED, 3, abandon=True), "take it back first"),
    ],
)
def test_a_step_that_leads_nowhere_is_refused_by_name(step: object, words: str) -> None:
    with pytest.raises(RolloutError, match=words):
        step()  # type: ignore[operator]


SWAPPED = swapped(START, B_IN_PLACE, 1)


def test_a_swap_puts_another_space_into_the_same_topics_and_a_rollback_takes_it_back() -> None:
    assert (SWAPPED.readers, SWAPPED.phase, SWAPPED.swapped_from) == (B_IN_PLACE, Phase.STABLE, A)
    back = rolled_back(SWAPPED, 2)
    assert (back.readers, back.swapped_from, back.is_swap) == (A, B_IN_PLACE, True)
    moving = begun(SWAPPED, C, ROLES, 3)
    assert (moving.is_swap, moving.swapped_from) == (False, A), "what may stand in its topics is not forgotten"
    assert finished(moving, 4, abandon=True).swapped_from == A
    assert finished(cut_over(moving, [], 4), 5).swapped_from is None


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda: swapped(MOVING, C, 3), "a rollout to space b+ is under way"),
        (lambda: swapped(SWAPPED, B_IN_PLACE, 3), "is the one that is published now"),
        (lambda: rolled_back(finished(begun(SWAPPED, C, ROLES, 3), 4, abandon=True), 5), "nothing to take back"),
    ],
)
def test_a_swap_that_leads_nowhere_is_refused_by_name(step: object, words: str) -> None:
    with pytest.raises(RolloutError, match=words):
        step()  # type: ignore[operator]


def test_a_swap_that_a_worker_has_refused_is_one_until_it_is_taken_back() -> None:
    board = Board("mine")
    failure = Failure(SWAPPED.begun, "it lies elsewhere").encode()
    found = board.take([record(b"mine", SWAPPED.encode()), record(b"mine/failed", failure)])
    assert (found.failure, found.published_beside) == ("it lies elsewhere", None)
    assert found.live is not None
    assert (found.live.primary, found.live.swapped_from) == (A, B_IN_PLACE), (
        "who begins now publishes what was there before"
    )
    assert board.take([record(b"mine", rolled_back(SWAPPED, 2).encode())]).failure == ""


@pytest.mark.parametrize("plan", [START, MOVING, SWITCHED, finished(SWITCHED, 9), SWAPPED])
def test_a_record_says_all_there_is_to_know(plan: Plan) -> None:
    assert Plan.decode(plan.encode()) == plan


LATER = MOVING.encode().replace(b'"version": 1', b'"version": 2')


@pytest.mark.parametrize("value", [b"", b"{}", b"\xff", b"[]", LATER])
def test_a_record_that_cannot_be_read_is_an_error_and_no_guess(value: bytes) -> None:
    with pytest.raises(RolloutError, match="control record"):
        Plan.decode(value)


def record(key: bytes, value: bytes | None) -> FakeRecord:
    return FakeRecord("rollouts", key=key, value=value)


def test_the_last_record_of_a_group_counts_and_those_of_others_do_not() -> None:
    board = Board("mine")
    others = [record(b"yours", SWITCHED.encode()), record(b"mine2", b"rubbish")]
    assert board.take(others) == Standing()
    assert board.take([record(b"mine", START.encode()), record(b"mine", MOVING.encode())]).plan == MOVING
    assert board.take([record(b"mine", SWITCHED.encode())]).plan == SWITCHED


def test_a_failure_ends_the_publishing_of_the_next_space_until_the_rollout_is_begun_again() -> None:
    board = Board("mine")
    board.take([record(b"mine", MOVING.encode())])
    failed = board.take([record(b"mine/failed", Failure(MOVING.begun, "it broke").encode())])
    assert (failed.failure, failed.published_beside) == ("it broke", None)
    again = begun(MOVING, B, ROLES, 5)
    assert board.take([record(b"mine", again.encode())]) == Standing(again)
    assert board.take([]).published_beside == B


def test_what_readers_read_is_published_whatever_has_failed() -> None:
    assert Standing(SWITCHED, "it broke").published_beside == B


def commit(reached: int, missing: int = 0, left: int = 0, space_id: str = B.space_id) -> Commit:
    return Commit(7, format_note(Note(3, next=NextNote(space_id, 5, "id", reached, missing, left))))


def test_the_cutover_is_shut_until_every_partition_is_complete_and_nothing_is_missing() -> None:
    half = progress_of([commit(COMPLETE, 2), commit(17, 0, 40), None, commit(COMPLETE, space_id="c" * 16)], B.space_id)
    assert (half.num_partitions, half.num_complete, half.num_left, half.num_missing) == (4, 1, 40, 2)
    assert objections({"items": half}, WELL, "", 2) == ["items: 1 of 4 partitions are complete, 40 items are left"]
    whole = progress_of([commit(COMPLETE, 2), commit(COMPLETE, 1)], B.space_id)
    assert "3 have no vector in the next space" in objections({"items": whole}, WELL, "", 2)[0]
    assert objections({"items": whole}, WELL, "", 3) == []
    assert objections({"items": whole}, WELL, "it broke", 3) == ["a worker has given the next space up: it broke"]
