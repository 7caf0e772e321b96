"""Micro-batches: which records are computed together, and when a batch is closed. No clock, no threads.

A batch is what waits when compute is free. It is held open to fill only while more is on its way, that is, while the
log has more: until it is full (records or bytes), or its oldest record is old enough. In live mode age counts from the
record's Kafka timestamp, so time spent in the log is not added to; in backlog mode it counts from arrival, so that
batches fill while there is a log to catch up with.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Tenure
from worker.records import Entry
from worker.settings import BatchSettings

BACKLOG_MAX_WAIT_MS = 200  # a backlog that ends without notice must not hold its last batch


class MicroBatch(NamedTuple):
    """Records computed together. Every record is in exactly one slice."""

    slices: list[BatchSlice]
    reason: str
    """Why it was closed: one of `metrics.CLOSE_REASONS`."""
    oldest_ms: float
    """When its oldest record was appended, or arrived if that is earlier."""
    num_outputs: int


@dataclass(slots=True)
class _Chunk:
    """Consecutive records of one tenure, as they came from one poll."""

    tenure: Tenure
    entries: Sequence[Entry]
    arrived_ms: float
    num_bytes: int
    start: int = 0

    def origin_ms(self, *, backlog: bool) -> float:
        """From when the oldest record's age counts. A timestamp in the future counts as now."""
        if backlog:
            return self.arrived_ms
        return min(self.entries[self.start].record.timestamp, self.arrived_ms)


class MicroBatcher:
    """Holds records in order and cuts batches from the front."""

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._chunks: deque[_Chunk] = deque()
        self.num_records = 0
        self.num_bytes = 0

    def add(self, tenure: Tenure, entries: Sequence[Entry], now_ms: float) -> None:
        """Append consecutive records of a tenure."""
        if entries:
            num_bytes = sum(len(entry.record.value or b"") for entry in entries)
            self._chunks.append(_Chunk(tenure, entries, now_ms, num_bytes))
            self.num_records += len(entries)
            self.num_bytes += num_bytes

    def due_reason(
        self, now_ms: float, *, backlog: bool, more_is_coming: bool = True, draining: bool = False
    ) -> str | None:
        """Why a batch should be taken now, by whoever is free to compute it, or None."""
        if not self._chunks:
            return None
        if self.num_records >= self._settings.max_records:
            return "full"
        if self.num_bytes >= self._settings.max_bytes:
            return "bytes"
        if draining:
            return "drain"
        if not more_is_coming:
            return "idle"
        return "age" if self.wait_ms(now_ms, backlog=backlog) <= 0 else None

    def wait_ms(self, now_ms: float, *, backlog: bool) -> float:
        """Until the oldest record's age closes the batch. Only with records waiting."""
        max_age_ms = max(BACKLOG_MAX_WAIT_MS, self._settings.max_age_ms) if backlog else self._settings.max_age_ms
        return min(chunk.origin_ms(backlog=backlog) for chunk in self._chunks) + max_age_ms - now_ms

    def take(self, reason: str) -> MicroBatch:
        """Cut the next batch: at most `max_records` outputs and about `max_bytes`, in order.

        Inputs of one item that meet in a batch become one output, the newest.
        """
        slices: dict[Tenure, BatchSlice] = {}
        num_outputs, num_bytes, oldest_ms = 0, 0, float("inf")
        max_records, max_bytes = self._settings.max_records, self._settings.max_bytes
        while self._chunks and num_outputs < max_records and num_bytes < max_bytes:
            chunk = self._chunks[0]
            oldest_ms = min(oldest_ms, chunk.origin_ms(backlog=False))
            if (opened := slices.get(chunk.tenure)) is None:
                opened = slices[chunk.tenure] = chunk.tenure.open_slice()
            position, before = chunk.start, num_bytes
            for entry in chunk.entries[chunk.start :] if chunk.start else chunk.entries:
                num_outputs += opened.add(entry)
                num_bytes += len(entry.record.value or b"")
                position += 1
                if num_outputs >= max_records or num_bytes >= max_bytes:
                    break
            self.num_records -= position - chunk.start
            self.num_bytes -= num_bytes - before
            chunk.num_bytes -= num_bytes - before
            chunk.start = position
            if chunk.start == len(chunk.entries):
                self._chunks.popleft()
        return MicroBatch(list(slices.values()), reason, oldest_ms, num_outputs)

    def discard(self, tenure: Tenure | None = None) -> None:
        """Drop what waits of a tenure, or of all."""
        kept = [chunk for chunk in self._chunks if tenure is not None and chunk.tenure is not tenure]
        self._chunks = deque(kept)
        self.num_records = sum(len(chunk.entries) - chunk.start for chunk in kept)
        self.num_bytes = sum(chunk.num_bytes for chunk in kept)
