"""`align-worker config`: the settings that a worker started like this would have."""

from __future__ import annotations

import argparse
from typing import Any

from worker.commands.arguments import add_command, add_settings, print_json, settings_from
from worker.settings import redacted


def add_config(commands: Any) -> None:
    """The command and its flags."""
    config = add_command(
        commands, "config", _config, "print the effective settings, secrets redacted", example="--config worker.yaml"
    )
    config.add_argument("--json", action="store_true", help="as JSON instead of YAML")
    add_settings(config)


def _config(arguments: argparse.Namespace) -> int:
    import yaml

    settings = redacted(settings_from(arguments))
    if arguments.json:
        print_json(settings)
    else:
        print(yaml.safe_dump(settings, sort_keys=False), end="")
    return 0
