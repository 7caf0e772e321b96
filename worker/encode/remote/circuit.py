"""Whether a server is worth asking. Pure; time is an argument.

After a number of failures with no success between them nothing is sent for a while, and then one request, which
decides. The while doubles as long as that fails.
"""

from __future__ import annotations

from typing import Literal

OPENS_AFTER = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 5.0

State = Literal["closed", "open"]


class Circuit:
    """Closed while all is well. One thread at a time."""

    def __init__(self, opens_after: int = OPENS_AFTER) -> None:
        self._opens_after = opens_after
        self._num_failures = 0
        self._pause_s = FIRST_PAUSE_S
        self.state: State = "closed"
        self.retry_at = float("-inf")
        """Time of the next try, if it is open."""
        self.detail = ""
        """Why it is open."""

    @property
    def is_open(self) -> bool:
        return self.state == "open"

    def succeeded(self) -> None:
        self._num_failures = 0

    def failed(self) -> bool:
        """A request has failed by the server's fault. Whether these are as many as it takes."""
        self._num_failures += 1
        return self._num_failures >= self._opens_after

    def open(self, now: float, detail: str, jitter: float) -> None:
        """Nothing is to be sent for a while; for twice as long, where that was the try that was to decide."""
        if self.is_open and now < self.retry_at:
            return  # requests that were under way with the one that has opened it
        self._pause_s = min(LONGEST_PAUSE_S, 2 * self._pause_s) if self.is_open else FIRST_PAUSE_S
        self.state, self.detail = "open", detail
        self.retry_at = now + self._pause_s * (0.5 + jitter)

    def close(self) -> None:
        self.state, self.detail, self._num_failures = "closed", "", 0
