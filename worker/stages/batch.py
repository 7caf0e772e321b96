"""Micro-batches: which records are computed together, and when a batch is closed. No clock, no threads.

A batch is what waits when compute is free. It is held open to fill only while more is on its way, that is, while the
log has more: until it is full (records or bytes), or its oldest record is old enough. In live mode age counts from the
record's Kafka timestamp, so time spent in the log is not added to; in backlog mode it counts from arrival, so that
batches fill while there is a log to catch up with.

What is to be published in the next space alone waits behind all of that: it takes a small part of what room a batch has
left, or has a batch of its own while nothing else waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Tenure
from worker.records import Backfilled, Entry
from worker.settings import BatchSettings

LIVE_SHARE = 8
"""Of a batch with records in it, or soon after one, this part at most is what waits behind them."""
LIVE_MS = 10_000
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
        self._behind: deque[tuple[Tenure, Backfilled]] = deque()
        self._live_ms = float("-inf")
        self.num_records = 0
        self.num_bytes = 0

    def add(self, tenure: Tenure, entries: Sequence[Entry], now_ms: float) -> None:
        """Append consecutive records of a tenure."""
        if entries:
            self._live_ms = now_ms
            if tenure.backfill is not None:
                tenure.backfill.overtake(entries)
            num_bytes = sum(len(entry.record.value or b"") for entry in entries)
            self._chunks.append(_Chunk(tenure, entries, now_ms, num_bytes))
            self.num_records += len(entries)
            self.num_bytes += num_bytes

    def add_behind(self, tenure: Tenure, entries: Iterable[Backfilled]) -> None:
        """Append what is for the next space alone."""
        self._behind.extend((tenure, entry) for entry in entries)

    @property
    def num_behind(self) -> int:
        return len(self._behind)

    def due_reason(
        self, now_ms: float, *, backlog: bool, more_is_coming: bool = True, draining: bool = False
    ) -> str | None:
        """Why a batch should be taken now, by whoever is free to compute it, or None."""
        if not self._chunks:
            return "backfill" if self._behind and not draining else None
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

    def take(self, reason: str, now_ms: float = float("inf")) -> MicroBatch:
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
        if self._behind and not self._chunks:
            num_outputs += self._take_behind(slices, max_records - num_outputs, now_ms)
        return MicroBatch(list(slices.values()), reason, oldest_ms, num_outputs)

    def _take_behind(self, slices: dict[Tenure, BatchSlice], room: int, now_ms: float) -> int:
        """Fill a batch up with what waits behind all records; returns how many outputs that adds."""
        most = room if now_ms - self._live_ms > LIVE_MS else min(room, max(1, self._settings.max_records // LIVE_SHARE))
        num_outputs = 0
        while self._behind and num_outputs < most:
            tenure, entry = self._behind.popleft()
            if tenure.backfill is None or tenure.backfill.is_overtaken(entry):
                continue
            if (opened := slices.get(tenure)) is None:
                opened = slices[tenure] = tenure.open_slice()
            num_outputs += opened.add(entry)
        return num_outputs

    def discard(self, tenure: Tenure | None = None) -> None:
        """Drop what waits of a tenure, or of all."""
        kept = [chunk for chunk in self._chunks if tenure is not None and chunk.tenure is not tenure]
        self._chunks = deque(kept)
        self.discard_behind(tenure)
        self.num_records = sum(len(chunk.entries) - chunk.start for chunk in kept)
        self.num_bytes = sum(chunk.num_bytes for chunk in kept)

    def discard_behind(self, tenure: Tenure | None = None) -> None:
        """Drop what waits behind all records."""
        self._behind = deque(each for each in self._behind if tenure is not None and each[0] is not tenure)
