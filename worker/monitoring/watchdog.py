"""Ends a process that a restart would cure.

The client can hang in ways that no exception reports (a join that is never driven on, a call that never returns), and
a stage can die in a driver. Each of these would look alive for ever. The watchdog sees it from outside, turns
`/livez` red, says why on one line and exits.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from worker.errors import StalledError
from worker.monitoring.health import Health
from worker.settings import WatchdogSettings

log = logging.getLogger(__name__)

CHECK_INTERVAL_S = 0.5
RED_BEFORE_EXIT_S = 1.0  # long enough for a probe or a scrape to see the reason
LEAVE_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Vitals:
    """Signs of life that the watchdog looks at. Times are monotonic seconds."""

    moved_at: Mapping[str, float]
    """When each thread last moved, by name."""
    group_stable: bool
    reachable: Callable[[], bool]
    """Whether a broker accepts connections; asked only when the group has been unstable for long."""


class Diagnosis:
    """Decides, from one look after another, whether the process is stuck. Pure: time is an argument."""

    def __init__(self, settings: WatchdogSettings, now: float) -> None:
        self._settings = settings
        self._unstable_since: float | None = None
        self._now = now

    def stalled(self, vitals: Vitals, now: float) -> str | None:
        """Why the process must end, or None."""
        frozen_s = now - self._now - 10 * CHECK_INTERVAL_S
        self._now = now
        if frozen_s > 0:  # the whole process stood still: nobody had a chance to move
            self._unstable_since = None
            return None
        for name, moved_at in vitals.moved_at.items():
            if now - moved_at > self._settings.stalled_s:
                return f"the {name} thread has not moved for {now - moved_at:.0f} s (watchdog.stalled_s)"
        return self._unstable(vitals, now)

    def nearness(self, vitals: Vitals, now: float) -> float:
        """How much of the time has passed, from 0 to 1, after which the process would be ended, as of the last look."""
        idle_s = max((now - moved_at for moved_at in vitals.moved_at.values()), default=0.0)
        unstable_s = 0.0 if self._unstable_since is None else now - self._unstable_since
        nearness = max(idle_s / self._settings.stalled_s, unstable_s / self._settings.group_unstable_s)
        return min(1.0, max(0.0, nearness))

    def _unstable(self, vitals: Vitals, now: float) -> str | None:
        if vitals.group_stable:
            self._unstable_since = None
            return None
        if self._unstable_since is None:
            self._unstable_since = now
        unstable_s = now - self._unstable_since
        if unstable_s <= self._settings.group_unstable_s:
            return None
        if not vitals.reachable():  # an outage is waited out; a restart would not help
            self._unstable_since = now
            return None
        return f"the consumer group has not been stable for {unstable_s:.0f} s (watchdog.group_unstable_s)"


class Watchdog:
    """The thread that looks, and the exit."""

    def __init__(
        self,
        settings: WatchdogSettings,
        health: Health,
        vitals: Callable[[], Vitals],
        exit_process: Callable[[int], None] = os._exit,
        on_look: Callable[[float], None] = lambda nearness: None,
        leave: Callable[[float], None] = lambda timeout_s: None,
    ) -> None:
        """`on_look` is told after each look how near the end is, from 0 to 1. `leave` takes the process out of its
        groups within so many seconds, so that nobody waits for it."""
        self._on_look = on_look
        self._diagnosis = Diagnosis(settings, time.monotonic())
        self._health = health
        self._vitals = vitals
        self._exit_process = exit_process
        self._leave = leave
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=CHECK_INTERVAL_S * 4)

    def _run(self) -> None:
        while not self._stop.wait(CHECK_INTERVAL_S):
            vitals, now = self._vitals(), time.monotonic()
            reason = self._diagnosis.stalled(vitals, now)
            self._on_look(self._diagnosis.nearness(vitals, now))
            if reason is not None:
                self._health.dead(reason)
                log.critical("%s", reason, extra={"action": "stalled"})
                red_until = time.monotonic() + RED_BEFORE_EXIT_S
                self._leave(LEAVE_TIMEOUT_S)
                time.sleep(max(0.0, red_until - time.monotonic()))
                self._exit_process(StalledError.exit_code)
                return
