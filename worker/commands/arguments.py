"""Helpers that the sub-commands of `align-worker` share: how options are read and results printed."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worker.errors import ConfigError
from worker.printable import printable
from worker.settings import Settings, load, setting_descriptions, variable

if TYPE_CHECKING:
    from worker.data.withheld import Withheld
    from worker.kafka import ClientPort

Command = Callable[[argparse.Namespace], int]

COLD_SHARE = 0.1
"""Of the items, withheld for each list that nobody gives."""


def add_command(
    commands: Any, name: str, function: Command, help_text: str, *, example: str
) -> argparse.ArgumentParser:
    """A sub-command that calls `function`. `example` is a line that does something with it, without its name before."""
    command: argparse.ArgumentParser = commands.add_parser(
        name, help=help_text, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    command.description = f"{help_text}\n\nexample:\n  {command.prog} {example}".rstrip()
    command.set_defaults(function=function)
    return command


def add_dataset_flags(command: argparse.ArgumentParser) -> None:
    """Add the flags for the data set, the withheld items and the device."""
    command.add_argument(
        "--items", type=Path, action="append", required=True, metavar="FILE", help="file of items; repeatable"
    )
    command.add_argument(
        "--events", type=Path, action="append", required=True, metavar="FILE", help="file of events; repeatable"
    )
    for name, purpose in (("val", "choose by"), ("test", "judge by")):
        command.add_argument(
            f"--cold-{name}", type=Path, metavar="FILE", help=f"list of items withheld from training to {purpose}"
        )
    command.add_argument(
        "--cold-share",
        type=share,
        metavar="SHARE",
        help=f"of the items with events, withheld for each list that is not given (default: {COLD_SHARE})",
    )
    for name, purpose in (("val", "choose by, instead of the last but one of a user"), ("test", "judge by")):
        command.add_argument(
            f"--{name}-events",
            type=Path,
            action="append",
            default=[],
            metavar="FILE",
            help=f"file of events withheld from training to {purpose}, whatever their times; repeatable",
        )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    command.add_argument("--threads", type=positive, metavar="N", help="(default: as many as there are cores)")


def event_files(arguments: argparse.Namespace) -> list[Path]:
    """All files of events that `add_dataset_flags` made flags for: those that are withheld belong to the data, too."""
    return [*arguments.events, *arguments.val_events, *arguments.test_events]


def withheld(arguments: argparse.Namespace, seed: int) -> Withheld:
    """What is said of it by the flags of `add_dataset_flags`. `seed` is that of the share."""
    from worker.data.withheld import Withheld

    return Withheld(
        arguments.cold_val,
        arguments.cold_test,
        COLD_SHARE if arguments.cold_share is None else arguments.cold_share,
        seed,
        arguments.val_events,
        arguments.test_events,
    )


def add_settings(command: argparse.ArgumentParser) -> None:
    """A flag for every setting, and the file of them. Comes last: the usage shows the command's own flags alone."""
    own = command.format_usage().removeprefix("usage: ").rstrip()
    command.usage = f"{own} [--SETTING VALUE ...]".replace("%", "%%")
    settings = command.add_argument_group("settings")
    settings.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings (ALIGN_CONFIG)")
    for name, described in setting_descriptions().items():
        settings.add_argument(
            f"--{name}",
            dest=f"setting:{name}",
            metavar="VALUE",
            help=f"{described} {variable(name)}".replace("%", "%%"),
        )


def settings_from(arguments: argparse.Namespace, defaults: Mapping[str, str] | None = None) -> Settings:
    """Read the settings that `add_settings` made flags for. `defaults` give way to flags only. Raises `ConfigError`."""
    flags = {
        key.removeprefix("setting:"): value
        for key, value in vars(arguments).items()
        if key.startswith("setting:") and value is not None
    }
    return load({**(defaults or {}), **flags}, arguments.config)


CONNECT_TIMEOUT_S = 15.0


def connected(settings: Settings) -> ClientPort:
    """A client that a broker has answered. Somebody waits for a command: without `kafka.connect_timeout_s` it gives up
    sooner than a worker does, which may start before its broker."""
    from worker.kafka import make_client

    kafka = settings.kafka
    if "connect_timeout_s" not in kafka.model_fields_set:
        kafka = kafka.model_copy(update={"connect_timeout_s": CONNECT_TIMEOUT_S})
    client = make_client(kafka)
    client.connect()
    return client


def positive(text: str) -> int:
    """A whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def positive_number(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError("must be above 0 and finite")
    return value


def seconds(text: str) -> float:
    """A number of 0 or more."""
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError("must be 0 or more, and finite")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value


def pairs(flag: str, texts: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE, each name once."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals and value):
            raise ConfigError(f"{flag} {text!r}: expected NAME=VALUE")
        if name in found:
            raise ConfigError(f"{flag}: {name} is given twice")
        found[name] = value
    return found


def sizes(flag: str, texts: Sequence[str]) -> dict[str, int]:
    """NAME=N, whole numbers of at least 1."""
    found = {}
    for name, text in pairs(flag, texts).items():
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"{flag} {name}={text}: expected a whole number of at least 1")
        found[name] = int(text)
    return found


def weights(flag: str, texts: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER."""
    found = {}
    for name, text in pairs(flag, texts).items():
        try:
            found[name] = float(text)
        except ValueError:
            raise ConfigError(f"{flag} {name}={text}: expected a number") from None
    return found


def say(line: str) -> None:
    """To a person who waits: on stderr, so that what was asked for has stdout to itself."""
    print(printable(line), file=sys.stderr, flush=True)


def print_json(value: Any, *, indent: int | None = 2) -> None:
    """On stdout. What would drive a terminal is escaped, which JSON reads as the same."""
    print_text(json.dumps(value, indent=indent, ensure_ascii=False, default=str))


def print_text(text: str) -> None:
    """On stdout, several lines. What strangers wrote into one cannot drive the terminal."""
    print("\n".join(map(printable, text.split("\n"))))
