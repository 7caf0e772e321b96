"""Signals: the first asks for a drain, a second ends the process.

Loaded before all that takes seconds to load, so that a signal is heard from the beginning.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from types import FrameType

log = logging.getLogger(__name__)

NOT_DONE = 128 + signal.SIGTERM
"""Exit code of a worker that was to catch up and is stopped before: 0 would tell a scheduler that it is done."""
ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class StopSignals:
    """SIGTERM, SIGINT or SIGHUP (of a terminal that closes) asks for a drain. A second SIGTERM or SIGINT ends the
    process at once, with the signal's usual code; a SIGHUP does not, which some supervisors send right after the first.

    Before there is something to drain the process ends with `early_code`.
    """

    def __init__(self, early_code: int = 0) -> None:
        self.stop = threading.Event()
        self._early_code = early_code
        self._running: threading.Event | None = None

    def install(self) -> None:
        for number in ASKING:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` leaves it
                signal.signal(number, self._handle)

    def drain_once(self, running: threading.Event) -> None:
        """From when `running` is set, there is something to drain."""
        self._running = running

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stop.is_set():
            if number != signal.SIGHUP:
                os._exit(128 + number)
            return
        self.stop.set()
        if self._running is None or not self._running.is_set():
            threading.Thread(target=_leave_early, args=[self._early_code], name="stop").start()


def _leave_early(code: int) -> None:
    """End the process before there is anything to drain.

    On a thread, because a handler interrupts anything: an exception out of the middle of an import or of the client's
    loop is anybody's guess, and the log may be locked by what was interrupted.
    """
    log.info("stopped before start-up was complete", extra={"action": "stopped"})
    leave(code)


def leave(code: int) -> None:
    """Leave without waiting for threads: after an error one of them may be stuck in the client or in the driver."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):  # a terminal that has gone
            continue
    os._exit(code)
