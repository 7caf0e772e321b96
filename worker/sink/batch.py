"""Batches that wait for the writer: of the records of one row in a batch the newest counts. Pure, but for a lock.

Batches are written in the order in which they were opened, one at a time. So a batch that is done says how far each of
its partitions is done.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from worker.records import Record, Rejection, TopicPartition
from worker.sink.row import Collection, Entity, Row, is_newer


@dataclass(slots=True, eq=False)
class Hold:
    """One unbroken stretch of work on a partition."""

    partition: TopicPartition
    entity: Entity
    log: str
    """Id of the topic."""
    next_offset: int | None = None
    """Offset of the next record to take; None until it is known where to begin."""
    done: int = 0
    """All before it is done."""
    committed: int = 0
    is_live: bool = True


@dataclass(slots=True, eq=False)
class Batch:
    rows: list[tuple[Hold, Record, Row]] = field(default_factory=list)
    rejections: list[tuple[Hold, Rejection]] = field(default_factory=list)
    ends: dict[Hold, int] = field(default_factory=dict)
    """Behind the last record of each partition."""
    num_records: dict[Hold, int] = field(default_factory=dict)
    timestamps: dict[Entity, list[int]] = field(default_factory=dict)
    """Times at which the records were appended."""

    @property
    def size(self) -> int:
        return len(self.rows) + len(self.rejections)


@dataclass(slots=True)
class Counts:
    """Counts of the records of one kind in a batch, by outcome. They add up to the records."""

    consumed: int = 0
    upserts: int = 0
    tombstones: int = 0
    same_batch: int = 0
    stale: int = 0
    rejected: list[Rejection] = field(default_factory=list)
    abandoned: int = 0


class Pending:
    """Filled by the poll thread, emptied by the writer."""

    def __init__(self, max_records: int, max_batches: int) -> None:
        self._max_records, self._max_batches = max_records, max_batches
        self._batches: deque[Batch] = deque()
        self._changed = threading.Condition()
        self._done: deque[tuple[Batch, Mapping[Entity, Counts]]] = deque()
        self.in_work: Batch | None = None
        self.is_closed = False

    def add(self, hold: Hold, records: Sequence[Record], entries: Sequence[Row | Rejection]) -> None:
        """Consecutive records of a partition, and what each asks for."""
        with self._changed:
            for record, entry in zip(records, entries, strict=True):
                if not self._batches or self._batches[-1].size >= self._max_records:
                    self._batches.append(Batch())
                batch = self._batches[-1]
                if isinstance(entry, Rejection):
                    batch.rejections.append((hold, entry))
                else:
                    batch.rows.append((hold, record, entry))
                batch.num_records[hold] = batch.num_records.get(hold, 0) + 1
                batch.timestamps.setdefault(hold.entity, []).append(record.timestamp)
                batch.ends[hold] = record.offset + 1
            self._changed.notify_all()

    def is_full(self) -> bool:
        with self._changed:
            return len(self._batches) >= self._max_batches

    @property
    def num_records(self) -> int:
        """Taken and not done."""
        with self._changed:
            batches = [*self._batches, *((self.in_work,) if self.in_work is not None else ())]
            return sum(sum(batch.num_records.values()) for batch in batches)

    def take(self, timeout_s: float) -> Batch | None:
        """Writer's thread."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self.is_closed, timeout_s)
            self.in_work = self._batches.popleft() if self._batches else None
            return self.in_work

    def finish(self, batch: Batch, counts: Mapping[Entity, Counts]) -> None:
        """Writer's thread."""
        with self._changed:
            self._done.append((batch, counts))
            self.in_work = None
            self._changed.notify_all()

    def take_done(self) -> list[tuple[Batch, Mapping[Entity, Counts]]]:
        with self._changed:
            done = list(self._done)
            self._done.clear()
            return done

    def wait_until_done(self, holds: Iterable[Hold] | None, timeout_s: float) -> bool:
        """Whether nothing of these partitions (None: of any) is left within the time."""
        asked = None if holds is None else set(map(id, holds))

        def is_left(batch: Batch) -> bool:
            return asked is None or any(id(hold) in asked for hold in batch.ends)

        with self._changed:
            return self._changed.wait_for(
                lambda: (
                    not any(is_left(batch) for batch in [*self._batches, *([self.in_work] if self.in_work else [])])
                ),
                timeout_s,
            )

    def close(self) -> None:
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def folded(rows: Iterable[Row]) -> dict[str, Row]:
    """The newest of each id."""
    newest: dict[str, Row] = {}
    for row in rows:
        known = newest.get(row.id)
        if known is None or is_newer(row.place, known.place, is_deleted=row.is_deleted, was_deleted=known.is_deleted):
            newest[row.id] = row
    return newest


def by_collection(rows: Sequence[Row], existing: Sequence[Collection]) -> dict[Collection, list[Row]]:
    """Rows for each collection: the newest of each id, deletions included, which hold for all of them."""
    collections = dict.fromkeys([*existing, *(row.collection for row in rows if row.collection is not None)])
    found = {
        collection: list(folded(row for row in rows if row.collection in (None, collection)).values())
        for collection in collections
    }
    return {collection: told for collection, told in found.items() if told}
