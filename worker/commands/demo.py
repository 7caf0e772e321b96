"""`align-worker demo`: the worker on an embedded broker, with a catalogue and users."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, add_settings, positive, settings_from


def add_demo(commands: Any) -> None:
    """The command and its flags."""
    demo = add_command(
        commands,
        "demo",
        _demo,
        "see it work: embedded broker, generated items and users, real worker",
        example="--items 2000",
    )
    demo.add_argument(
        "--items", type=positive, default=10_000, metavar="N", help="items to feed (default: %(default)s)"
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave broker and worker running, to attach your own producer"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the generated catalogue (default: %(default)s)")
    add_settings(demo)


def _demo(arguments: argparse.Namespace) -> int:
    from worker.demo import run_demo

    return run_demo(
        lambda defaults: settings_from(arguments, defaults),
        num_items=arguments.items,
        seed=arguments.seed,
        keep=arguments.keep,
    )
