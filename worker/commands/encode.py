"""`align-worker encode`: files of raw content to files of features."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from worker.commands.arguments import add_command, add_settings, print_json, print_text, settings_from, share, sizes
from worker.errors import ConfigError
from worker.monitoring.refusals import MAX_SHARE, check_refused


def add_encode(commands: Any) -> None:
    """The command and its flags."""
    encode = add_command(
        commands,
        "encode",
        _encode,
        "make features of raw content, as a running worker does",
        example="./media items.msgpack --encode.encoders text=builtin-text,image=builtin-image",
    )
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
    encode.add_argument(
        "--max-refused",
        type=share,
        default=MAX_SHARE,
        metavar="S",
        help="end with 13 if more than this share of the items was refused, or all (default: %(default)s)",
    )
    encode.add_argument("--json", action="store_true", help="print what became of the items as JSON")
    add_settings(encode)


def _encode(arguments: argparse.Namespace) -> int:
    from worker.align.space import Space
    from worker.encode.command import encode_items
    from worker.encode.setup import content_encoder

    settings = settings_from(arguments)
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
        summary = encode_items(
            arguments.source,
            arguments.target,
            encoder,
            keep_content=arguments.keep_content,
            max_bytes=settings.encode.max_bytes,
        )
    finally:
        encoder.close()
    if arguments.json:
        print_json(summary.as_dict())
    else:
        print_text(summary.text())
    check_refused("items", summary.refused, summary.items, arguments.max_refused)
    return 0
