"""A client of the library that has lost its way to the brokers for good.

librdkafka 2.16 can end so when all connections of a consumer break while it commits: the request that it sends again
keeps it from making the connection that would tell it where to. It says nothing, and its group waits for it.
"""

from __future__ import annotations

from collections.abc import Callable

SILENT_S = 10.0
"""For how long no broker answers before others are asked whether there is one."""
PROBE_EVERY_S = 5.0


class LostContact:
    """Tells a client that is lost from brokers that are away. For one thread; times are monotonic."""

    def __init__(self, is_answered: Callable[[], bool]) -> None:
        """`is_answered`: whether a broker answers a new client. May take some seconds."""
        self._is_answered = is_answered
        self._heard_at = float("-inf")
        self._answered_at: float | None = None
        """When a new client was answered first since the old one has not been."""
        self._next_at = float("-inf")

    def is_lost(self, heard_at: float, now: float) -> bool:
        """Whether a new client has been answered twice, some seconds apart, while the old one, which was answered last
        at `heard_at`, was not. A client that merely waits to connect again has done so by then."""
        if heard_at > self._heard_at:
            self._heard_at, self._answered_at = heard_at, None
        if now - heard_at < SILENT_S or now < self._next_at:
            return False
        self._next_at = now + PROBE_EVERY_S
        if not self._is_answered():
            self._answered_at = None
            return False
        if self._answered_at is None:
            self._answered_at = now
            return False
        self._answered_at = None
        return True
