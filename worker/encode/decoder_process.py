"""Main loop of a decoder's process: one file after the other, from standard input to standard output.

C libraries that read files from anywhere crash, hang and eat memory now and then, and now and then do what a file tells
them to. Here that costs one file: the process has bounded memory, can reach nothing (`confinement.py`), ends itself
when a file takes too long (even if nobody is left to end it), and talks to its parent in plain values only.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import signal
import sys
from typing import Any, BinaryIO

import msgpack

from schemas import Reason
from worker.encode.confinement import confine
from worker.encode.media.decoding import decode
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import MediaLimits, form_from_plain, part_to_plain

LENGTH_BYTES = 8
MAX_DETAIL_CHARS = 1_000
ALARM_AFTER_S = 1.0  # later than the parent, who then knows that it was the time


def main() -> None:
    requests, replies = _take_streams()
    setup = msgpack.unpackb(_read(requests) or sys.exit(0))
    _load()
    missing = confine(setup["memory_bytes"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the parent drains, and needs its decoders for that
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limits = MediaLimits(**setup["limits"])
    _write(replies, {"missing": missing})  # ready
    while (request := _read(requests)) is not None:
        signal.setitimer(signal.ITIMER_REAL, setup["timeout_s"] + ALARM_AFTER_S)
        reply = _answer(msgpack.unpackb(request), limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(replies, reply)


def _load() -> None:
    """All the code that decoding may come to, as none can be loaded later."""
    for encoding in ("utf-8-sig", "utf-8", "latin-1", "ascii", "utf-16", "utf-16-le", "utf-16-be"):
        codecs.lookup(encoding)
    with contextlib.suppress(ImportError):  # without the extra `media`, text can still be read
        from worker.encode.media import audio, container, image, video

        container.load()
        image.load()
        del audio, video


def _answer(request: Any, limits: MediaLimits) -> dict[str, Any]:
    try:
        parts = decode(request["data"], [form_from_plain(form) for form in request["forms"]], limits)
    except ContentError as error:
        return {"reason": error.reason.value, "detail": error.detail[:MAX_DETAIL_CHARS]}
    except MemoryError:
        return {"reason": Reason.DECODER_FAILED.value, "detail": "decoding takes more memory than a decoder may have"}
    except Exception as error:  # whatever else a library raises, this file alone is to blame
        return {"reason": Reason.DECODER_FAILED.value, "detail": f"{type(error).__name__}: {error}"[:MAX_DETAIL_CHARS]}
    return {"parts": [part_to_plain(part) for part in parts]}


def _take_streams() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for our own use; what a library prints goes nowhere."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    return requests, replies


def _read(stream: BinaryIO) -> bytes | None:
    length = stream.read(LENGTH_BYTES)
    return stream.read(int.from_bytes(length, "little")) if len(length) == LENGTH_BYTES else None


def _write(stream: BinaryIO, message: dict[str, Any]) -> None:
    packed: bytes = msgpack.packb(message)
    stream.write(len(packed).to_bytes(LENGTH_BYTES, "little") + packed)
    stream.flush()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        main()
