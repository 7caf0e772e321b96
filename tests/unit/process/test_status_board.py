"""What the board keeps between two looks: recent input, and what it has said of concerns."""

from __future__ import annotations

import logging

import pytest

from worker.monitoring.status import Concern, Tone
from worker.process.status_board import ConcernLog, RecentInput


def growth(recent: RecentInput, now: float, published: int, refused: int) -> tuple[int, int]:
    grown = recent.growth(now, {"published": {"": published}, "refused": {"wrong_shape": refused}})
    return grown["published"][""], grown["refused"]["wrong_shape"]


def test_recent_input_is_that_of_the_last_minutes() -> None:
    recent = RecentInput(300)
    for now in range(0, 3_000, 10):
        seen = growth(recent, now, published=now, refused=0)
    assert 300 <= seen[0] <= 310


def test_what_came_last_stays_recent_while_nothing_comes() -> None:
    """1,700 refused in a burst, and then silence: that is no reason to turn green."""
    recent = RecentInput(300)
    growth(recent, 0, 5_000, 0)
    for now in (1_000, 1_001, 1_002):
        growth(recent, now, 5_000, 850 * (now - 1_000))
    assert growth(recent, 90_000, 5_000, 1_700)[1] == 1_700
    assert growth(recent, 90_001, 5_010, 1_700) == (10, 0), "and what comes then replaces it"


def test_counts_from_before_the_first_look_are_recent() -> None:
    assert growth(RecentInput(300), 5, 3, 4) == (3, 4)


def test_a_concern_is_logged_when_it_begins_when_it_lasts_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    log, concern = ConcernLog("items"), Concern(kind="refused", tone=Tone.WARN, title="all refused", detail="D")
    with caplog.at_level(logging.INFO):
        for now in range(1_300):
            log.tell([concern.model_copy(update={"detail": f"{now}"})], float(now))
        log.tell([], 1_300.0)
        log.tell([], 1_301.0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "items: all refused. 0"),
        ("WARNING", "items: all refused. 600"),
        ("WARNING", "items: all refused. 1200"),
        ("INFO", "items: it is over: refused"),
    ]
