"""Reading the dead-letter topic, and sending its records to where they came from once the cause is gone."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from schemas import DeadLetter, Reason, SchemaError, decode
from worker.errors import CallTimeoutError, ClientError, TopicError, WorkerError
from worker.kafka.patience import patience, patiently
from worker.kafka.port import ClientPort, Outbound, PartitionReader, ProducerPort
from worker.kafka.whole_topic import read_whole
from worker.printable import printable, shortened
from worker.records import Headers, Record, TopicPartition
from worker.settings import Settings

REPLAY_HEADER = "align-replayed-from"
MARK_HEADER = "align-replayed"
MARK_KEY = b"align-replayed"
REPLAY_READ_S = 30.0
_MAX_KEY_CHARS, _MAX_DETAIL_CHARS = 80, 300


@dataclass(frozen=True, slots=True)
class Stored:
    """A dead letter and where it lies."""

    partition: int
    offset: int
    letter: DeadLetter

    @property
    def position(self) -> str:
        """How `dlq show` names it."""
        return f"{self.partition}/{self.offset}"


@dataclass(frozen=True, slots=True)
class Selection:
    """Which dead letters a command is about."""

    reason: str | None = None
    topic: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None
    positions: frozenset[str] = frozenset()
    limit: int | None = None

    def includes(self, stored: Stored) -> bool:
        letter = stored.letter
        return (
            (self.reason is None or str(letter.reason) == self.reason)
            and (self.topic is None or letter.topic == self.topic)
            and (self.since_ms is None or letter.failed_at_ms >= self.since_ms)
            and (self.until_ms is None or letter.failed_at_ms < self.until_ms)
            and (not self.positions or stored.position in self.positions)
        )

    def of(self, letters: Iterable[Stored]) -> Iterator[Stored]:
        num_found = 0
        for stored in letters:
            if self.limit is not None and num_found >= self.limit:
                return
            if self.includes(stored):
                num_found += 1
                yield stored


def read_letters(client: ClientPort, topic: str) -> Iterator[Stored]:
    """Every dead letter from the beginning of the topic to its present end, partition by partition.

    What a replay sends may come back as new dead letters, in any partition: they lie behind that end, and so are not
    sent again by the same replay.
    """
    for record in read_whole(client, topic, "topics.dead_letters"):
        if stored := _stored(record):
            yield stored


def _stored(record: Record) -> Stored | None:
    if record.value is None:
        return None
    try:
        return Stored(record.partition, record.offset, decode(DeadLetter, record.value))
    except SchemaError as error:
        raise TopicError(
            f"{record.topic}/{record.partition} offset {record.offset} is not a dead letter: {error}; "
            f"check topics.dead_letters"
        ) from error


def read_replayed(client: ClientPort, topic: str) -> frozenset[tuple[int, int]]:
    """Partition and offset of the dead letters that have been replayed, as replays have marked them in the topic."""
    found: set[tuple[int, int]] = set()
    for record in read_whole(client, topic, "topics.dead_letters"):
        if record.value is None and record.key == MARK_KEY:
            for name, value in record.headers:
                if name == MARK_HEADER:
                    found.update((record.partition, offset) for offset in _offsets(value or b""))
    return frozenset(found)


def _offsets(text: bytes) -> Iterator[int]:
    for part in text.split(b","):
        if part.isdigit():
            yield int(part)


class Pending:
    """Waits for the receipts of what was sent."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._num_waiting = 0
        self._error: WorkerError | None = None

    def expect_one(self) -> None:
        with self._changed:
            self._num_waiting += 1

    def acknowledged(self, offset: int, count: int = 1) -> None:
        with self._changed:
            self._num_waiting -= count
            self._changed.notify_all()

    def failed(self, error: WorkerError) -> None:
        with self._changed:
            self._error = self._error or error
            self._num_waiting -= 1
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        with self._changed:
            done = self._changed.wait_for(lambda: self._num_waiting == 0 or self._error is not None, timeout_s)
            if self._error is not None:
                raise self._error
            if not done:
                raise CallTimeoutError(f"{self._num_waiting} records were not acknowledged")


def replay(
    client: ClientPort,
    settings: Settings,
    letters: Iterable[Stored],
    on_sent: Callable[[Stored], None],
    on_skipped: Callable[[Stored, str], None] = lambda stored, why: None,
    chunk: int = 200,
) -> int:
    """Send the original records again, to their topic and partition, with their bytes, key and headers.

    Every `chunk` of them is marked in the dead-letter topic once it is acknowledged, for `read_replayed`. What a replay
    that is interrupted has not marked yet, at most a chunk, the next one sends again. That does no harm, as a replayed
    item that has been overtaken does none: the worker's revision order drops it, and an event counts once. What the
    dead letter does not have whole is read from its log. Skipped, with the reason for people: a record with neither key
    nor value, a delete of nothing, because no cause of it can go, and the client cannot write it; what is not whole in
    the log either; and what never was a record. Returns how many were sent; on an error, `on_sent` has been called for
    exactly those that are marked.
    """
    producer = patiently("opening a producer", client.producer, *patience(settings.kafka))
    log = client.log()
    num_sent = 0
    try:
        waiting: list[Stored] = []
        pending = Pending()
        for stored in letters:
            original = _original(log, stored.letter)
            if isinstance(original, str):
                on_skipped(stored, original)
                continue
            _send(producer, stored, original, pending)
            waiting.append(stored)
            if len(waiting) >= chunk:
                num_sent += _settle(producer, pending, waiting, settings, on_sent)
        num_sent += _settle(producer, pending, waiting, settings, on_sent)
    finally:
        producer.close(1.0)
        log.close()
    return num_sent


class Original(NamedTuple):
    """The record that a dead letter was made of."""

    key: bytes | None
    value: bytes | None
    headers: Headers


def _original(log: PartitionReader, letter: DeadLetter) -> Original | str:
    """The record, or why it cannot be sent again."""
    if letter.reason == Reason.UNREADABLE:
        return "it is a batch that could not be read, and no record"
    if letter.is_whole:
        if letter.key is None and letter.value is None:
            return "it has neither key nor value"
        return Original(letter.key, letter.value, letter.original_headers)
    partition = TopicPartition(letter.topic, letter.partition)
    try:
        for records in log.read(partition, letter.offset, timeout_s=REPLAY_READ_S):
            if records[0].offset == letter.offset:
                return Original(records[0].key, records[0].value, records[0].headers)
            break
    except ClientError as error:
        return f"it is not whole, and the log cannot be read: {error.one_line()}"
    return "it is not whole, and the log no longer has the record"


def _send(producer: ProducerPort, stored: Stored, original: Original, pending: Pending) -> None:
    letter = stored.letter
    headers = [(name, value) for name, value in original.headers if name != REPLAY_HEADER]
    headers.append((REPLAY_HEADER, stored.position.encode()))
    pending.expect_one()
    producer.send([Outbound(letter.topic, letter.partition, original.key, original.value, headers, pending)])


def _settle(
    producer: ProducerPort,
    pending: Pending,
    waiting: list[Stored],
    settings: Settings,
    on_sent: Callable[[Stored], None],
) -> int:
    timeout_s = settings.kafka.delivery_timeout_ms / 1000 + 1
    pending.wait(timeout_s)
    _mark(producer, pending, waiting, settings.topics.dead_letters)
    pending.wait(timeout_s)
    for stored in waiting:
        on_sent(stored)
    num_settled = len(waiting)
    waiting.clear()
    return num_settled


def _mark(producer: ProducerPort, pending: Pending, replayed: Sequence[Stored], topic: str) -> None:
    """Note what was replayed where it lies: a record without a value, which is kept as long as the letters are, and
    which readers of dead letters pass by."""
    offsets: dict[int, list[int]] = {}
    for stored in replayed:
        offsets.setdefault(stored.partition, []).append(stored.offset)
    for partition, those in offsets.items():
        header = (MARK_HEADER, ",".join(map(str, those)).encode())
        pending.expect_one()
        producer.send([Outbound(topic, partition, MARK_KEY, None, [header], pending)])


def summary(stored: Stored) -> dict[str, Any]:
    """Describe a dead letter without its bytes."""
    letter = stored.letter
    return {
        "position": stored.position,
        "failed_at": _rfc3339(letter.failed_at_ms),
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": _text(letter.key),
        "num_bytes": len(letter.value or b"") if letter.is_whole else letter.original_bytes,
        "is_whole": letter.is_whole,
        "reason": str(letter.reason),
        "stage": letter.stage,
        "detail": letter.detail,
    }


def full(stored: Stored) -> dict[str, Any]:
    """All of a dead letter; bytes in base64."""
    letter = stored.letter
    return {
        **summary(stored),
        "timestamp": _rfc3339(letter.timestamp),
        "worker_version": letter.worker_version,
        "space_id": letter.space_id,
        "headers": [[name, _base64(value)] for name, value in letter.headers],
        "header_names": [None if name is None else _base64(name) for name in letter.header_names or ()],
        "value_sha256": None if letter.value_sha256 is None else letter.value_sha256.hex(),
        "key_base64": _base64(letter.key),
        "value_base64": _base64(letter.value),
    }


def one_line(stored: Stored) -> str:
    """A dead letter on one line of a terminal, whatever strangers wrote into it."""
    told = summary(stored)
    key = "null" if told["key"] is None else shortened(told["key"], _MAX_KEY_CHARS)
    return printable(
        f"{told['position']:>8}  {told['failed_at']}  {told['topic']}/{told['partition']}@{told['offset']}  "
        f"{told['reason']:<20} key={key}  {shortened(' '.join(told['detail'].split()), _MAX_DETAIL_CHARS)}"
    )


def readable(stored: Stored) -> str:
    """A dead letter for a person: its story, then its bytes as a hex dump."""
    told = full(stored)
    lines = [
        f"{name:<15} {printable(str(value))}"
        for name, value in told.items()
        if name != "headers" and not name.endswith("base64")
    ]
    lines += [f"{'header':<15} {printable(name)}={_shown(value)}" for name, value in stored.letter.headers]
    return "\n".join([*lines, "value", *hex_dump(stored.letter.value or b""), ""])


def _shown(value: bytes | None) -> str:
    return "null" if value is None else shortened(value.decode(errors="backslashreplace"))


def hex_dump(data: bytes, width: int = 16) -> list[str]:
    """Offset, bytes and printable characters, `width` bytes a line."""
    return [
        f"  {start:08x}  {data[start : start + width].hex(' '):<{3 * width}} "
        + "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data[start : start + width])
        for start in range(0, len(data), width)
    ]


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _text(key: bytes | None) -> str | None:
    return None if key is None else key.decode(errors="backslashreplace")


def _rfc3339(ms: int) -> str:
    """A record's timestamp can be any number; one that is no time is shown as it is."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"
