"""The `align-worker` command: its sub-commands put together, and an option that none of them has."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence

from worker import __version__
from worker.commands.config import add_config
from worker.commands.demo import add_demo
from worker.commands.dlq import add_dlq
from worker.commands.encode import add_encode
from worker.commands.evaluate import add_evaluate
from worker.commands.import_data import add_import
from worker.commands.recommend import add_recommend
from worker.commands.relay import add_relay
from worker.commands.run import add_run
from worker.commands.schema import add_schema
from worker.commands.send import add_send
from worker.commands.sink import add_sink
from worker.commands.space import add_space
from worker.commands.topics import add_topics
from worker.commands.train import add_train
from worker.errors import ConfigError
from worker.settings import setting_names

# What a command imports is loaded when it runs: `align-worker config` needs neither torch nor a Kafka client.


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command and its options. Raises `ConfigError` for an option that does not exist.

    The message names the option only: what follows it may be a secret.
    """
    arguments, unknown = parser().parse_known_args(argv)
    if unknown:
        name = unknown[0].partition("=")[0]
        close = difflib.get_close_matches(name, [f"--{setting}" for setting in setting_names()], n=1)
        kind = "option" if name.startswith("-") else "argument"
        raise ConfigError(f"{name}: no such {kind}" + (f"; did you mean {close[0]}?" if close else ""))
    return arguments


def parser() -> argparse.ArgumentParser:
    """The whole command tree."""
    root = argparse.ArgumentParser(
        prog="align-worker",
        allow_abbrev=False,
        description="Streaming feature alignment: multimodal item messages in, one aligned vector per item out.",
        epilog="Every setting is a flag (--kafka.group_id), a variable (ALIGN_KAFKA__GROUP_ID) and a key of "
        "the file given by --config. `align-worker config --help` lists them.",
    )
    root.add_argument("--version", action="version", version=f"align-worker {__version__}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        add_run,
        add_relay,
        add_sink,
        add_demo,
        add_encode,
        add_space,
        add_topics,
        add_dlq,
        add_import,
        add_send,
        add_train,
        add_evaluate,
        add_recommend,
        add_config,
        add_schema,
    ):
        add(commands)
    return root
