"""`align-worker relay`: topics of other people, written anew as items and events under the keys they have there."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, add_settings
from worker.commands.run import add_run_flags, serve_until_told


def add_relay(commands: Any) -> None:
    """The command and its flags."""
    relay = add_command(
        commands,
        "relay",
        _relay,
        "map foreign topics onto those of items and events until SIGTERM",
        example="--relay.events.topic clicks --relay.events.format json --relay.events.mapping shop.yaml",
    )
    add_run_flags(relay)
    add_settings(relay)


def _relay(arguments: argparse.Namespace) -> int:
    setattr(arguments, "setting:roles", "relay")
    return serve_until_told(arguments)
