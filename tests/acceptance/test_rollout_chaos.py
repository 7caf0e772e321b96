"""The campaign of a rollout in its short form. The long form: `python -m tests.acceptance.rollout_chaos --help`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.rollout_chaos import Plan, run

SHORT = Plan(items=300, users=40, kills=1, broker_restarts=0, rate=20, backfill_rate=40, phase_s=3.0)


@pytest.mark.campaign
@pytest.mark.acceptance
@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_both_spaces_hold_what_the_logs_lead_to_while_workers_die(own_kafka_allowed: None, tmp_path: Path) -> None:
    report = run(SHORT, tmp_path, print)
    print(report.text())
    assert (report.lost, report.wrong, report.mixed) == (0, 0, 0), report.text()
    assert report.num_inputs > SHORT.items
    assert report.rollback_s < 5
    assert not report.exits
