"""The micro-batcher between the poll thread, which adds, and the compute thread, which takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from worker.partitions.tenure import Tenure
from worker.records import Backfilled, Entry
from worker.settings import BatchSettings
from worker.stages.batch import MicroBatch, MicroBatcher


def now_ms() -> float:
    """Wall clock, because it is compared with Kafka timestamps."""
    return time.time() * 1000


class BatchQueue:
    """Bounded by records and by bytes. The side that takes keeps the age deadline: the poller may be asleep in a
    poll when it comes. One lock guards all of it."""

    def __init__(self, settings: BatchSettings, clock_ms: Callable[[], float] = now_ms) -> None:
        self._settings = settings
        self._clock_ms = clock_ms
        self._batcher = MicroBatcher(settings)
        self._changed = threading.Condition()
        self._backlog = False
        self._draining = False
        self._more_is_coming = False

    def put(self, tenure: Tenure, entries: Sequence[Entry]) -> None:
        with self._changed:
            self._batcher.add(tenure, entries, self._clock_ms())
            self._changed.notify_all()

    def put_behind(self, tenure: Tenure, entries: Sequence[Backfilled]) -> None:
        """What is for the next space alone: it waits behind all that `put` brings, then or later."""
        with self._changed:
            self._batcher.add_behind(tenure, entries)
            self._changed.notify_all()

    def expect_more(self, more_is_coming: bool) -> None:
        """Whether more entries are about to be put in: a batch that is not full may be worth waiting for them."""
        with self._changed:
            self._more_is_coming = more_is_coming
            self._changed.notify_all()

    def take(self, timeout_s: float) -> MicroBatch | None:
        """The next batch as soon as it is due, or None when none is in time."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                now = self._clock_ms()
                reason = self._batcher.due_reason(
                    now, backlog=self._backlog, more_is_coming=self._more_is_coming, draining=self._draining
                )
                if reason is not None:
                    batch = self._batcher.take(reason, now)
                    self._changed.notify_all()
                    return batch
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    return None
                if self._batcher.num_records:
                    remaining_s = min(remaining_s, self._batcher.wait_ms(now, backlog=self._backlog) / 1000)
                self._changed.wait(remaining_s)

    def discard(self, tenure: Tenure | None = None) -> None:
        with self._changed:
            self._batcher.discard(tenure)
            self._changed.notify_all()

    def discard_behind(self, tenure: Tenure) -> None:
        with self._changed:
            self._batcher.discard_behind(tenure)

    def drain(self) -> None:
        """Close batches at once from now on."""
        with self._changed:
            self._draining = True
            self._changed.notify_all()

    def set_backlog(self, backlog: bool) -> None:
        with self._changed:
            self._backlog = backlog
            self._changed.notify_all()

    def wait_for_room(self, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_full(), timeout_s)

    def is_full(self) -> bool:
        return (
            self._batcher.num_records >= self._settings.queue_records
            or self._batcher.num_bytes >= self._settings.queue_bytes
        )

    def is_low(self) -> bool:
        """Half empty: time to fetch again after a pause."""
        return (
            self._batcher.num_records * 2 <= self._settings.queue_records
            and self._batcher.num_bytes * 2 <= self._settings.queue_bytes
        )

    @property
    def num_behind(self) -> int:
        return self._batcher.num_behind

    @property
    def num_records(self) -> int:
        return self._batcher.num_records
