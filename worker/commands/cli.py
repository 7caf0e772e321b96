"""The `align-worker` command: what each sub-command takes, and which function it calls."""

from __future__ import annotations

import argparse
import difflib
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from worker import __version__
from worker.commands.arguments import add_command, pairs, positive, positive_number, print_json, sizes, weights
from worker.commands.evaluate import add_evaluate
from worker.commands.import_data import add_import
from worker.commands.recommend import add_recommend_flags, recommend
from worker.commands.train import add_train
from worker.errors import ConfigError
from worker.settings import Settings, load, redacted, setting_names, variable

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

    run = add_command(commands, "run", _run, "consume items and publish their vectors until SIGTERM")
    run.add_argument(
        "--until-caught-up",
        action="store_true",
        help="end with 0 once everything is done that was there at the start; items first, then users",
    )
    _add_settings(run)

    demo = add_command(commands, "demo", _demo, "see it work: embedded broker, generated items and users, real worker")
    demo.add_argument(
        "--items", type=positive, default=10_000, metavar="N", help="items to feed (default: %(default)s)"
    )
    demo.add_argument(
        "--keep", action="store_true", help="leave broker and worker running, to attach your own producer"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the generated catalogue (default: %(default)s)")
    _add_settings(demo)

    encode = add_command(commands, "encode", _encode, "make features of raw content, as a running worker does")
    encode.add_argument("source", type=Path, metavar="SOURCE", help="item file, or directory of media files")
    encode.add_argument("target", type=Path, metavar="TARGET", help="item file to write")
    encode.add_argument(
        "--max-vectors",
        action="append",
        default=[],
        metavar="NAME=N",
        help="vectors of a modality per item, where no space.path says it (default: 1)",
    )
    encode.add_argument("--keep-content", action="store_true", help="write the content, too")
    encode.add_argument("--json", action="store_true", help="print what became of the items as JSON")
    _add_settings(encode)

    _add_space(commands)
    _add_topics(commands)
    _add_dlq(commands)
    add_import(commands)
    add_train(commands)
    add_evaluate(commands)

    asking = add_command(commands, "recommend", _recommend, "ask published vectors: items for a user, or like an item")
    add_recommend_flags(asking)
    _add_settings(asking)

    config = add_command(commands, "config", _config, "print the effective settings, secrets redacted")
    config.add_argument("--json", action="store_true", help="as JSON instead of YAML")
    _add_settings(config)

    schema = add_command(commands, "schema", _schema, "print the JSON Schema of a message")
    schema.add_argument("name", metavar="NAME", help="NewItem, UserEvent, ItemVector, UserVector or DeadLetter")
    return root


def _add_space(commands: Any) -> None:
    space = commands.add_parser("space", help="make, show and check the space that vectors live in")
    spaces = space.add_subparsers(metavar="COMMAND", required=True)
    create = add_command(spaces, "create", _space_create, "make a seeded, untrained space")
    create.add_argument("path", type=Path, metavar="PATH")
    create.add_argument(
        "--modality",
        action="append",
        required=True,
        metavar="NAME=DIM",
        help="a modality and the size of its vectors",
    )
    create.add_argument(
        "--encoder",
        action="append",
        default=[],
        metavar="NAME=ENCODER",
        help="only accept features of this encoder",
    )
    create.add_argument(
        "--dim", type=positive, default=256, help="size of the published vectors (default: %(default)s)"
    )
    create.add_argument("--fusion", default="self_attention", help="kind of fusion (default: %(default)s)")
    create.add_argument("--layers", type=positive, help="of self_attention (default: 1)")
    create.add_argument("--heads", type=positive, help="of an attention (default: 4)")
    create.add_argument(
        "--max-vectors",
        action="append",
        default=[],
        metavar="NAME=N",
        help="vectors of a modality per item (default: 1)",
    )
    create.add_argument(
        "--event",
        action="append",
        default=[],
        metavar="TYPE=WEIGHT",
        help="what a user event of this type is worth; others are not used (default: view=0.3 like=1 save=1.5 "
        "purchase=2 dislike=-0.5)",
    )
    create.add_argument(
        "--half-life-days",
        type=positive_number,
        default=7.0,
        metavar="DAYS",
        help="after which a user event is worth half (default: %(default)s)",
    )
    create.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    show = add_command(spaces, "show", _space_show, "print what a space holds, as JSON")
    show.add_argument("path", type=Path, metavar="PATH")
    check = add_command(spaces, "check", _space_check, "load a space, run it, and time it")
    check.add_argument("path", type=Path, metavar="PATH")
    check.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    check.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: %(default)s)")
    check.add_argument("--threads", type=positive, metavar="N", help="(default: one less than there are cores)")
    check.add_argument("--json", action="store_true", help="the whole report")


def _add_topics(commands: Any) -> None:
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
    _add_settings(create)
    _add_settings(add_command(actions, "check", _topics_check, "say whether the worker can use the topics"))


def _add_dlq(commands: Any) -> None:
    dlq = commands.add_parser("dlq", help="list, show and replay dead letters")
    actions = dlq.add_subparsers(metavar="COMMAND", required=True)
    for name, function, help_text in (
        ("list", _dlq_list, "one line per dead letter"),
        ("show", _dlq_show, "everything about dead letters, with their bytes"),
        ("replay", _dlq_replay, "send the original records to their topic again"),
    ):
        action = add_command(actions, name, function, help_text)
        action.add_argument(
            "positions",
            nargs="+" if name == "show" else "*",
            metavar="PARTITION/OFFSET",
            help="where they lie in the topic",
        )
        action.add_argument("--reason", help="only this reason")
        action.add_argument("--topic", help="only records of this topic")
        action.add_argument(
            "--since", type=int, metavar="MS", help="only those since this time, milliseconds since 1970"
        )
        action.add_argument("--limit", type=positive, metavar="N", help="at most this many")
        if name == "replay":
            action.add_argument("--dry-run", action="store_true", help="say what would be sent")
        else:
            action.add_argument("--json", action="store_true", help="one JSON object per line")
        _add_settings(action)


def _add_settings(command: argparse.ArgumentParser) -> None:
    settings = command.add_argument_group("settings")
    settings.add_argument("--config", type=Path, metavar="FILE", help="YAML file with settings (ALIGN_CONFIG)")
    for name, description in setting_names().items():
        settings.add_argument(
            f"--{name}",
            dest=f"setting:{name}",
            metavar="VALUE",
            help=f"{description} ({variable(name)})".replace("%", "%%"),
        )


def _settings(arguments: argparse.Namespace, defaults: Mapping[str, str] | None = None) -> Settings:
    flags = {
        key.removeprefix("setting:"): value
        for key, value in vars(arguments).items()
        if key.startswith("setting:") and value is not None
    }
    return load({**(defaults or {}), **flags}, arguments.config)


# ---------------------------------------------------------------------- commands


def _run(arguments: argparse.Namespace) -> int:
    from worker.monitoring import logs

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave_undone if arguments.until_caught_up else _leave)
    settings = _settings(arguments)
    logs.configure(settings.log.level, settings.log.format)
    from worker.process.lifecycle import serve  # takes seconds, so whatever can be refused is refused before

    return serve(settings, until_caught_up=arguments.until_caught_up)


def _leave(number: int, frame: FrameType | None) -> None:
    """While imports run there is nothing to drain, and an exception out of the middle of one is anybody's guess."""
    os._exit(0)


def _leave_undone(number: int, frame: FrameType | None) -> None:
    os._exit(128 + signal.SIGTERM)


def _demo(arguments: argparse.Namespace) -> int:
    from worker.demo import run_demo

    return run_demo(
        lambda defaults: _settings(arguments, defaults),
        num_items=arguments.items,
        seed=arguments.seed,
        keep=arguments.keep,
    )


def _encode(arguments: argparse.Namespace) -> int:
    from worker.align.space import Space
    from worker.encode.command import encode_items
    from worker.encode.setup import content_encoder

    settings = _settings(arguments)
    if not settings.encode.encoders:
        raise ConfigError("encode.encoders is not set: name an encoder per modality, as text=builtin-text")
    encoder = content_encoder(
        settings.encode,
        space=None if settings.space.path is None else Space.load(settings.space.path).spec,
        max_vectors=sizes("--max-vectors", arguments.max_vectors),
        device=settings.device,
        dtype=settings.dtype,
    )
    try:
        summary = encode_items(arguments.source, arguments.target, encoder, keep_content=arguments.keep_content)
    finally:
        encoder.close()
    if arguments.json:
        print_json(summary.as_dict())
    else:
        print(summary.text())
    return 0


def _space_create(arguments: argparse.Namespace) -> int:
    from worker.align import command

    space = command.create(
        arguments.path,
        sizes("--modality", arguments.modality),
        arguments.dim,
        encoders=pairs("--encoder", arguments.encoder),
        fusion=arguments.fusion,
        layers=arguments.layers,
        heads=arguments.heads,
        max_vectors=sizes("--max-vectors", arguments.max_vectors),
        seed=arguments.seed,
        half_life_days=arguments.half_life_days,
        event_weights=weights("--event", arguments.event),
    )
    print(f"space {space.space_id} in {arguments.path}")
    return 0


def _space_show(arguments: argparse.Namespace) -> int:
    from worker.align import command

    print_json(command.show(arguments.path))
    return 0


def _space_check(arguments: argparse.Namespace) -> int:
    from worker.align import command

    report = command.check(
        arguments.path, device=arguments.device, dtype=arguments.dtype, threads=arguments.threads or 0
    )
    if arguments.json:
        print_json(report.as_dict())
    else:
        print(report.text())
    return 0


def _topics_create(arguments: argparse.Namespace) -> int:
    from worker.kafka import make_client
    from worker.topics import create_topics

    settings = _settings(arguments)
    client = make_client(settings.kafka)
    client.connect()
    created = create_topics(client, settings, arguments.partitions, arguments.replication)
    print(f"created {', '.join(created)}" if created else "all topics exist")
    return 0


def _topics_check(arguments: argparse.Namespace) -> int:
    from worker.kafka import make_client
    from worker.topics import check_topics

    settings = _settings(arguments)
    client = make_client(settings.kafka)
    client.connect()
    for warning in check_topics(client, settings):
        print(f"warning: {warning}", file=sys.stderr)
    print("topics are usable")
    return 0


def _dlq_letters(arguments: argparse.Namespace, settings: Settings) -> tuple[Any, Iterable[Any]]:
    from worker.commands.dead_letters import Selection, read_letters
    from worker.kafka import make_client

    client = make_client(settings.kafka)
    client.connect()
    selection = Selection(
        arguments.reason, arguments.topic, arguments.since, frozenset(arguments.positions), arguments.limit
    )
    return client, selection.of(read_letters(client, settings.topics.dead_letters))


def _dlq_list(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import one_line, summary

    _, letters = _dlq_letters(arguments, _settings(arguments))
    for stored in letters:
        if arguments.json:
            print_json(summary(stored), indent=None)
        else:
            print(one_line(stored))
    return 0


def _dlq_show(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import full, readable

    _, letters = _dlq_letters(arguments, _settings(arguments))
    num_shown = 0
    for stored in letters:
        num_shown += 1
        if arguments.json:
            print_json(full(stored), indent=None)
        else:
            print(readable(stored))
    if num_shown == 0:
        print(f"no dead letter at {', '.join(arguments.positions)}", file=sys.stderr)
        return 1
    return 0


def _dlq_replay(arguments: argparse.Namespace) -> int:
    from worker.commands.dead_letters import one_line, replay

    settings = _settings(arguments)
    client, letters = _dlq_letters(arguments, settings)
    if arguments.dry_run:
        for stored in letters:
            print(f"would send {one_line(stored)}")
        return 0
    num_sent = replay(
        client,
        settings,
        letters,
        on_sent=lambda stored: print(f"sent {one_line(stored)}"),
        on_skipped=lambda stored: print(f"skipped, it has neither key nor value: {one_line(stored)}"),
    )
    print(f"{num_sent} records sent")
    return 0


def _recommend(arguments: argparse.Namespace) -> int:
    return recommend(arguments, _settings(arguments))


def _config(arguments: argparse.Namespace) -> int:
    import yaml

    settings = redacted(_settings(arguments))
    if arguments.json:
        print_json(settings)
    else:
        print(yaml.safe_dump(settings, sort_keys=False), end="")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from schemas import MESSAGES, json_schema

    if arguments.name not in MESSAGES:
        raise ConfigError(f"schema: no message {arguments.name!r}; there are {', '.join(MESSAGES)}")
    print_json(json_schema(arguments.name))
    return 0
