"""What the client of a server decides by: how many requests, whether to ask, and whose vectors they are."""

from __future__ import annotations

import numpy as np
import pytest

from worker.encode.remote.circuit import FIRST_PAUSE_S, LONGEST_PAUSE_S, OPENS_AFTER, Circuit
from worker.encode.remote.identity import fingerprint, same_encoder
from worker.encode.remote.limit import ConcurrencyLimit
from worker.encode.remote.transport import LONGEST_RETRY_AFTER_S, retry_after


def answered(limit: ConcurrencyLimit, now: float, seconds: float, num: int, size: int = 100) -> float:
    for _ in range(num):
        now += seconds / limit.value
        limit.answered(now, seconds, size, limit.value)
    return now


def test_more_requests_are_let_in_while_answers_are_quick_and_fewer_once_they_wait_for_one_another() -> None:
    limit = ConcurrencyLimit(64)
    now = answered(limit, 0.0, 0.1, 200)
    assert limit.value == 64
    now = answered(limit, now, 0.25, 100)
    assert limit.value == 64  # a little slower: no more, and no fewer
    answered(limit, now, 2.0, 500)
    assert limit.value < 32


def test_a_server_of_few_places_is_not_given_many_requests() -> None:
    """An answer takes as long as there are requests for each of four places."""
    limit, now = ConcurrencyLimit(256), 0.0
    for _ in range(2_000):
        now = answered(limit, now, 0.1 * max(1.0, limit.value / 4), 1)
    assert 4 <= limit.value <= 30


def test_a_long_request_is_not_slow_because_it_takes_longer_than_a_short_one() -> None:
    limit, now = ConcurrencyLimit(64), 0.0
    for _ in range(100):
        now = answered(limit, now, 0.01, 1, size=10)
        now = answered(limit, now, 1.0, 1, size=10_000)
    assert limit.value == 64


def test_a_busy_server_gets_half_and_nothing_before_it_says() -> None:
    limit = ConcurrencyLimit(64)
    now = answered(limit, 0.0, 0.1, 200)
    for _ in range(10):  # those that were under way together
        limit.busy(now, 2.0)
    assert limit.value == 32
    assert limit.hold_until == now + 2.0


def test_what_a_server_announces_is_a_bound() -> None:
    limit = ConcurrencyLimit(64)
    limit.announce(3)
    answered(limit, 0.0, 0.1, 50)
    assert limit.value == 3


def test_failures_in_a_row_open_the_circuit_and_a_success_between_them_does_not() -> None:
    circuit = Circuit()
    for _ in range(3):
        assert not any(circuit.failed() for _ in range(OPENS_AFTER - 1))
        circuit.succeeded()
    assert [circuit.failed() for _ in range(OPENS_AFTER)][-1]


def test_the_pause_doubles_with_each_try_that_fails_and_not_with_each_request_that_was_under_way() -> None:
    circuit, now, pauses = Circuit(), 0.0, []
    for _ in range(8):
        circuit.open(now, "down", 0.5)
        pauses.append(circuit.retry_at - now)
        circuit.open(now + 0.01, "down", 0.5)  # another request that was under way
        assert circuit.retry_at - now == pauses[-1]
        now = circuit.retry_at
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    circuit.close()
    circuit.open(now, "down", 0.5)
    assert circuit.retry_at - now == FIRST_PAUSE_S


@pytest.mark.parametrize("dim", [4, 32, 1_024])
def test_a_fingerprint_bears_rounding_and_tells_models_apart(dim: int) -> None:
    dice = np.random.default_rng(1)
    for _ in range(50):
        vector, other = (row / np.linalg.norm(row) for row in dice.standard_normal((2, dim)))
        noisy = vector + dice.standard_normal(dim) * 0.01 / np.sqrt(dim)
        rounded = vector.astype(np.float16).astype(np.float32)
        for near in (noisy / np.linalg.norm(noisy), rounded):
            assert same_encoder(f"m~{fingerprint(vector)}", f"m~{fingerprint(near)}")
        if abs(float(vector @ other)) < 0.5:
            assert not same_encoder(f"m~{fingerprint(vector)}", f"m~{fingerprint(other)}")
    assert not same_encoder(f"m~{fingerprint(vector)}", f"n~{fingerprint(vector)}")
    assert not same_encoder(f"m~{fingerprint(vector)}", "m@5f1c")
    assert not same_encoder(f"m~{fingerprint(vector)}", "m~no fingerprint")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("2", 2.0), ("0.5", 0.5), ("100000", LONGEST_RETRY_AFTER_S), (None, None), ("soon", None), ("-3", None),
     ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0)],
)  # fmt: skip
def test_both_forms_of_retry_after_are_read(value: str | None, seconds: float | None) -> None:
    assert retry_after(value) == seconds
