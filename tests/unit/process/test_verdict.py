"""How a run until caught up is judged by what has become of its records."""

from __future__ import annotations

import logging

import pytest

from worker.errors import RefusedError
from worker.monitoring.accounting import Totals
from worker.process.lifecycle import judge


def totals(published: int = 0, superseded: int = 0, refused: int = 0) -> Totals:
    return Totals(
        published + superseded + refused,
        {"upsert": published},
        {"stale_revision": superseded},
        {"wrong_shape": refused},
        0,
        0,
    )


def test_a_role_of_which_all_was_refused_fails_the_run_whatever_the_other_did() -> None:
    with pytest.raises(RefusedError, match=r"1,700 of 1,700 records of users were refused .* align-worker dlq list"):
        judge({"items": totals(published=10_000), "users": totals(refused=1_700)}, 1.0)


def test_a_share_may_be_refused() -> None:
    judge({"items": totals(published=50, refused=50)}, 0.5)
    with pytest.raises(RefusedError, match="--max-refused is 50%"):
        judge({"items": totals(published=49, refused=51)}, 0.5)


def test_a_run_that_changed_nothing_says_so_and_does_not_fail(caplog: pytest.LogCaptureFixture) -> None:
    """The group may have done it all before."""
    with caplog.at_level(logging.INFO):
        judge({"items": totals(), "users": totals(superseded=9)}, 0.5)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "items: there was nothing to do: the topic is empty, or its group has done all of it before"),
        ("WARNING", "users: 0 records published, 9 superseded, 0 refused"),
    ]
