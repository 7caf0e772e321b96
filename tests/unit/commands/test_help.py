"""What a command says of itself."""

import argparse
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from worker.commands.cli import parse, parser
from worker.settings import Settings, setting_descriptions, setting_names, variable

ROOT = Path(__file__).parents[3]


def commands(command: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Those that do something."""
    below = [
        each
        for action in command._actions
        if isinstance(action, argparse._SubParsersAction)
        for each in action.choices.values()
    ]
    return [leaf for each in below for leaf in commands(each)] if below else [command]


COMMANDS = {command.prog.removeprefix("align-worker "): command for command in commands(parser())}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_that_it_takes(name: str) -> None:
    example = re.search(r"example:\n  align-worker (.+)\n", COMMANDS[name].format_help() + "\n")
    assert example, name
    assert example[1].startswith(name)
    assert parse(shlex.split(example[1])).function is COMMANDS[name].get_default("function")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_shows_its_own_options_before_the_settings(name: str) -> None:
    text = COMMANDS[name].format_help()
    assert "--kafka." not in text.split("example:")[0], "the usage names every setting"
    if "\nsettings:\n" in text:
        own, settings = text.split("\nsettings:\n")
        assert "-h, --help" in own
        assert all(f"--{setting}" in settings for setting in setting_names())
        options = [option for action in COMMANDS[name]._actions for option in action.option_strings]
        own_options = [o for o in options if o.removeprefix("--") not in setting_names() and o != "--config"]
        assert all(option in own for option in own_options)


def test_every_setting_is_told_with_what_it_is_by_default_and_what_it_may_be() -> None:
    told = setting_descriptions()
    assert told.keys() == setting_names().keys()
    assert all(re.search(r"\(default: [^)]+\)$", text) for text in told.values())
    assert told["kafka.compression"].endswith("One of none, gzip, lz4, zstd, snappy. (default: none)")
    assert told["kafka.ssl_check_hostname"].endswith("One of true, false. (default: true)")
    assert "One of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512" in told["kafka.sasl_mechanism"]
    assert told["roles"].endswith("Any of items, users, relay. (default: items)")
    assert told["encode.fetch.schemes"].endswith("Any of file, http, https, s3. (default: none)")
    defaults = Settings()
    assert told["kafka.session_timeout_ms"].endswith(f"(default: {defaults.kafka.session_timeout_ms} ms)")
    assert told["shutdown.drain_timeout_s"].endswith(f"(default: {defaults.shutdown.drain_timeout_s} s)")
    assert told["batch.max_bytes"].endswith(f"(default: {defaults.batch.max_bytes} bytes)")
    assert told["encode.decode_memory_mb"].endswith(f"(default: {defaults.encode.decode_memory_mb} MiB)")


def test_the_variable_of_every_setting_is_told() -> None:
    text = COMMANDS["run"].format_help()
    assert all(variable(name) in text for name in setting_names())


def test_an_extra_that_a_message_names_exists_and_is_quoted_for_a_shell() -> None:
    """`pip install align-worker[media]` without quotes is a pattern for some shells, which then say "no matches"."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [*ROOT.glob("worker/**/*.py"), *ROOT.glob("schemas/**/*.py"), *ROOT.glob("**/README.md")]
    named = [
        (path.name, quote, extra, following)
        for path in files
        if ".venv" not in path.parts
        for quote, extra, following in re.findall(r"(.)align-worker\[([^\]]*)\](.)", path.read_text())
    ]
    assert named
    for path, before, names, after in named:
        assert set(names.split(",")) <= extras.keys(), (path, names)
        assert before == after == "'", f"{path}: {before}align-worker[{names}]{after}"
