"""`align-worker relay`: topics of other people, written anew as items and events under the keys they have there."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, add_settings, settings_from, share
from worker.monitoring.refusals import MAX_SHARE


def add_relay(commands: Any) -> None:
    """The command and its flags."""
    relay = add_command(
        commands,
        "relay",
        _relay,
        "map foreign topics onto those of items and events until SIGTERM",
        example="--relay.events.topic clicks --relay.events.format json --relay.events.mapping shop.yaml",
    )
    relay.add_argument(
        "--until-caught-up", action="store_true", help="end with 0 once everything is done that was there at the start"
    )
    relay.add_argument(
        "--max-refused",
        type=share,
        default=MAX_SHARE,
        metavar="S",
        help="with --until-caught-up: end with 13 if more than this share became dead letters, or all (default: "
        "%(default)s)",
    )
    add_settings(relay)


def _relay(arguments: argparse.Namespace) -> int:
    from worker.monitoring import logs
    from worker.process.signals import NOT_DONE, StopSignals

    signals = StopSignals(NOT_DONE if arguments.until_caught_up else 0)
    signals.install()
    setattr(arguments, "setting:roles", "relay")
    settings = settings_from(arguments)
    logs.configure(settings.log.level, settings.log.format)
    from worker.process.lifecycle import serve

    return serve(settings, signals, until_caught_up=arguments.until_caught_up, max_refused=arguments.max_refused)
