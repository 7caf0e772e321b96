"""`align-worker dlq`: listing, showing and replaying dead letters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any

from worker.commands.arguments import add_command, add_settings, positive, print_json, settings_from
from worker.settings import Settings


def add_dlq(commands: Any) -> None:
    """The commands and their flags."""
    dlq = commands.add_parser("dlq", help="list, show and replay dead letters")
    actions = dlq.add_subparsers(metavar="COMMAND", required=True)
    for name, function, help_text in (
        ("list", _dlq_list, "one line per dead letter"),
        ("show", _dlq_show, "everything about dead letters, with their bytes"),
        ("replay", _dlq_replay, "send the original records to their topic again"),
    ):
        action = add_command(actions, name, function, help_text)
        action.add_argument(
            "positions",
            nargs="+" if name == "show" else "*",
            metavar="PARTITION/OFFSET",
            help="where they lie in the topic",
        )
        action.add_argument("--reason", help="only this reason")
        action.add_argument("--topic", help="only records of this topic")
        action.add_argument(
            "--since", type=int, metavar="MS", help="only those since this time, milliseconds since 1970"
        )
        action.add_argument("--limit", type=positive, metavar="N", help="at most this many")
        if name == "replay":
            action.add_argument("--dry-run", action="store_true", help="say what would be sent")
        else:
            action.add_argument("--json", action="store_true", help="one JSON object per line")
        add_settings(action)


def _dlq_letters(arguments: argparse.Namespace, settings: Settings) -> tuple[Any, Iterable[Any]]:
    from worker.commands.dead_letters import Selection, read_letters
    from worker.kafka import make_client

    client = make_client(settings.kafka)
    client.connect()
    selection = Selection(
        arguments.reason, arguments.topic, arguments.since, frozenset(arguments.positions), arguments.limit
    )
    return client, selection.of(read_letters(client, settings.topics.dead_letters))


def _dlq_list(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import one_line, summary

    _, letters = _dlq_letters(arguments, settings_from(arguments))
    for stored in letters:
        if arguments.json:
            print_json(summary(stored), indent=None)
        else:
            print(one_line(stored))
    return 0


def _dlq_show(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import full, readable

    _, letters = _dlq_letters(arguments, settings_from(arguments))
    num_shown = 0
    for stored in letters:
        num_shown += 1
        if arguments.json:
            print_json(full(stored), indent=None)
        else:
            print(readable(stored))
    if num_shown == 0:
        print(f"no dead letter at {', '.join(arguments.positions)}", file=sys.stderr)
        return 1
    return 0


def _dlq_replay(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import one_line, replay

    settings = settings_from(arguments)
    client, letters = _dlq_letters(arguments, settings)
    if arguments.dry_run:
        for stored in letters:
            print(f"would send {one_line(stored)}")
        return 0
    num_sent = replay(
        client,
        settings,
        letters,
        on_sent=lambda stored: print(f"sent {one_line(stored)}"),
        on_skipped=lambda stored: print(f"skipped, it has neither key nor value: {one_line(stored)}"),
    )
    print(f"{num_sent} records sent")
    return 0
