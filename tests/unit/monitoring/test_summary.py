from typing import Any

import pytest

from worker.monitoring.summary import Track, Window, quantile


def test_a_rate_covers_the_window_only() -> None:
    window = Window(10)
    for second in range(31):
        window.add(second, [min(second, 20) * 5])
    assert window.rates() == [0.0]
    window.add(31, [200])
    assert window.rates() == [10.0]


def test_a_track_keeps_a_point_a_step_for_as_long_as_it_is_drawn() -> None:
    track = Track(seconds=60, step_s=10)
    for now in range(200):
        track.add(float(now), 1_000 * now, total=5 * now, level=now if now > 50 else None)
    at_ms, rates, levels = track.points()
    assert at_ms == [140_000, 150_000, 160_000, 170_000, 180_000, 190_000]
    assert rates == [5.0] * 6
    assert levels == [140, 150, 160, 170, 180, 190]


def test_a_rate_needs_two_snapshots() -> None:
    window = Window(10)
    assert window.rates() == []
    window.add(0, [7])
    assert window.rates() == [0.0]


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([0, 0, 0], 0.5, None),
        ([10, 0, 0], 0.5, 0.5),
        ([0, 10, 0], 0.5, 2.0),
        ([5, 5, 0], 0.99, 2.96),
        ([0, 0, 3], 0.5, 3.0),
    ],
)
def test_quantiles_are_interpolated_inside_their_bucket(counts: list[Any], q: float, expected: float | None) -> None:
    assert quantile(q, [1.0, 3.0], counts) == (None if expected is None else pytest.approx(expected))
