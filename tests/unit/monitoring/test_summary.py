import pytest

from worker.monitoring.summary import Window, quantile


def test_a_rate_covers_the_window_only():
    window = Window(10)
    for second in range(31):
        window.add(second, [min(second, 20) * 5])
    assert window.rates() == [0.0]
    window.add(31, [200])
    assert window.rates() == [10.0]


def test_a_rate_needs_two_snapshots():
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
def test_quantiles_are_interpolated_inside_their_bucket(counts, q, expected):
    assert quantile(q, [1.0, 3.0], counts) == (None if expected is None else pytest.approx(expected))
