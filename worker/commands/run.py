"""`align-worker run`: the worker itself, until a signal or until it has caught up."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, add_settings, settings_from, share
from worker.monitoring.refusals import MAX_SHARE


def add_run(commands: Any) -> None:
    """The command and its flags."""
    run = add_command(
        commands,
        "run",
        serve_until_told,
        "consume items and publish their vectors until SIGTERM",
        example="--kafka.bootstrap_servers localhost:9092 --space.path ./space",
    )
    add_run_flags(run, "; items first, then users")
    add_settings(run)


def add_run_flags(command: argparse.ArgumentParser, in_order: str = "") -> None:
    """The flags of a process that may end by itself. `in_order`: what is done first then."""
    command.add_argument(
        "--until-caught-up",
        action="store_true",
        help=f"end with 0 once everything is done that was there at the start{in_order}",
    )
    command.add_argument(
        "--max-refused",
        type=share,
        default=MAX_SHARE,
        metavar="S",
        help="with --until-caught-up: end with 13 if more than this share became dead letters, or all (default: "
        "%(default)s)",
    )


def serve_until_told(arguments: argparse.Namespace) -> int:
    """The process, until a signal or until it has caught up; returns its exit code."""
    from worker.monitoring import logs
    from worker.process.signals import NOT_DONE, StopSignals

    signals = StopSignals(NOT_DONE if arguments.until_caught_up else 0)
    signals.install()
    settings = settings_from(arguments)
    logs.configure(settings.log.level, settings.log.format)
    from worker.process.lifecycle import serve  # takes seconds, so whatever can be refused is refused before

    return serve(settings, signals, until_caught_up=arguments.until_caught_up, max_refused=arguments.max_refused)
