"""A worker from its start to its end, and the code that the process ends with."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping

from worker.errors import RefusedError, TopicError, WorkerError
from worker.monitoring.accounting import Totals
from worker.monitoring.refusals import MAX_SHARE, check_refused
from worker.process.service import Service
from worker.process.signals import NOT_DONE, StopSignals, leave
from worker.settings import Settings
from worker.topics import RoleName

log = logging.getLogger(__name__)


def serve(
    settings: Settings, signals: StopSignals, *, until_caught_up: bool = False, max_refused: float = MAX_SHARE
) -> int:
    """Run a worker until a signal, or until it has caught up; returns the exit code.

    An error is logged on one line, and once more on standard error for whoever reads no logs.
    """
    service = Service(settings, until_caught_up=until_caught_up)
    signals.drain_once(service.running)
    try:
        service.run(signals.stop)
    except WorkerError as error:
        log.critical("%s", error.one_line(), extra={"action": "failed", "exit_code": error.exit_code})
        print(f"align-worker: {error.one_line()}", file=sys.stderr)
        leave(error.exit_code)
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
