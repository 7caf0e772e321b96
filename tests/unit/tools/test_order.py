"""The order in which several processes run the tests."""

from __future__ import annotations

import pytest

from tests.order import in_blocks

CHAOS, PROCESS, STREAM = (
    "tests/acceptance/test_chaos.py",
    "tests/acceptance/test_process.py",
    "tests/integration/test_a.py",
)
QUICK = "tests/unit/test_it.py"
PATHS = [CHAOS] * 3 + ["tests/contract/test_x.py"] * 4 + [PROCESS] * 2 + [STREAM] * 2 + [QUICK] * 9


def blocks(paths: list[str], num_processes: int) -> list[list[str]]:
    """As pytest-xdist divides what it is given."""
    order, made = in_blocks(paths, num_processes), list[list[str]]()
    while order:
        size = len(order) // (num_processes - len(made))
        made.append([paths[position] for position in order[:size]])
        del order[:size]
    return made


@pytest.mark.parametrize("num_processes", [1, 2, 3, 7, 50])
def test_each_test_is_run_once(num_processes: int) -> None:
    assert sorted(in_blocks(PATHS, num_processes)) == list(range(len(PATHS)))
    assert sorted(in_blocks(PATHS[:3], num_processes)) == [0, 1, 2]
    assert in_blocks([], num_processes) == []


def test_every_process_begins_with_slow_tests_and_ends_with_quick_ones() -> None:
    first, second, third = blocks(PATHS, 3)
    assert first[:3] == [CHAOS] * 3
    assert second[:2] == [PROCESS] * 2
    assert third[:2] == [STREAM] * 2
    for block in (first, second, third):
        assert len(set(block) & {CHAOS, PROCESS, STREAM}) == 1
        assert block[-1] == "tests/contract/test_x.py" or block[-1] == QUICK


def test_one_process_runs_them_as_they_come() -> None:
    assert in_blocks(PATHS, 1) == list(range(len(PATHS)))
