"""The values that stages hand to one another. None knows Kafka's client, torch or the loop.

All are named tuples: frozen dataclasses take three times as long to make, and every input makes several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from schemas import AnyFeature, AttributeValue, Content, Reason

if TYPE_CHECKING:  # records are also for commands that have no use for torch
    from worker.align.history import Event

Headers = Sequence[tuple[str, bytes | None]]
"""A name that is not UTF-8 has its odd bytes as `surrogateescape` writes them."""


class TopicPartition(NamedTuple):
    """A partition of a topic. Equal, and hashes equal, to any other (topic, partition) tuple."""

    topic: str
    partition: int


class Record(Protocol):
    """One message as the client returned it. The client's own record type satisfies this without conversion."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Kafka timestamp, milliseconds since the epoch, UTC."""
        ...

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Headers: ...


class OversizedRecord(NamedTuple):
    """A record too large to be kept in memory: all of it but the value, and a key or headers that are large, too.

    It is a `Record`, without being a delete.
    """

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: None
    headers: Headers
    num_bytes: int
    """Size of the whole record."""
    value_bytes: int
    """Size of its value; -1 where it has none."""
    value_sha256: bytes | None


class KeyedRecord(NamedTuple):
    """A record under the id of its item or user, where its own key holds that in another form. It is a `Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes
    value: bytes | None
    headers: Headers
    original: Record


def as_read(record: Record) -> Record:
    """The record as it lies in the log."""
    return record.original if isinstance(record, KeyedRecord) else record


class RawContent(NamedTuple):
    """Raw content of an item, to be encoded."""

    content: Mapping[str, Content]
    modalities: Sequence[str]
    """Those that are to be made."""


class RecomputeTrigger(NamedTuple):
    """Stands in for the record that a recomputation has not got."""

    topic: str
    partition: int
    timestamp: int
    key: bytes
    offset: int = -1
    """Offset of the newest message in what is computed anew, where its output has to name one."""
    value: bytes | None = None
    headers: Headers = ()


class Notice(NamedTuple):
    """Something that a person should know of."""

    kind: str
    """One of `status.IncidentStatus`."""
    detail: str


class State(Protocol):
    """The state of an item or a user."""

    def encode(self) -> bytes: ...


class Item(NamedTuple):
    """An item message whose features the space accepts; past the gate, the item as it stands after it."""

    record: Record
    id: str
    revision: int
    event_time_ms: int
    features: Mapping[str, AnyFeature]
    """Accepted features by modality; at least one, unless there is content to make them of."""
    partial: bool = False
    state: State | None = None
    """State of the item with this input merged in. None until it is accepted."""
    is_overtaken: bool = False
    """An earlier owner has published a newer state already: this one is only remembered."""
    raw: RawContent | None = None
    """None once it has been encoded."""
    digests: Mapping[str, bytes] | None = None
    """Digests of the content behind features that were encoded here."""
    neighbors: Sequence[str] = ()
    """Those that the message names, in a space with graph fusion. Past the gate the state has them."""
    at: int | None = None
    """Its place (`InputLog.at`). None before the gate."""
    attributes: Mapping[str, AttributeValue] = {}
    """Those that the message brings. Past the gate the state has them."""
    has_vector: bool = False
    """Only attributes have changed: the state has the vector that it has been published with."""
    message: bytes | None = None
    """The bytes of a whole message that brings features alone, and brings them as they are here."""

    @property
    def is_record(self) -> bool:
        return True

    @property
    def needs_vector(self) -> bool:
        return not (self.is_overtaken or self.has_vector)


class Delete(NamedTuple):
    """A null value: the item is gone, and its vector goes with it."""

    record: Record
    id: str
    is_overtaken: bool = False
    at: int | None = None
    """Trigger, as of an `Item`."""

    @property
    def is_record(self) -> bool:
        return True

    @property
    def needs_vector(self) -> bool:
        return False


class Action(NamedTuple):
    """An event of a user, of a type that counts."""

    record: Record
    id: str
    """The user."""
    event: Event


class User(NamedTuple):
    """A user whose vector is to be computed anew, because of an event."""

    record: Record
    id: str
    event_time_ms: int
    """Time of the event."""
    state: State

    @property
    def is_overtaken(self) -> bool:
        return False

    @property
    def is_record(self) -> bool:
        return True

    @property
    def needs_vector(self) -> bool:
        return True


class Relayed(NamedTuple):
    """A foreign record as a message of the contract, to be written to another topic under the id that it has there."""

    record: Record
    id: str
    """Its place in its partition: no two of a batch stand for one another."""
    key: bytes
    value: bytes | None
    """None: the item is deleted."""
    event_time_ms: int
    state: None = None

    @property
    def is_overtaken(self) -> bool:
        return False

    @property
    def is_record(self) -> bool:
        return True

    @property
    def needs_vector(self) -> bool:
        return False


class Recompute(NamedTuple):
    """The same, of a user or of an item with neighbours, because of an item's vector: no record of the input stands
    behind it, and nothing new is remembered."""

    record: RecomputeTrigger
    id: str
    state: State

    @property
    def is_overtaken(self) -> bool:
        return False

    @property
    def is_record(self) -> bool:
        return False

    @property
    def needs_vector(self) -> bool:
        return True


class Backfilled(NamedTuple):
    """What is remembered of an item or a user, to be published in the next space alone. No record stands behind it."""

    record: RecomputeTrigger
    id: str
    state: State | None
    """None: it is gone, and the next space has it still."""
    place: int = -1
    """How far the backfill has come with it; -1 for one that is out of its order."""

    @property
    def is_overtaken(self) -> bool:
        return False

    @property
    def is_record(self) -> bool:
        return False

    @property
    def needs_vector(self) -> bool:
        return False


class Rejection(NamedTuple):
    """A record that cannot be processed, and why. It becomes a dead letter."""

    record: Record
    reason: Reason
    stage: str
    detail: str


class Unused(NamedTuple):
    """A partial message that brings nothing of use: no news of an item that is known, and where none is, nothing to
    make one of."""

    record: Record
    id: str
    rejection: Rejection
    """The entry to use where the item is not known."""


class Superseded(NamedTuple):
    """An input for which nothing is published."""

    record: Record
    reason: str = "stale_revision"
    """One of `accounting.SUPERSEDED_REASONS`."""


Decoded = Item | Delete | Action | Unused | Relayed | Rejection | Superseded
Change = Item | Delete | User | Relayed | Recompute | Backfilled
"""Entries that become outputs. Each says whether it stands for a record of the input (`is_record`), whether its output
is a vector that is to be computed (`needs_vector`), and whether a newer one has been published before
(`is_overtaken`)."""
Entry = Change | Rejection | Superseded
