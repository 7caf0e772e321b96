"""How many requests may be under way: as many as the server answers no slower for. Pure; time is an argument.

More are let in one by one while answers come about as fast as they have come at best. Answers that take several times
as long mean that requests only wait for one another; a server that says it is busy halves their number.
"""

from __future__ import annotations

START = 4.0
SLOW = 3.0
"""An answer that takes so many times the best one has waited for others."""
VERY_SLOW = 6.0
REMEASURE_S = 60.0
"""After which the best time is measured anew, with few requests under way: among many there is no telling a server that
has become slower from requests that wait for one another."""
SMOOTH = 0.1
DECREASE = 0.5
SMALL_DECREASE = 0.9


class ConcurrencyLimit:
    """One thread at a time."""

    def __init__(self, most: int) -> None:
        self._most = float(max(1, most))
        self._value = min(START, self._most)
        self._best_s: dict[int, float] = {}
        """By the magnitude of the request: a long one is not slow because it takes longer than a short one."""
        self._usual_s = 0.0
        self._ratio = 1.0
        """Ratio of the time of an answer to the best one, lately: a single answer may be late for reasons of its
        own."""
        self._measured_at: float | None = None
        self._cut_at = float("-inf")
        self.hold_until = float("-inf")
        """Time before which nothing is to be sent."""

    @property
    def value(self) -> int:
        return max(1, int(self._value))

    def answered(self, now: float, seconds: float, size: int, in_flight: int) -> None:
        """A request of this size, sent at `now - seconds`, has been answered; `in_flight` were under way with it."""
        if self._measured_at is None or now - self._measured_at > REMEASURE_S:
            self._measured_at, self._value = now, min(self._value, START)
            self._best_s.clear()
            self._ratio = 1.0
        magnitude = size.bit_length()
        best_s = min(seconds, self._best_s.get(magnitude, seconds))
        self._best_s[magnitude] = best_s
        self._usual_s = seconds
        self._ratio += SMOOTH * (seconds / best_s - self._ratio)
        if self._ratio > VERY_SLOW:
            self._cut(now, seconds, SMALL_DECREASE)
        elif self._ratio < SLOW and in_flight >= self.value:
            self._value = min(self._most, self._value + 1.0)

    def busy(self, now: float, retry_after_s: float | None) -> None:
        """The server has said that it has too much to do."""
        self._cut(now, self._usual_s, DECREASE)
        if retry_after_s is not None:
            self.hold_until = max(self.hold_until, now + retry_after_s)

    def announce(self, most: int) -> None:
        """The server says how many it takes."""
        self._most = max(1.0, min(self._most, float(most)))
        self._value = min(self._value, self._most)

    def _cut(self, now: float, seconds: float, factor: float) -> None:
        """Once for all requests that were under way together."""
        if now - self._cut_at >= seconds:
            self._value = max(1.0, self._value * factor)
            self._cut_at = now
