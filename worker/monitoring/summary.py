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


class Track:
    """Points of a line that is drawn over the last `seconds`, one every `step_s`."""

    def __init__(self, seconds: float, step_s: float) -> None:
        self._step_s = step_s
        self._points: deque[tuple[int, float, int | None]] = deque(maxlen=round(seconds / step_s))
        self._last: tuple[float, float] | None = None

    def add(self, now: float, at_ms: int, total: float, level: int | None) -> None:
        """`total` only grows, and its growth per second is kept; `level` is kept as it is. The first call begins the
        time and is no point."""
        if self._last is None:
            self._last = now, total
        elif (elapsed := now - self._last[0]) >= self._step_s:
            self._points.append((at_ms, round((total - self._last[1]) / elapsed, 1), level))
            self._last = now, total

    def points(self) -> tuple[list[int], list[float], list[int | None]]:
        """Their times, the growth per second since the point before, and the levels."""
        points = list(self._points)
        return [at_ms for at_ms, _, _ in points], [rate for _, rate, _ in points], [level for _, _, level in points]


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
