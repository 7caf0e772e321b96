"""`align-worker topics`: making the topics and checking them."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from worker.commands.arguments import add_command, add_settings, positive, settings_from


def add_topics(commands: Any) -> None:
    """The commands and their flags."""
    topics = commands.add_parser("topics", help="make and check the topics")
    actions = topics.add_subparsers(metavar="COMMAND", required=True)
    create = add_command(
        actions, "create", _topics_create, "make the topics that do not exist, with the right configuration"
    )
    create.add_argument(
        "--partitions", type=positive, default=12, help="most workers that can share (default: %(default)s)"
    )
    create.add_argument(
        "--replication", type=positive, default=3, help="copies of each partition (default: %(default)s)"
    )
    add_settings(create)
    add_settings(add_command(actions, "check", _topics_check, "say whether the worker can use the topics"))


def _topics_create(arguments: argparse.Namespace) -> int:
    from worker.kafka import make_client
    from worker.topics import create_topics

    settings = settings_from(arguments)
    client = make_client(settings.kafka)
    client.connect()
    created = create_topics(client, settings, arguments.partitions, arguments.replication)
    print(f"created {', '.join(created)}" if created else "all topics exist")
    return 0


def _topics_check(arguments: argparse.Namespace) -> int:
    from worker.kafka import make_client
    from worker.topics import check_topics

    settings = settings_from(arguments)
    client = make_client(settings.kafka)
    client.connect()
    for warning in check_topics(client, settings):
        print(f"warning: {warning}", file=sys.stderr)
    print("topics are usable")
    return 0
