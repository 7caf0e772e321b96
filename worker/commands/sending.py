"""Messages in files to their topics: in order, acknowledged, at a rate, and on from where an earlier run was broken
off."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from schemas import NewItem, UserEvent
from worker.commands.dead_letters import Pending
from worker.data.files import first_fields, read_encoded
from worker.data.progress import counted
from worker.errors import DataError, TopicError
from worker.json_text import read_json
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Outbound, ProducerPort
from worker.printable import shortened
from worker.settings import Settings

CHUNK = 500
CHUNKS_WAITING = 8
"""Chunks sent and not acknowledged."""
NOTE_SUFFIX = ".sent"

Kind = Literal["items", "events"]


@dataclass(frozen=True, slots=True)
class ToSend:
    """A file, and where its messages go."""

    path: Path
    kind: Kind
    topic: str

    def messages(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and bytes of each, checked. Raises `DataError`."""
        kind: type[NewItem] | type[UserEvent] = NewItem if self.kind == "items" else UserEvent
        for message, data in read_encoded(kind, self.path):
            yield message.key, data


def check(paths: Sequence[Path], settings: Settings) -> list[ToSend]:
    """Tell by its first message what each file holds. Raises `DataError`."""
    return [_checked(path, settings) for path in paths]


def _checked(path: Path, settings: Settings) -> ToSend:
    fields = first_fields(path)
    if "vector" in fields:
        raise DataError(f"{path}: holds vectors, which only a worker makes; files of items and of events can be sent")
    if "event_id" in fields:
        return ToSend(path, "events", settings.topics.events)
    if "item_id" in fields:
        return ToSend(path, "items", settings.topics.items)
    raise DataError(f"{path}: holds neither items nor events: its first message has {_named(fields)}")


def _named(fields: Mapping[str, Any]) -> str:
    return shortened(", ".join(map(str, list(fields)[:8]))) or "no fields"


def send_files(
    files: Sequence[ToSend],
    client: ClientPort | None,
    settings: Settings,
    *,
    rate: float | None = None,
    again: bool = False,
    tell: Callable[[str], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Send them one after the other; without a client, only read and check them. Returns what was done, fit for JSON.

    How far a file has been sent and acknowledged stands in a note beside it, so that the next run goes on from there:
    what comes twice after a crash is at most what was under way, and newer wins over it.
    """
    producer: ProducerPort | None = None
    limits: dict[str, int] = {}
    if client is not None:
        limits = _limits(client, files, settings)
        producer = patiently("opening a producer", client.producer, *patience(settings.kafka))
    pace = _Pace(rate, clock, sleep)
    done: list[dict[str, Any]] = []
    try:
        for file in files:
            note = _Note.beside(file)
            start = 0 if again or producer is None else note.read()
            if start:
                tell(f"{file.path}: {start:,} messages have been sent before: going on behind them (--again sends all)")
            sent = _send_one(file, start, producer, limits.get(file.topic), settings, pace, note, tell)
            done.append({"file": str(file.path), "kind": file.kind, "topic": file.topic, "sent": sent, "before": start})
    finally:
        if producer is not None:
            producer.close(2.0)
    return {"files": done}


def _limits(client: ClientPort, files: Sequence[ToSend], settings: Settings) -> dict[str, int]:
    """How large a record each topic takes. Raises `TopicError` for one that is missing: nothing is sent then."""
    topics = {file.topic for file in files}
    described = patiently("asking for topics", lambda: client.describe_topics(list(topics)), *patience(settings.kafka))
    for file in files:
        if file.topic not in described:
            raise TopicError(
                f"topics.{file.kind}: topic {file.topic!r} does not exist (make it with `align-worker topics create`)"
            )
    return {name: found.max_message_bytes for name, found in described.items()}


def _send_one(
    file: ToSend,
    start: int,
    producer: ProducerPort | None,
    limit: int | None,
    settings: Settings,
    pace: _Pace,
    note: _Note,
    tell: Callable[[str], None],
) -> int:
    timeout_s = settings.kafka.delivery_timeout_ms / 1000 + 1
    waiting: deque[tuple[Pending, int]] = deque()
    chunk: list[Outbound] = []
    pending = Pending()
    number = sent = 0

    def flush() -> None:
        nonlocal chunk, pending
        if not chunk:
            return
        if producer is not None:
            producer.send(chunk)
            waiting.append((pending, number))
        chunk, pending = [], Pending()

    def settle(keep: int) -> None:
        while len(waiting) > keep:
            oldest, reached = waiting.popleft()
            oldest.wait(timeout_s)
            note.write(reached, tell)

    for number, (key, data) in enumerate(counted(file.messages(), file.kind), start=1):
        if number <= start:
            continue
        outbound = Outbound(file.topic, None, key, data, (), pending)
        if limit is not None and outbound.num_bytes() > limit:
            raise DataError(
                f"{file.path}: message {number} has {outbound.num_bytes()} bytes, and topic {file.topic} takes {limit} "
                "(max.message.bytes): raise that"
            )
        if producer is not None:
            pending.expect_one()
            pace.wait()
        chunk.append(outbound)
        sent += 1
        if len(chunk) >= CHUNK:
            flush()
            settle(CHUNKS_WAITING)
    flush()
    settle(0)
    return sent


class _Pace:
    """No more than so many a second, counted from the first."""

    def __init__(self, rate: float | None, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._rate, self._clock, self._sleep = rate, clock, sleep
        self._began_at: float | None = None
        self._count = 0

    def wait(self) -> None:
        if self._rate is None:
            return
        now = self._clock()
        if self._began_at is None:
            self._began_at = now
        ahead_s = self._began_at + self._count / self._rate - now
        self._count += 1
        if ahead_s > 0:
            self._sleep(ahead_s)


@dataclass(slots=True)
class _Note:
    """How many messages of a file have been acknowledged. It counts for that file and topic alone."""

    path: Path
    about: Mapping[str, Any]
    is_refused: bool = False

    @classmethod
    def beside(cls, file: ToSend) -> _Note:
        found = file.path.stat()
        about = {"topic": file.topic, "bytes": found.st_size, "modified_ns": found.st_mtime_ns}
        return cls(file.path.with_name(file.path.name + NOTE_SUFFIX), about)

    def read(self) -> int:
        try:
            note = read_json(self.path.read_text())
            return int(note["sent"]) if {name: note.get(name) for name in self.about} == self.about else 0
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return 0

    def write(self, sent: int, tell: Callable[[str], None]) -> None:
        if self.is_refused:
            return
        unfinished = self.path.with_name(f"{self.path.name}.part")
        try:
            unfinished.write_text(json.dumps({**self.about, "sent": sent}))
            os.replace(unfinished, self.path)
        except OSError as error:
            self.is_refused = True
            tell(f"{self.path}: cannot be written ({error.strerror}): a run that is broken off begins anew")
            with suppress(OSError):
                unfinished.unlink()
