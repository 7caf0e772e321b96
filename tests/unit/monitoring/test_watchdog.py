from typing import Any

import pytest

from worker.monitoring.health import Health
from worker.monitoring.watchdog import Diagnosis, Vitals, Watchdog
from worker.settings import WatchdogSettings

SETTINGS = WatchdogSettings(group_unstable_s=30, stalled_s=60)


def vitals(moved_at: float = 0.0, *, stable: bool = True, reachable: bool = True) -> Vitals:
    return Vitals({"poll": moved_at, "compute": moved_at}, stable, lambda: reachable)


def look(diagnosis: Diagnosis, seconds: range, **kwargs: Any) -> list[tuple[int, str]]:
    found = [(now, diagnosis.stalled(vitals(now, **kwargs), now)) for now in seconds]
    return [(now, reason) for now, reason in found if reason]


def test_all_is_well() -> None:
    assert look(Diagnosis(SETTINGS, 0), range(1, 500)) == []


def test_a_thread_that_does_not_move_is_named() -> None:
    diagnosis = Diagnosis(SETTINGS, 0)
    reasons = [diagnosis.stalled(Vitals({"poll": now, "compute": 5}, True, bool), now) for now in range(1, 70)]
    first = next(index for index, reason in enumerate(reasons) if reason)
    assert reasons[first] == "the compute thread has not moved for 61 s (watchdog.stalled_s)"


def test_a_group_that_stays_unstable_with_a_reachable_broker_ends_the_process() -> None:
    (now, reason), *_ = look(Diagnosis(SETTINGS, 0), range(1, 60), stable=False)
    assert now == 32
    assert "group has not been stable for 31 s" in reason


def test_an_outage_is_waited_out_and_the_group_gets_its_time_after_it() -> None:
    diagnosis = Diagnosis(SETTINGS, 0)
    assert look(diagnosis, range(1, 300), stable=False, reachable=False) == []
    (now, _), *_ = look(diagnosis, range(300, 400), stable=False)
    assert now > 300


def test_a_short_rebalance_is_forgotten() -> None:
    diagnosis = Diagnosis(SETTINGS, 0)
    assert look(diagnosis, range(1, 20), stable=False) == []
    assert look(diagnosis, range(20, 21)) == []
    assert look(diagnosis, range(21, 50), stable=False) == []


def test_a_process_that_was_frozen_as_a_whole_is_not_blamed() -> None:
    diagnosis = Diagnosis(SETTINGS, 0)
    assert diagnosis.stalled(vitals(0), 0.5) is None
    assert diagnosis.stalled(vitals(0.5), 1_000) is None
    assert diagnosis.stalled(vitals(1_000.1), 1_000.5) is None


def test_how_near_the_end_is_can_be_seen_before_it_comes() -> None:
    diagnosis = Diagnosis(SETTINGS, 0)
    look(diagnosis, range(1, 2))
    assert diagnosis.nearness(vitals(1), 1) == 0
    assert diagnosis.nearness(vitals(1), 31) == pytest.approx(30 / SETTINGS.stalled_s)
    look(diagnosis, range(40, 56), stable=False)  # the first look after a pause blames nobody
    assert diagnosis.nearness(vitals(55, stable=False), 55) == pytest.approx(14 / SETTINGS.group_unstable_s)
    assert diagnosis.nearness(vitals(55, stable=False), 1_000) == 1


@pytest.mark.timeout(20)
def test_livez_is_red_before_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.monitoring.watchdog.CHECK_INTERVAL_S", 0.001)
    monkeypatch.setattr("worker.monitoring.watchdog.RED_BEFORE_EXIT_S", 0.0)
    health, codes = Health(), []
    watchdog = Watchdog(
        SETTINGS,
        health,
        lambda: Vitals({"poll": -1_000.0}, True, bool),
        lambda code: codes.append((code, health.livez())),
    )
    watchdog.start()
    watchdog._thread.join()
    ((code, livez),) = codes
    assert code == 8
    assert not livez.ok
    assert "poll thread" in livez.detail


@pytest.mark.timeout(20)
def test_a_process_that_is_ended_leaves_its_group_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.monitoring.watchdog.CHECK_INTERVAL_S", 0.001)
    monkeypatch.setattr("worker.monitoring.watchdog.RED_BEFORE_EXIT_S", 0.0)
    done: list[object] = []
    stuck = Vitals({"poll": -1_000.0}, True, bool)
    watchdog = Watchdog(SETTINGS, Health(), lambda: stuck, done.append, leave=done.append)
    watchdog.start()
    watchdog._thread.join()
    assert done == [2.0, 8]
