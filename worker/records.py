"""The values that stages hand to one another. All are frozen; none knows Kafka's client, torch or the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from schemas import Feature, Reason

Headers = Sequence[tuple[str, bytes | None]]


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


@dataclass(frozen=True, slots=True)
class Item:
    """A decoded item message whose features the space accepts."""

    record: Record
    item_id: str
    revision: int
    event_time_ms: int
    features: Mapping[str, Feature]
    """Accepted features by modality; at least one."""


@dataclass(frozen=True, slots=True)
class Delete:
    """A null value: the item is gone, and its vector goes with it."""

    record: Record
    item_id: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """A record that cannot be processed, and why. It becomes a dead letter."""

    record: Record
    reason: Reason
    stage: str
    detail: str


@dataclass(frozen=True, slots=True)
class Superseded:
    """An input that a newer one of the same item has overtaken: nothing is published for it."""

    record: Record


Decoded = Item | Delete | Rejection
Entry = Item | Delete | Rejection | Superseded
