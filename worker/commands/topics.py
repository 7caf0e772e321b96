"""`align-worker topics`: making the topics and checking them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from worker.commands.arguments import add_command, add_settings, connected, positive, settings_from
from worker.errors import TopicError


def add_topics(commands: Any) -> None:
    """The commands and their flags."""
    topics = commands.add_parser("topics", help="make and check the topics")
    actions = topics.add_subparsers(metavar="COMMAND", required=True)
    create = add_command(
        actions,
        "create",
        _topics_create,
        "make the topics that do not exist, with the right configuration",
        example="--kafka.bootstrap_servers localhost:9092 --partitions 12",
    )
    create.add_argument(
        "--partitions", type=positive, default=12, help="most workers that can share (default: %(default)s)"
    )
    create.add_argument(
        "--replication",
        type=positive,
        help="copies of each partition (default: 3, or one per broker if those are fewer)",
    )
    add_settings(create)
    check = add_command(
        actions,
        "check",
        _topics_check,
        "say whether the topics can be used, and keep what they hold",
        example="--kafka.bootstrap_servers localhost:9092",
    )
    check.add_argument("--fix", action="store_true", help="set what is found wanting in their configuration")
    add_settings(check)


def _topics_create(arguments: argparse.Namespace) -> int:
    from worker.topics import create_topics, replication_for

    settings = settings_from(arguments)
    client = connected(settings)
    num_brokers = client.num_brokers()
    replication = replication_for(num_brokers, arguments.replication)
    created = create_topics(client, settings, arguments.partitions, replication)
    if not created:
        print("all topics exist; `align-worker topics check` says whether they are as they should be")
        return 0
    brokers = "one broker" if num_brokers == 1 else f"{num_brokers} brokers"
    copies = "one copy" if replication == 1 else f"{replication} copies"
    for count in sorted(set(created.values())):
        names = [name for name in created if created[name] == count]
        as_others = "" if count == arguments.partitions else ", as those have that exist"
        print(f"created {', '.join(names)}: {count} partitions{as_others}, {copies} of each on {brokers}")
    if replication == 1:
        print("note: with one copy, what is on a broker's disk is lost with it: good for a trial", file=sys.stderr)
    return 0


def _topics_check(arguments: argparse.Namespace) -> int:
    from worker.topics import check_topics

    settings = settings_from(arguments)
    client = connected(settings)
    half_life_ms = None if settings.space.path is None else _half_life_ms(settings.space.path)
    found = check_topics(client, settings, half_life_ms)
    if arguments.fix and (fixable := [each for each in found if each.changes]):
        changes: dict[str, dict[str, str]] = {}
        for each in fixable:
            changes.setdefault(each.topic, {}).update(each.changes)
        client.configure_topics(changes)
        for name, values in changes.items():
            print(f"set {name}: {', '.join(f'{key}={value}' for key, value in values.items())}")
        found = check_topics(client, settings, half_life_ms)
    for each in found:
        print(f"warning: {each.told(settings.kafka.bootstrap_servers)}", file=sys.stderr)
    if any(each.changes for each in found):
        print("`align-worker topics check` with --fix sets all of this", file=sys.stderr)
    if any(each.loses for each in found):
        raise TopicError("the topics can be used, and will lose what they hold: see the warnings")
    print("topics are usable")
    return 0


def _half_life_ms(path: Path) -> float | None:
    """After which an event counts half in this space."""
    from worker.align.space import Space

    user = Space.load(path).spec.user
    return None if user is None else getattr(user, "half_life_ms", None)
