"""How long this member may write for its partitions without fresh proof that they are still its own.

A process that was frozen (SIGSTOP, a suspended node, a long pause of the hypervisor) does not know that its session
has ended and that another member works on its partitions; what it then publishes could overwrite newer vectors. A
broker that accepts an offset commit extends the member's session from that moment, so an accepted commit proves that
the partitions are ours until one session time-out after it was *sent*. The lease is that time less the time a record
may still be under way. `CLOCK_BOOTTIME` goes on while the machine is suspended.
"""

from __future__ import annotations

import threading
import time

from worker.settings import KafkaSettings

_MARGIN = 0.1  # of the session time-out, for clocks that run at different speeds


def lease_seconds(settings: KafkaSettings) -> float:
    """Session time-out less a tenth and less the delivery time-out, in seconds."""
    return (settings.session_timeout_ms * (1 - _MARGIN) - settings.delivery_timeout_ms) / 1000


def boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class MembershipLease:
    """Renewed by the poll thread, asked by the publisher and, before every request, by the producer's thread."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._expires_at = float("-inf")
        self._renewed = threading.Condition()

    def renew(self, proven_at: float) -> None:
        """Membership was proven by a request sent at `proven_at` (`boottime`)."""
        with self._renewed:
            self._expires_at = max(self._expires_at, proven_at + self._duration_s)
            self._renewed.notify_all()

    def end(self) -> None:
        """The partitions are gone: nothing may be written until the next proof."""
        with self._renewed:
            self._expires_at = float("-inf")

    def remaining_s(self, now: float) -> float:
        return self._expires_at - now

    def is_due(self, now: float) -> bool:
        """Whether a third of the lease has gone, so that it is time for a new proof."""
        return self.remaining_s(now) < self._duration_s * 2 / 3

    def is_valid(self) -> bool:
        return boottime() < self._expires_at

    def wait_valid(self, timeout_s: float) -> bool:
        with self._renewed:
            return self._renewed.wait_for(self.is_valid, timeout_s)
