from typing import Any

import pytest

from worker.partitions import lease
from worker.partitions.lease import MembershipLease, lease_seconds
from worker.settings import KafkaSettings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    now = [1_000.0]
    monkeypatch.setattr(lease, "boottime", lambda: now[0])
    return now


def test_a_lease_ends_early_enough_for_the_slowest_delivery() -> None:
    settings = KafkaSettings(session_timeout_ms=45_000, delivery_timeout_ms=15_000)
    duration = lease_seconds(settings)
    assert duration + settings.delivery_timeout_ms / 1000 < settings.session_timeout_ms / 1000
    assert duration == 25.5


def test_there_is_no_lease_without_proof(clock: Any) -> None:
    assert not MembershipLease(10).is_valid()


def test_a_lease_counts_from_when_the_proof_was_sent(clock: Any) -> None:
    held = MembershipLease(10)
    held.renew(proven_at=995)
    assert held.is_valid()
    clock[0] = 1_005.0
    assert not held.is_valid()


def test_an_older_proof_does_not_shorten_a_lease(clock: Any) -> None:
    held = MembershipLease(10)
    held.renew(1_000)
    held.renew(990)
    assert held.remaining_s(clock[0]) == 10


def test_a_third_is_gone_when_it_is_time_to_renew(clock: Any) -> None:
    held = MembershipLease(9)
    held.renew(1_000)
    assert not held.is_due(1_003.0)
    assert held.is_due(1_003.1)


def test_lost_partitions_end_the_lease_at_once(clock: Any) -> None:
    held = MembershipLease(10)
    held.renew(1_000)
    held.end()
    assert not held.is_valid()
    assert not held.wait_valid(0)
