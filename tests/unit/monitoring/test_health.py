"""The probes: what turns each one, and what must not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from worker.monitoring.health import Health


def make_health(*steps: Callable[[Health], None]) -> Health:
    health = Health()
    for step in steps:
        step(health)
    return health


@pytest.mark.parametrize(
    ("steps", "startup", "ready", "why"),
    [
        ((), False, False, "starting"),
        ((Health.joined,), False, False, "starting"),
        ((Health.started,), True, False, "joining the group"),
        ((Health.started, Health.joined), True, True, "ready"),
        ((Health.started, Health.joined, Health.draining), True, False, "draining"),
        ((Health.draining,), False, False, "draining"),
    ],
)
def test_readiness_follows_start_join_and_drain(
    steps: tuple[Callable[[Health], None], ...], startup: bool, ready: bool, why: str
) -> None:
    health = make_health(*steps)
    assert health.startupz().ok is startup
    assert health.readyz() == (ready, why)
    assert health.livez() == (True, "alive"), "starting, joining and draining are no reason for a restart"


def test_death_turns_liveness_and_readiness_and_keeps_its_first_reason() -> None:
    health = make_health(Health.started, Health.joined)
    health.dead("publish thread has not moved for 60 s")
    health.dead("compute thread died")
    assert health.livez() == health.readyz() == (False, "publish thread has not moved for 60 s")
    assert health.startupz().ok, "a started process stays started: liveness is what restarts it"


def test_death_outlasts_whatever_comes_later() -> None:
    health = make_health(Health.started)
    health.dead("broken")
    for step in (Health.joined, Health.draining, Health.started):
        step(health)
        assert health.livez() == health.readyz() == (False, "broken")
