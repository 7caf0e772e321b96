"""Signals, and how the process ends."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType

from worker.errors import RefusedError, TopicError, WorkerError
from worker.monitoring.accounting import Totals
from worker.monitoring.refusals import MAX_SHARE, check_refused
from worker.process.service import Service
from worker.settings import Settings
from worker.topics import RoleName

log = logging.getLogger(__name__)

NOT_DONE = 128 + signal.SIGTERM
"""What a worker that was to catch up ends with if it is stopped before: 0 would tell a scheduler that it is done."""


class StopSignals:
    """SIGTERM or SIGINT asks for a drain; a second one ends the process at once, with the signal's usual code."""

    def __init__(self, running: threading.Event, early_code: int = 0) -> None:
        """`early_code`: what the process ends with when there is nothing to drain yet."""
        self.stop = threading.Event()
        self._running = running
        self._early_code = early_code

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.stop.is_set():
            os._exit(128 + number)
        self.stop.set()
        if not self._running.is_set():
            threading.Thread(target=_leave_early, args=[self._early_code], name="stop").start()


def _leave_early(code: int) -> None:
    """End the process before there is anything to drain.

    On a thread, because a handler interrupts anything: an exception out of the middle of the client's loop is caught
    there, and the log may be locked by what was interrupted.
    """
    log.info("stopped before start-up was complete", extra={"action": "stopped"})
    _exit(code)


def serve(settings: Settings, *, until_caught_up: bool = False, max_refused: float = MAX_SHARE) -> int:
    """Run a worker until a signal, or until it has caught up; returns the exit code.

    An error is logged on one line, and once more on standard error for whoever reads no logs.
    """
    service = Service(settings, until_caught_up=until_caught_up)
    signals = StopSignals(service.running, NOT_DONE if until_caught_up else 0)
    signals.install()
    try:
        service.run(signals.stop)
    except WorkerError as error:
        log.critical("%s", error.one_line(), extra={"action": "failed", "exit_code": error.exit_code})
        print(f"align-worker: {error.one_line()}", file=sys.stderr)
        _exit(error.exit_code)
    if until_caught_up and not service.is_caught_up:
        log.warning("stopped before everything was done", extra={"action": "not_done"})
        return NOT_DONE
    if until_caught_up:
        totals = {role: metrics.accounting.totals for role, metrics in service.metrics.items()}
        try:
            judge(totals, max_refused)
        except RefusedError as error:
            log.critical("%s", error.one_line(), extra={"action": "failed", "exit_code": error.exit_code})
            print(f"align-worker: {error.one_line()}", file=sys.stderr)
            return error.exit_code
    if until_caught_up and service.num_expired:
        log.error(
            "caught up, but without %d records that had expired unseen: what is built is not whole",
            service.num_expired,
            extra={"action": "caught_up_with_losses"},
        )  # fmt: skip
        return TopicError.exit_code
    return 0


def judge(totals: Mapping[RoleName, Totals], max_refused: float) -> None:
    """Say what has become of the records of each role, and raise `RefusedError` where too many were refused."""
    for role, counts in totals.items():
        published, superseded, refused = (
            sum(each.values()) for each in (counts.published, counts.superseded, counts.dead_lettered)
        )
        if not published + superseded + refused:
            log.warning(
                "%s: there was nothing to do: the topic is empty, or its group has done all of it before", role,
                extra={"action": "nothing_done"},
            )  # fmt: skip
            continue
        level = logging.INFO if published else logging.WARNING
        log.log(
            level, "%s: %d records published, %d superseded, %d refused", role, published, superseded, refused,
            extra={"action": "done", "superseded": dict(counts.superseded), "refused": dict(counts.dead_lettered)},
        )  # fmt: skip
    for role, counts in totals.items():
        num_finished = sum(sum(each.values()) for each in (counts.published, counts.superseded, counts.dead_lettered))
        check_refused(
            f"records of {role}", counts.dead_lettered, num_finished, max_refused,
            "they are in the dead letters: align-worker dlq list",
        )  # fmt: skip


def _exit(code: int) -> None:
    """Leave without waiting for threads: after an error one of them may be stuck in the client or in the driver."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
