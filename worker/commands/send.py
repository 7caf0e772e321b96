"""`align-worker send`: files of items and events into their topics, each message once more at most."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from worker.commands.arguments import (
    add_command,
    add_settings,
    connected,
    positive_number,
    print_json,
    print_text,
    say,
    settings_from,
)


def add_send(commands: Any) -> None:
    """The command and its flags."""
    send = add_command(
        commands,
        "send",
        _send,
        "send files of items and events to their topics",
        example="data/items.msgpack data/events.msgpack --kafka.bootstrap_servers localhost:9092",
    )
    send.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="as `import` and `train --items-out` write them"
    )
    send.add_argument(
        "--rate", type=positive_number, metavar="N", help="messages per second at most (default: as fast as it goes)"
    )
    send.add_argument("--dry-run", action="store_true", help="read and check everything, and send nothing")
    send.add_argument(
        "--again", action="store_true", help="send files from their beginning that have been sent, wholly or in part"
    )
    send.add_argument("--json", action="store_true", help="print the summary as JSON")
    add_settings(send)


def _send(arguments: argparse.Namespace) -> int:
    from worker.commands.sending import check, send_files

    settings = settings_from(arguments)
    files = check(arguments.files, settings)
    client = None if arguments.dry_run else connected(settings)
    started = time.monotonic()
    summary = send_files(files, client, settings, rate=arguments.rate, again=arguments.again, tell=say)
    summary["seconds"] = round(time.monotonic() - started, 1)
    if arguments.json:
        print_json(summary)
        return 0
    verb = "would be sent" if arguments.dry_run else "sent"
    lines = [
        f"{each['sent']:,} {each['kind']} {verb} to {each['topic']} from {each['file']}" for each in summary["files"]
    ]
    print_text("\n".join(lines))
    return 0
