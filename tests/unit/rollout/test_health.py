"""What processes say of the next space's vectors, and what a cutover makes of it."""

import pytest

from tests.fakes import FakeRecord
from tests.unit.rollout.test_plan import B
from worker.errors import RolloutError
from worker.rollout.control import Board
from worker.rollout.health import LEAST_JUDGED, ProcessHealth, RoleHealth, health_objections, health_of
from worker.vector_health.judge import Finding
from worker.vector_health.verdict import Verdict, decide

ILL = ProcessHealth(B.space_id, {"items": RoleHealth(700, {"mean_shift": "far off"}), "users": RoleHealth(0, {})})
WELL = ProcessHealth(B.space_id, {"items": RoleHealth(668, {})})


def record(process: str, health: ProcessHealth | None, group: str = "mine") -> FakeRecord:
    return FakeRecord(
        "rollouts", key=f"{group}/health/{process}".encode(), value=None if health is None else health.encode()
    )


def test_each_process_has_its_say_until_it_is_taken_away() -> None:
    board = Board("mine")
    board.take([record("p1", WELL), record("p2", ILL), record("p1", ILL, group="yours")])
    assert board.health == {"p1": WELL, "p2": ILL}
    board.take([record("p1", ILL), record("p2", None)])
    assert board.health == {"p1": ILL}


def test_one_that_cannot_be_read_is_an_error_and_no_guess() -> None:
    for value in (b"", b"[]", b"{}", b'{"space_id": "b", "roles": {"items": {"judged": "x", "ill": {}}}}'):
        with pytest.raises(RolloutError, match="health record"):
            Board("mine").take([FakeRecord("rollouts", key=b"mine/health/p", value=value)])


def test_vectors_of_all_processes_add_up_and_what_is_ill_in_one_is_ill() -> None:
    assert not list(health_objections(health_of([WELL, WELL], B.space_id))), "two that are well, and enough together"
    (told,) = health_objections(health_of([WELL, ILL], B.space_id))
    assert "items: vectors of the next space do not pass mean_shift (far off)" in told
    assert "--accept-health" in told


def test_too_few_and_those_of_another_space_do_not_open_the_gate() -> None:
    for found in ([], [WELL], [ProcessHealth("c" * 16, {"items": RoleHealth(LEAST_JUDGED, {})})]):
        (told,) = health_objections(health_of(found, B.space_id))
        assert told.startswith("items: of 1,000 vectors of the next space that have to be judged ")
        assert "--accept-health" in told
    ill_users = {"items": RoleHealth(LEAST_JUDGED, {}), "users": RoleHealth(400, {"collapse": "the same"})}
    assert [told[:5] for told in health_objections(ill_users)] == ["users"]


def test_what_a_process_says_is_what_its_watch_decides_over_the_last_vectors() -> None:
    ill, well = Finding("rank", 1.0, 2.0, True, "flat"), Finding("rank", 3.0, 2.0, False, "")
    before = [Verdict(334, (ill,)), *[Verdict(334, (well,))] * 3]
    assert RoleHealth.of(decide(before, LEAST_JUDGED)) == RoleHealth(1_002, {})
    assert RoleHealth.of(decide(before[:2], LEAST_JUDGED)) == RoleHealth(668, {"rank": "flat"})
