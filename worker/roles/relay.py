"""The relay: records of foreign topics to messages on the topics of items and events, under the keys they have there.

It computes nothing and remembers nothing. Commits, transactions, leases, dead letters and back-pressure are the loop's,
as for the other roles. Outputs of one partition are written in the order of its records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from schemas import DEFAULT_LIMITS, NewItem, Reason, SchemaError, UserEvent, decode
from worker.errors import SystemicError, UnreadableError
from worker.item_vectors.dependents import Dependents
from worker.kafka.port import Outbound, PartitionReader
from worker.mapping.items import Deletion, Skipped
from worker.mapping.registry import AwaitedError
from worker.mapping.source import EventSource, ItemSource
from worker.monitoring.metrics import Metrics
from worker.partitions.batch_slice import Receipt
from worker.partitions.tenure import Tenure
from worker.records import (
    Change,
    Decoded,
    Entry,
    Notice,
    OversizedRecord,
    Record,
    Rejection,
    Relayed,
    State,
    Superseded,
)
from worker.stages.decode import DecodedRecords, too_large, wrong_time
from worker.stages.fuse import Result, Vector
from worker.stages.stage import Stage, Watched
from worker.stages.trace import carried_headers
from worker.state.overlay import StateOverlay
from worker.topics import RoleTopics

STAGE = "relay"


class Message(Protocol):
    """A message of the contract, and its bytes."""

    @property
    def key(self) -> bytes: ...
    @property
    def event_time_ms(self) -> int: ...


Translated = tuple[Message, bytes] | Deletion | Skipped


class Translator(Protocol):
    def __call__(self, record: Record) -> Translated:
        """Map a record. Raises `SchemaError`."""
        ...


def items_translator(source: ItemSource | None) -> Translator:
    """Without a `source` records hold messages of the contract: only their keys are made anew."""

    def translate(record: Record) -> Translated:
        if source is None:
            if record.value is None:
                return Deletion(_key_text(record))
            return decode(NewItem, record.value), record.value
        found = source.read(record)
        if isinstance(found, Deletion | Skipped):
            return found
        return source.mapping.item(found), source.packed(found)

    return translate


def events_translator(source: EventSource | None) -> Translator:
    """The same for events."""

    def translate(record: Record) -> Translated:
        if source is None:
            if record.value is None:
                raise SchemaError(Reason.INVALID_FIELD, "", "an event cannot be deleted: the record has no value")
            return decode(UserEvent, record.value), record.value
        found = source.read(record)
        if isinstance(found, Skipped):
            return found
        return source.mapping.event(found), source.packed(found)

    return translate


def _key_text(record: Record) -> str:
    try:
        return (record.key or b"").decode()
    except UnicodeDecodeError:
        raise SchemaError(Reason.KEY_MISMATCH, "", "a delete's key must be an item_id in UTF-8") from None


@dataclass(frozen=True, slots=True)
class RelayFormat:
    """How messages are written."""

    topics: RoleTopics
    space_id: None = None

    @property
    def dead_letter_topic(self) -> str:
        return self.topics.dead_letters

    @property
    def state_topic(self) -> str:
        return self.topics.state

    def output(self, entry: Change, vector: Vector | None, now_ms: int, receipt: Receipt) -> Outbound | None:
        assert isinstance(entry, Relayed)
        headers = carried_headers(entry.record)
        return Outbound(self.topics.outputs, None, entry.key, entry.value, headers, receipt)

    def change(self, entry: Change, vector: Vector | None, receipt: Receipt) -> Outbound | None:
        return None


class NoModel:
    """Implements `Embedder` for what has no vectors."""

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        raise SystemicError("a relay has no model")

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None:
        return


class RelayRole:
    """Implements `Role`."""

    encoding = None
    recomputes_in_backlog = True
    can_recompute_all = False
    watch = None

    def __init__(self, topics: RoleTopics, translate: Translator, max_future_s: float) -> None:
        """`max_future_s`: see `wrong_time`."""
        self.topics = topics
        self.output = RelayFormat(topics)
        self.embedder = NoModel()
        self.stages: Sequence[Stage] = ()
        self._translate = translate
        self._max_future_ms = round(max_future_s * 1000)

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        decoded = DecodedRecords()
        try:
            for record in records:
                decoded.entries.append(self._decode_one(record))
        except AwaitedError as error:
            decoded.awaits = error.lookup
        return decoded

    def _decode_one(self, record: Record) -> Decoded:
        if isinstance(record, OversizedRecord):
            return too_large(record)
        try:
            found = self._translate(record)
            if isinstance(found, Skipped):
                return Superseded(record, "skipped")
            if isinstance(found, Deletion):
                key, value, time_ms = _checked_key(found.item_id), None, max(0, record.timestamp)
            else:
                message, value = found
                key, time_ms = message.key, message.event_time_ms
                if (rejection := wrong_time(record, time_ms, self._max_future_ms)) is not None:
                    return rejection
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        return Relayed(record, str(record.offset), key, value, time_ms)

    def accept(self, entries: Sequence[Decoded], overlay: StateOverlay[Any]) -> list[Entry]:
        return list(entries)  # type: ignore[arg-type]  # this half decodes nothing that waits for a memory

    def decode_state(self, value: bytes) -> State:
        raise SystemicError("a relay remembers nothing")

    def look_back(
        self, tenure: Tenure, overlay: StateOverlay[Any], log: PartitionReader, watched: Watched, *, is_whole: bool
    ) -> int:
        return -1

    def restore_extra(self, tenure: Tenure, overlay: StateOverlay[Any], watched: Watched) -> Collection[str]:
        return ()

    def recompute(self, keys: Collection[str], partition: int, overlay: StateOverlay[Any]) -> list[Entry]:
        return []

    def newly_due(self) -> Mapping[int, Collection[str]]:
        return {}

    def wait_in_next(self, dependents: Dependents | None) -> None:
        return

    def forget(self, partition: int) -> None:
        return

    def is_ready(self) -> bool:
        return True

    def is_up_to_date(self) -> bool:
        return True

    def notices(self) -> Sequence[Notice]:
        return []

    def unreadable(self) -> Sequence[UnreadableError]:
        return ()

    def status(self) -> Mapping[str, int]:
        return {}

    def export(self, metrics: Metrics) -> None:
        return

    def close(self) -> None:
        return


def _checked_key(item_id: str) -> bytes:
    if not 0 < len(item_id) <= DEFAULT_LIMITS.id_chars:
        raise SchemaError(
            Reason.KEY_MISMATCH, "item_id", f"of a delete must have 1 to {DEFAULT_LIMITS.id_chars} characters"
        )
    return item_id.encode()
