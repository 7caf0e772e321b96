"""`align-worker dlq`: listing, showing and replaying dead letters, and leaving out what cannot be read at all."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from worker.commands.arguments import add_command, add_settings, connected, positive, print_json, say, settings_from
from worker.commands.times import EXAMPLES, moment
from worker.errors import ConfigError
from worker.printable import shortened
from worker.settings import Settings

if TYPE_CHECKING:
    from worker.commands.dead_letters import Selection, Stored
    from worker.kafka import ClientPort


def add_dlq(commands: Any) -> None:
    """The commands and their flags."""
    dlq = commands.add_parser("dlq", help="list, show and replay dead letters, skip what is unreadable")
    actions = dlq.add_subparsers(metavar="COMMAND", required=True)
    for name, function, help_text, example in (
        ("list", _dlq_list, "one line per dead letter", "--since 2h --reason wrong_shape"),
        ("show", _dlq_show, "everything about dead letters, with their bytes", "3/17"),
        ("replay", _dlq_replay, "send the original records to their topic again, each once", "--reason wrong_shape"),
    ):
        action = add_command(actions, name, function, help_text, example=example)
        action.add_argument(
            "positions",
            nargs="+" if name == "show" else "*",
            metavar="PARTITION/OFFSET",
            help="where they lie in the topic",
        )
        action.add_argument("--reason", help="only this reason")
        action.add_argument("--topic", help="only records of this topic")
        action.add_argument("--since", metavar="TIME", help=f"only those that failed since then: {EXAMPLES}")
        action.add_argument("--until", metavar="TIME", help="only those that failed before then")
        action.add_argument("--limit", type=positive, metavar="N", help="at most this many")
        if name == "list":
            action.add_argument("--quiet", action="store_true", help="print positions alone, one a line")
        if name == "replay":
            action.add_argument("--again", action="store_true", help="send those, too, that have been replayed already")
            action.add_argument("--dry-run", action="store_true", help="say what would be sent")
            action.add_argument("--quiet", action="store_true", help="print nothing but errors")
        action.add_argument("--json", action="store_true", help="one JSON object per line")
        add_settings(action)
    help_text = "have all workers of the group pass over a batch that cannot be read"
    skip = add_command(actions, "skip", _dlq_skip, help_text, example="items/3@1234")
    skip.add_argument("place", metavar="TOPIC/PARTITION@OFFSET", help="as the log and the status page name it")
    skip.add_argument("--yes", action="store_true", help="do it; without, only say what would be left out")
    add_settings(skip)


def _dlq_list(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import one_line, summary

    selection, settings = _selection(arguments), settings_from(arguments)
    for stored in _letters(connected(settings), settings, selection):
        if arguments.json:
            print_json(summary(stored), indent=None)
        else:
            print(stored.position if arguments.quiet else one_line(stored))
    return 0


def _dlq_show(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import full, readable

    selection, settings = _selection(arguments), settings_from(arguments)
    missing = dict.fromkeys(arguments.positions)
    for stored in _letters(connected(settings), settings, selection):
        missing.pop(stored.position, None)
        if arguments.json:
            print_json(full(stored), indent=None)
        else:
            print(readable(stored))
    return _told_missing(missing)


def _dlq_replay(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import read_replayed, replay

    selection, settings = _selection(arguments), settings_from(arguments)
    client = connected(settings)
    replayed = frozenset() if arguments.again else read_replayed(client, settings.topics.dead_letters)
    missing = dict.fromkeys(arguments.positions)
    num_before, num_found = 0, 0

    def wanted() -> Iterator[Stored]:
        nonlocal num_before, num_found
        for stored in _letters(client, settings, selection):
            missing.pop(stored.position, None)
            if (stored.partition, stored.offset) in replayed:
                num_before += 1
                continue
            if num_found == arguments.limit:
                return
            num_found += 1
            yield stored

    if arguments.dry_run:
        for stored in wanted():
            _tell(arguments, "would send", stored)
    else:
        num_sent = replay(
            client,
            settings,
            wanted(),
            on_sent=lambda stored: _tell(arguments, "sent", stored),
            on_skipped=lambda stored, why: _tell(arguments, f"skipped, {why}:", stored),
        )
        if not (arguments.json or arguments.quiet):
            print(f"{num_sent} records sent")
    if num_before and not arguments.quiet:
        say(f"{num_before} had been replayed before and were left out; --again sends them again")
    return _told_missing(missing)


def _tell(arguments: argparse.Namespace, what: str, stored: Stored) -> None:
    from worker.commands.dead_letters import one_line, summary

    if arguments.quiet:
        return
    if arguments.json:
        print_json({"what": what.partition(",")[0], **summary(stored)}, indent=None)
    else:
        print(f"{what} {one_line(stored)}")


def _told_missing(positions: Iterable[str]) -> int:
    """The exit code for letters that were asked for by name and are not there, or not among those that are meant."""
    if named := ", ".join(positions):
        say(f"no dead letter at {named}, or not one that the other options mean")
        return 1
    return 0


def _selection(arguments: argparse.Namespace) -> Selection:
    """Raises `ConfigError`. The limit of a replay counts what it sends."""
    from worker.commands.dead_letters import Selection

    for position in arguments.positions:
        if not re.fullmatch(r"\d{1,9}/\d{1,18}", position, re.ASCII):
            raise ConfigError(f"{shortened(position)!r} is no position: give PARTITION/OFFSET, as 0/17")
    now_ms = time.time_ns() // 1_000_000
    times = {name: _moment(name, getattr(arguments, name), now_ms) for name in ("since", "until")}
    since_ms, until_ms = times["since"], times["until"]
    if since_ms is not None and until_ms is not None and since_ms >= until_ms:
        raise ConfigError("--since is not before --until: nothing lies between them")
    return Selection(
        reason=_reason(arguments.reason),
        topic=arguments.topic,
        since_ms=since_ms,
        until_ms=until_ms,
        positions=frozenset(position for position in arguments.positions),
        limit=arguments.limit if arguments.function is not _dlq_replay else None,
    )


def _moment(name: str, text: str | None, now_ms: int) -> int | None:
    if text is None:
        return None
    try:
        ms, is_utc = moment(text, now_ms)
    except ValueError as error:
        raise ConfigError(f"--{name}: {error}") from None
    if is_utc:
        say(f"--{name} {text} has no zone and is taken as UTC")
    return ms


def _reason(text: str | None) -> str | None:
    from schemas import Reason

    known = [reason.value for reason in Reason]
    if text is not None and text not in known:
        raise ConfigError(f"--reason {shortened(text)}: there is no such reason; there are {', '.join(known)}")
    return text


def _letters(client: ClientPort, settings: Settings, selection: Selection) -> Iterator[Stored]:
    from worker.commands.dead_letters import read_letters

    return selection.of(read_letters(client, settings.topics.dead_letters))


def _dlq_skip(arguments: argparse.Namespace) -> int:
    from worker.commands.skipping import cost, find_gap, leave_out, parsed_place

    partition, offset = parsed_place(arguments.place)
    settings = settings_from(arguments)
    client = connected(settings)
    gap = find_gap(client, partition, offset)
    print(gap.text())
    print(cost(partition.topic, settings))
    if not arguments.yes:
        say(f"nothing has been done: --yes leaves it out for group {settings.kafka.group_id}")
        return 1
    kept = leave_out(client, settings, gap)
    print("Its bytes are in the dead letters." if kept else "Its bytes could not be kept whole as a dead letter.")
    print(
        f"Left out for group {settings.kafka.group_id}: a worker that waits there reads on within half a minute, at "
        f"offset {gap.until}."
    )
    return 0
