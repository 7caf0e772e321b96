"""What the command prints of a rollout."""

import json

import pytest

from tests.unit.rollout.test_plan import MOVING, START, SWITCHED
from worker.commands.space import _print_report
from worker.rollout.health import LEAST_JUDGED, RoleHealth
from worker.rollout.plan import Plan, Standing
from worker.rollout.progress import RoleProgress
from worker.rollout.steps import Report

PROGRESS = {"items": RoleProgress(4, 1, 40, 2), "users": RoleProgress(4, 0, 0, 0)}


@pytest.mark.parametrize(
    ("plan", "readers", "beside"),
    [(MOVING, "a" * 16, "b" * 16), (SWITCHED, "b" * 16, "a" * 16)],
)
def test_it_names_what_readers_read_and_what_is_published_beside_it(
    plan: Plan, readers: str, beside: str, capsys: pytest.CaptureFixture[str]
) -> None:
    health = {"items": RoleHealth(LEAST_JUDGED, {})}
    _print_report(Report(Standing(plan, "it broke"), PROGRESS, health), as_json=False)
    first, second, failed, items, users, _ = capsys.readouterr().out.splitlines()
    assert f"readers read space {readers} in items-{readers[0]}, users-{readers[0]}" in first
    assert f"space {beside} in items-{beside[0]}" in second
    assert failed == "FAILED: it broke"
    assert items == "items: 1 of 4 partitions complete, 40 left, 2 without a vector in the next space"
    assert users == "users: 0 of 4 partitions complete"


def test_before_the_first_and_after_the_last_there_is_little_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    _print_report(Report(Standing(), {}), as_json=False)
    _print_report(Report(Standing(START), {}), as_json=False)
    assert capsys.readouterr().out.splitlines() == [
        "no rollout so far",
        "stable: readers read space aaaaaaaaaaaaaaaa in items-a, users-a",
    ]


def test_as_json_it_is_the_record_with_the_progress(capsys: pytest.CaptureFixture[str]) -> None:
    _print_report(Report(Standing(MOVING), PROGRESS), as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["plan"]["readers"]["item_vectors"] == "items-a"
    assert printed["progress"]["items"] == {
        "num_partitions": 4,
        "num_complete": 1,
        "num_left": 40,
        "num_missing": 2,
        "is_complete": False,
    }


def test_what_keeps_the_cutover_shut_is_named_with_the_option_that_leaves_it_aside(
    capsys: pytest.CaptureFixture[str],
) -> None:
    health = {"items": RoleHealth(1_002, {"collapse": "they are nearly the same"}), "users": RoleHealth(400, {})}
    _print_report(Report(Standing(MOVING), PROGRESS, health), as_json=False)
    *_, items, users, shut = capsys.readouterr().out.splitlines()
    assert items == "items: the last 1,002 vectors of the next space that were judged are ill by collapse"
    assert users == "users: the last 400 vectors of the next space that were judged are well"
    assert shut.startswith("the cutover stays shut: items: vectors of the next space do not pass collapse")
    assert "--accept-health" in shut
    _print_report(Report(Standing(SWITCHED), PROGRESS, health), as_json=False)
    assert "shut" not in capsys.readouterr().out, "it has been made"
