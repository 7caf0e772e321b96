"""What is said of an order that nobody knows."""

from typing import Any

import numpy as np
import pytest

from tests.unit.data.builders import interactions
from worker.data import split_by_time
from worker.data.order import order_of
from worker.data.split import GivenPairs, split_as_given

NOTHING_I = np.zeros(8, bool)
A_DAY_MS = 1_700_000_000_000


def known(*times_ms: int) -> Any:
    """Of one user with an event at each time."""
    rows = [(0, item, time_ms, 1.0) for item, time_ms in enumerate(times_ms)]
    return order_of(split_by_time(interactions(rows), NOTHING_I, NOTHING_I))


def test_times_that_differ_say_what_came_last() -> None:
    assert list(known(*(A_DAY_MS + number for number in range(6))).told()) == []


def test_a_last_event_among_several_of_its_time_is_told() -> None:
    order = known(*([A_DAY_MS] * 3), A_DAY_MS + 1, A_DAY_MS + 2, A_DAY_MS + 2)
    assert (order.num_asked, order.num_tied) == (2, 2)
    assert "2 of 2 events asked about have the time of another event" in next(order.told())


def test_equal_times_of_others_or_long_ago_are_no_matter() -> None:
    rows = [(user, item, A_DAY_MS + max(item, 2), 1.0) for user in range(2) for item in range(6)]
    order = order_of(split_by_time(interactions(sorted(rows, key=lambda row: row[2])), NOTHING_I, NOTHING_I))
    assert (order.num_asked, order.num_tied) == (4, 0)


@pytest.mark.parametrize("times_ms", [range(6), [A_DAY_MS] * 6, [0] * 6, range(0, 60_000, 10_000)])
def test_times_that_nobody_measured_are_told(times_ms: Any) -> None:
    assert any("were made up" in line for line in known(*times_ms).told())


def test_a_split_that_was_given_needs_no_times() -> None:
    rows = [(0, item, 0, 1.0) for item in range(6)]
    given = GivenPairs(np.array([0]), np.array([1]))
    assert list(order_of(split_as_given(interactions(rows), NOTHING_I, NOTHING_I, given, given)).told()) == []
