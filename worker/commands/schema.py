"""`align-worker schema`: the JSON Schema of a message, or of a mapping file."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, print_json
from worker.errors import ConfigError


def add_schema(commands: Any) -> None:
    """The command and its flags."""
    schema = add_command(
        commands, "schema", _schema, "print the JSON Schema of a message, or of a mapping file", example="NewItem"
    )
    schema.add_argument(
        "name", metavar="NAME", help="NewItem, UserEvent, ItemVector, UserVector, DeadLetter or mapping"
    )


def _schema(arguments: argparse.Namespace) -> int:
    from schemas import MESSAGES, json_schema

    if arguments.name == "mapping":
        from worker.mapping.json_schema import mapping_schema

        print_json(mapping_schema())
        return 0
    if arguments.name not in MESSAGES:
        raise ConfigError(f"schema: no message {arguments.name!r}; there are {', '.join(MESSAGES)}, and mapping")
    print_json(json_schema(arguments.name))
    return 0
