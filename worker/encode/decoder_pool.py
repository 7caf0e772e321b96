"""Decoders in processes of their own: a file that crashes, hangs or bloats one costs that file and nothing else.

A thread cannot be ended while C code holds it; a process can. The processes are started with a fresh interpreter, not
forked, because the worker has threads and perhaps a GPU, and with next to nothing of its environment, because that has
passwords. They start at the first file, in about half a second.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from queue import LifoQueue
from typing import Any, NamedTuple

import msgpack

from schemas import Reason
from worker.encode.confinement import environment
from worker.encode.decoder_process import LENGTH_BYTES, MAX_DETAIL_CHARS
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import (
    Form,
    MediaLimits,
    Part,
    answers,
    form_to_plain,
    part_from_plain,
    plain_bytes,
)
from worker.errors import SystemicError
from worker.settings import DECODER_START_S

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "worker.encode.decoder_process")
REFUSALS = (Reason.UNDECODABLE, Reason.TOO_LARGE, Reason.DECODER_FAILED)
MAX_REPLY_BYTES = 64 * 1_024  # of an answer without parts
MAX_REPLY_FIELDS = 64
MAX_REPLY_ITEMS = 4_096  # of one list
MAX_FILES = 20_000  # of one process, so that what its libraries leak is bounded
CHUNK_BYTES = 2**20


class Job(NamedTuple):
    """One file, and what is wanted of it."""

    data: bytes
    forms: Sequence[Form]


class _DiedError(Exception):
    """The process ended without an answer."""


class _LateError(Exception):
    """The process did not answer in time."""


class DecoderPool:
    """`num_processes` decoders. Any number of threads may call it; `close` ends the processes.

    A file may take `timeout_s` seconds and `memory_bytes` of a process's memory.
    """

    def __init__(
        self,
        num_processes: int,
        *,
        timeout_s: float = 20.0,
        memory_bytes: int = 2**30,
        limits: MediaLimits | None = None,
    ) -> None:
        self._setup = {
            "timeout_s": timeout_s,
            "memory_bytes": memory_bytes,
            "limits": asdict(limits or MediaLimits()),
        }
        self._timeout_s = timeout_s
        self._idle: LifoQueue[_Decoder | None] = LifoQueue()
        for _ in range(num_processes):
            self._idle.put(None)
        self._threads = ThreadPoolExecutor(num_processes, "decode")
        self._num_processes = num_processes
        self._lock = threading.Lock()
        self._running: set[_Decoder] = set()
        self._is_closed = False
        self._has_told = False
        self.num_started = 0

    def decode_all(self, jobs: Sequence[Job]) -> Iterator[tuple[list[Part | None] | ContentError, float]]:
        """One result per job, in order, and the seconds it took. Who stops listening cancels what is not begun."""
        return self._threads.map(self._decode_or_error, jobs)

    def warm_up(self) -> None:
        """Start all processes. Raises `SystemicError` if one cannot be."""
        decoders = [self._idle.get() for _ in range(self._num_processes)]
        try:
            decoders = list(self._threads.map(lambda decoder: decoder or self._start(), decoders))
        finally:
            for decoder in decoders:
                self._idle.put(decoder)

    def decode(self, job: Job) -> list[Part | None]:
        """The file in each of its forms. Raises `ContentError`; `SystemicError` if no decoder can be started."""
        decoder = self._idle.get()
        try:
            if decoder is None or decoder.num_files >= MAX_FILES or not decoder.is_alive():
                if decoder is not None:
                    self._end(decoder)
                decoder = None  # stays so if the start fails
                decoder = self._start()
            try:
                return decoder.ask(job, self._timeout_s)
            except (_DiedError, _LateError, ValueError, KeyError, TypeError) as error:
                self._end(decoder)
                decoder = None
                raise ContentError(Reason.DECODER_FAILED, _detail(error, self._timeout_s)) from error
        finally:
            self._idle.put(decoder)

    def close(self) -> None:
        """End the processes, whatever they are at. Jobs that are under way fail."""
        with self._lock:
            self._is_closed = True
            running = list(self._running)
        for decoder in running:
            decoder.kill()
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            if (decoder := self._idle.get()) is not None:  # type: ignore[assignment]
                self._end(decoder)

    def _decode_or_error(self, job: Job) -> tuple[list[Part | None] | ContentError, float]:
        started = time.monotonic()
        try:
            result: list[Part | None] | ContentError = self.decode(job)
        except ContentError as error:
            result = error
        return result, time.monotonic() - started

    def _start(self) -> _Decoder:
        with self._lock:
            self.num_started += 1
        try:
            decoder = _Decoder(self._setup)
        except (_DiedError, _LateError, OSError) as error:
            raise SystemicError(f"encode: a decoder process cannot be started: {error}") from error
        with self._lock:
            self._running.add(decoder)
            is_closed = self._is_closed
            is_news = bool(decoder.missing) and not self._has_told
            self._has_told = self._has_told or is_news
        if is_news:
            log.warning(
                "decoders of media files run with less protection than they should: %s",
                "; ".join(decoder.missing),
                extra={"action": "decoders_unconfined"},
            )
        if is_closed:  # `close` has not seen it
            decoder.kill()
        return decoder

    def _end(self, decoder: _Decoder) -> None:
        with self._lock:
            self._running.discard(decoder)
        decoder.end()


class _Decoder:
    """One process and the two pipes to it. One thread at a time."""

    def __init__(self, setup: dict[str, Any]) -> None:
        root = str(Path(__file__).parents[2])
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(os.environ, [root, *sys.path]),
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        os.set_blocking(self._in.fileno(), False)
        self.num_files = 0
        try:
            self.missing: list[str] = [str(each) for each in self._exchange(setup, DECODER_START_S)["missing"]]
            """Protections that the platform lacks."""
        except BaseException:
            self.end()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, job: Job, timeout_s: float) -> list[Part | None]:
        """Its answer, which is not trusted: what has read the files of strangers may say anything.

        Raises `ValueError`, `KeyError` or `TypeError` for one that is no answer to the job.
        """
        self.num_files += 1
        request = {"data": job.data, "forms": [form_to_plain(form) for form in job.forms]}
        max_bytes = MAX_REPLY_BYTES + sum(plain_bytes(form) for form in job.forms)
        reply = self._exchange(request, timeout_s, max_bytes)
        if "reason" in reply:
            if (reason := Reason(reply["reason"])) not in REFUSALS:
                raise ValueError("a reason that is none of a decoder's")
            raise ContentError(reason, str(reply["detail"])[:MAX_DETAIL_CHARS])
        parts = [part_from_plain(part) for part in reply["parts"]]
        if len(parts) != len(job.forms) or not all(map(answers, parts, job.forms)):
            raise ValueError("other parts than were asked for")
        return parts

    def kill(self) -> None:
        """From any thread: whoever waits for an answer learns that the process has died."""
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._in.close()
        self._out.close()

    def _exchange(self, message: dict[str, Any], timeout_s: float, max_bytes: int = MAX_REPLY_BYTES) -> dict[str, Any]:
        deadline = time.monotonic() + timeout_s
        packed: bytes = msgpack.packb(message)
        self._send(len(packed).to_bytes(LENGTH_BYTES, "little") + packed, deadline)
        length = int.from_bytes(self._receive(LENGTH_BYTES, deadline), "little")
        if length > max_bytes:
            raise ValueError(f"a reply of {length} bytes")
        reply: dict[str, Any] = msgpack.unpackb(
            self._receive(length, deadline), max_map_len=MAX_REPLY_FIELDS, max_array_len=MAX_REPLY_ITEMS
        )
        return reply

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            _await(self._in.fileno(), select.POLLOUT, deadline)
            try:
                rest = rest[os.write(self._in.fileno(), rest[:CHUNK_BYTES]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise _DiedError from error

    def _receive(self, num_bytes: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while num_bytes:
            _await(self._out.fileno(), select.POLLIN, deadline)
            part = os.read(self._out.fileno(), min(num_bytes, CHUNK_BYTES))
            if not part:
                raise _DiedError
            parts.append(part)
            num_bytes -= len(part)
        return b"".join(parts)


def _await(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise _LateError


def _detail(error: Exception, timeout_s: float) -> str:
    if isinstance(error, _LateError):
        return f"decoding takes longer than {timeout_s:g} s"
    if isinstance(error, _DiedError):
        return "the decoder crashed on the file"
    return f"the decoder answered with nonsense: {error}"
