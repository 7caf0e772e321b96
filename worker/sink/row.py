"""Rows that the records of a vector topic ask an index for, and which of two is the newer. Pure.

Within a partition the source offset says it, and of equal ones the place in the log; what has no source offset counts
as it lies in the log. A key in two partitions is a producer's fault: see schemas/README.md, Order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas import AttributeValue, ItemVector, Reason, SchemaError, UserVector, decode_vector
from worker.item_vectors.source_offset import of_deletion
from worker.records import OversizedRecord, Record, Rejection

Entity = Literal["items", "users"]
STAGE = "sink"
NO_SOURCE = -1
NAMES: dict[Entity, str] = {"items": "item_vectors", "users": "user_vectors"}


class Place(NamedTuple):
    """Where a row comes from."""

    log: str
    """Id of the topic: offsets of another log of its name say nothing of it."""
    partition: int
    source_offset: int | None
    """Offset of the input, for a vector of an item."""
    offset: int
    made_at_ms: int
    """When it was computed; of a deletion, when it was written."""
    revision: int = 0


class Collection(NamedTuple):
    """Vectors that can be compared with each other: one table, or the like."""

    entity: Entity
    space_id: str
    dim: int

    @property
    def name(self) -> str:
        """Fit for the name of a table or a collection of any kind of index: short, and of few characters."""
        is_plain = re.fullmatch(r"[a-z0-9_]{1,24}", self.space_id) is not None
        space = self.space_id if is_plain else blake2b(self.space_id.encode(), digest_size=8).hexdigest()
        return f"{NAMES[self.entity]}_{space}"


class Row(NamedTuple):
    """A vector, or a deletion, of one item or user."""

    id: str
    place: Place
    collection: Collection | None
    """None of a deletion, which holds for the item in every space."""
    vector: NDArray[np.float32] | None = None
    """None of a deletion."""
    event_time_ms: int = 0
    modalities: Sequence[str] = ()
    prior: float | None = None
    attributes: Mapping[str, AttributeValue] = {}
    num_events: int = 0
    """Number of events, for a user."""

    @property
    def is_deleted(self) -> bool:
        return self.vector is None


def is_newer(found: Place, known: Place, *, is_deleted: bool, was_deleted: bool) -> bool:
    """Whether a row counts that is found where another one is known. The same record again does not."""
    if found.partition != known.partition:
        if is_deleted or was_deleted:
            return found.made_at_ms >= known.made_at_ms
        return (found.revision, found.made_at_ms) >= (known.revision, known.made_at_ms)
    before = NO_SOURCE if known.source_offset is None else known.source_offset
    source = before if found.source_offset is None else found.source_offset
    if source != before:
        return source > before
    if found.log == known.log:
        return found.offset > known.offset
    return found.made_at_ms >= known.made_at_ms


def _decoded(entity: Entity, value: bytes) -> ItemVector | UserVector:
    return decode_vector(ItemVector, value) if entity == "items" else decode_vector(UserVector, value)


def read_row(record: Record, entity: Entity, log: str) -> Row | Rejection:
    """The row that a record asks for; a rejection where it is no vector."""
    try:
        row_id = (record.key or b"").decode()
        if record.value is None:
            if isinstance(record, OversizedRecord):
                return Rejection(record, Reason.TOO_LARGE, STAGE, "the record is larger than kafka.max_record_bytes")
            if not row_id:
                return Rejection(record, Reason.KEY_MISMATCH, STAGE, "a deletion needs the id for a key")
            source = of_deletion(record)
            return Row(row_id, Place(log, record.partition, source, record.offset, max(0, record.timestamp)), None)
        message = _decoded(entity, record.value)
    except SchemaError as error:
        return Rejection(record, error.reason, STAGE, str(error))
    except ValueError as error:
        return Rejection(record, Reason.KEY_MISMATCH, STAGE, f"key or source offset: {error}")
    if message.key != record.key:
        return Rejection(record, Reason.KEY_MISMATCH, STAGE, "the record's key is not the id in the message")
    collection = Collection(entity, message.space_id, message.vector.dims)
    vector = message.vector.to_numpy().astype(np.float32, copy=False)
    made_at_ms = message.produced_at_ms
    if isinstance(message, UserVector):
        place = Place(log, record.partition, None, record.offset, made_at_ms)
        return Row(row_id, place, collection, vector, message.event_time_ms, num_events=message.num_events)
    place = Place(log, record.partition, message.source_offset, record.offset, made_at_ms, message.revision)
    return Row(
        row_id, place, collection, vector, message.event_time_ms, message.modalities, message.prior, message.attributes
    )
