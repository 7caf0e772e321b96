"""Whether the brokers are heard of. Pure: time is an argument.

Polls of a client that is cut off return nothing and raise nothing, so that it looks like one that has nothing to do.
"""

from __future__ import annotations

from worker.monitoring.concerns import SILENT_S

REPEAT_S = 60.0


class SilenceWatch:
    """Turns the time since a broker last answered into log lines: on silence, each minute, and on recovery."""

    def __init__(self) -> None:
        self._said_at: float | None = None
        self._since = 0.0
        self.is_silent = False

    def look(self, now: float, heard_at: float) -> str | None:
        """A line for the log, if there is news. Both are monotonic seconds."""
        silent_s = now - heard_at
        self.is_silent = silent_s >= SILENT_S
        if self.is_silent:
            self._since = heard_at
            if self._said_at is not None and now - self._said_at < REPEAT_S:
                return None
            self._said_at = now
            return f"no broker has answered for {silent_s:.0f} s"
        if self._said_at is None:
            return None
        self._said_at = None
        return f"a broker answers again, after {heard_at - self._since:.0f} s"
