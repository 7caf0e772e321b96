"""`align-worker sink`: vectors into an index, until a signal or until it has caught up."""

from __future__ import annotations

import argparse
import logging
import sys
import threading
from typing import Any

from worker.commands.arguments import add_command, add_settings, settings_from
from worker.errors import ConfigError, TopicError, WorkerError

log = logging.getLogger(__name__)


def add_sink(commands: Any) -> None:
    """The command and its flags."""
    from worker.sink.kinds import KINDS

    sink = add_command(
        commands,
        "sink",
        _sink,
        "write vectors into an index, each only where it is newer, until SIGTERM",
        example="pgvector --kafka.bootstrap_servers localhost:9092 --sink.url postgresql://user@localhost/shop",
    )
    sink.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    sink.add_argument(
        "--until-caught-up",
        action="store_true",
        help="end with 0 once everything is written that was in the topics at the start",
    )
    add_settings(sink)


def _sink(arguments: argparse.Namespace) -> int:
    from worker.monitoring import logs
    from worker.process.member_name import with_member_name
    from worker.process.signals import NOT_DONE, StopSignals, leave
    from worker.sink.kinds import make_store

    signals = StopSignals(NOT_DONE if arguments.until_caught_up else 0)
    signals.install()
    settings = settings_from(arguments)
    logs.configure(settings.log.level, settings.log.format)
    group_id = settings.sink.group_id or f"{settings.kafka.group_id}-sink-{arguments.kind}"
    if settings.sink.timeout_s >= settings.watchdog.stalled_s:
        raise ConfigError("watchdog.stalled_s must exceed sink.timeout_s: a slow index would pass for a stalled sink")
    followed, kafka = settings, settings.kafka.model_copy(update={"group_id": group_id})
    settings, name = with_member_name(settings.model_copy(update={"kafka": kafka}))
    from worker.sink.service import SinkService

    service = SinkService(
        settings, arguments.kind, make_store(arguments.kind, settings.sink), until_caught_up=arguments.until_caught_up,
        followed=followed,
    )  # fmt: skip
    running = threading.Event()
    signals.drain_once(running)
    try:
        service.run(signals.stop, running.set)
    except WorkerError as error:
        log.critical("%s", error.one_line(), extra={"action": "failed", "exit_code": error.exit_code})
        print(f"align-worker: {error.one_line()}", file=sys.stderr)
        leave(error.exit_code)
    finally:
        if name is not None:
            name.close()
    if arguments.until_caught_up and not service.is_caught_up:
        log.warning("stopped before everything was written", extra={"action": "not_done"})
        return NOT_DONE
    if arguments.until_caught_up:
        for entity, metrics in service.metrics.items():
            totals = metrics.accounting.totals
            log.info(
                "%s: %d vectors written, %d deleted, %d superseded, %d refused", entity, totals.published["upsert"],
                totals.published["tombstone"], sum(totals.superseded.values()), sum(totals.dead_lettered.values()),
                extra={"action": "done"},
            )  # fmt: skip
        if service.loop is not None and service.loop.num_expired:
            return TopicError.exit_code
    return 0
