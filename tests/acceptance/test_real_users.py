"""The documented run over real users, of the oldest ratings and a space that is hardly trained, where there are any."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.acceptance.prequential import K
from tests.acceptance.real_catalogue import DATA
from tests.acceptance.real_users import FILES, Plan, run_users

NUM_EVENTS = 3_000


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_users_end_and_go_where_the_evaluator_says(tmp_path: Path, own_kafka_allowed: None) -> None:
    """Every vector on the way, too: each event's is that of its history."""
    if missing := [name for name in FILES if not (DATA / name).is_file()]:
        pytest.skip(f"needs a real catalogue: no {missing[0]} in {DATA}")
    report = run_users(
        Plan(DATA, tmp_path, delivery="exactly_once", epochs=1, num_events=NUM_EVENTS, trained_share=0.8)
    )
    print(report)
    assert not report.breaches
    assert (report.num_events, report.num_behind) == (NUM_EVENTS, 0)
    answers = report.prequential
    everything = np.arange(len(answers.questions["fresh"]))
    for way in ("fresh", "daily"):
        found, expected = (answers.figure(way, everything, evaluated=evaluated).recall for evaluated in (False, True))
        assert found.count == report.num_asked > NUM_EVENTS / 4
        assert found.mean == pytest.approx(expected.mean, abs=2 / K / 10), "rounding moves few over the edge of a list"
