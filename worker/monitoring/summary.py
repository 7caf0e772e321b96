"""Rates and quantiles over the last moments, from counters that only grow. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class Window:
    """Snapshots of growing numbers, and how much they have grown over the last `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._snapshots: deque[tuple[float, tuple[float, ...]]] = deque()

    def add(self, now: float, values: Sequence[float]) -> None:
        self._snapshots.append((now, tuple(values)))
        while len(self._snapshots) > 2 and self._snapshots[1][0] <= now - self._seconds:
            self._snapshots.popleft()

    def growth(self) -> list[float]:
        if not self._snapshots:
            return []
        return [last - first for first, last in zip(self._snapshots[0][1], self._snapshots[-1][1], strict=True)]

    def rates(self) -> list[float]:
        """Growth per second; zeros until there are two snapshots."""
        if not self._snapshots:
            return []
        elapsed = self._snapshots[-1][0] - self._snapshots[0][0]
        return [grown / elapsed if elapsed > 0 else 0.0 for grown in self.growth()]


def quantile(q: float, bounds: Sequence[float], counts: Sequence[float]) -> float | None:
    """The `q` quantile of a histogram, interpolated inside its bucket as Prometheus does; None without observations.

    `counts` has one entry more than `bounds`, for what lies beyond; that is reported as the last bound.
    """
    total = sum(counts)
    if total <= 0:
        return None
    rank, below = q * total, 0.0
    for index, count in enumerate(counts[:-1]):
        if count and below + count >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (rank - below) / count
        below += count
    return bounds[-1]
