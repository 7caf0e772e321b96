"""What is still to be published in the next space: nothing is left out, and nothing taken twice."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from worker.partitions.backfill import Backfill, NextNote, place_of
from worker.partitions.batch_slice import NOWHERE


@pytest.fixture
def backfill() -> Backfill:
    space: Any = SimpleNamespace(space_id="next", output_written=lambda: None)
    return Backfill(space, NextNote("next"), is_doubted=True)


def settle(backfill: Backfill, keys: Iterable[str], *, is_in_next: bool) -> None:
    written = SimpleNamespace(rejections=(), is_in_next=is_in_next, missing_in_next={})
    done: Any = SimpleNamespace(
        backfill=backfill if is_in_next else None,
        written=written,
        rejections=(),
        newest={key: SimpleNamespace(is_overtaken=False) for key in keys},
        backfilled_to=NOWHERE,
    )
    backfill.settled(done)


def taken(backfill: Backfill, *, unsettled: Iterable[str] = ()) -> list[str]:
    return [due.key for due in backfill.take(100, lambda key: key not in unsettled)]


def plan(backfill: Backfill, keys: Iterable[str], gone: Iterable[str] = ()) -> None:
    backfill.plan(sorted((place_of(key), key) for key in keys), {}, gone)


def test_a_key_that_is_owed_and_stands_in_the_order_is_taken_once(backfill: Backfill) -> None:
    settle(backfill, ["a"], is_in_next=False)
    plan(backfill, ["a", "b"])
    assert sorted(taken(backfill)) == ["a", "b"]


def test_what_a_later_input_has_brought_into_both_spaces_is_owed_no_more(backfill: Backfill) -> None:
    settle(backfill, ["a", "b"], is_in_next=False)
    settle(backfill, ["a"], is_in_next=True)
    plan(backfill, ["a", "b"])
    assert taken(backfill) == ["b"]


def test_one_whose_items_have_come_meanwhile_is_computed_anew_all_the_same(backfill: Backfill) -> None:
    """The input may have been computed before they came."""
    settle(backfill, ["a"], is_in_next=False)
    backfill.again(["a"])
    settle(backfill, ["a"], is_in_next=True)
    assert taken(backfill) == ["a"]


def test_one_that_was_gone_and_has_come_again_is_left_alone(backfill: Backfill) -> None:
    plan(backfill, [], gone=["a", "b"])
    settle(backfill, ["a"], is_in_next=True)
    assert taken(backfill) == ["b"]


def test_what_is_under_way_in_an_input_is_not_taken(backfill: Backfill) -> None:
    settle(backfill, ["a"], is_in_next=False)
    plan(backfill, ["a", "b"])
    assert taken(backfill, unsettled=["a"]) == ["b"]
    assert taken(backfill) == ["a"], "it is still owed"
