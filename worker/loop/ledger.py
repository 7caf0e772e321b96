"""Accounts of the records of a role: counts that add up, latencies, and the newest dead letters."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeGuard

from schemas import Reason
from worker.monitoring.metrics import Metrics
from worker.monitoring.refusals import RefusalLog
from worker.monitoring.status import DeadLetterStatus, IncidentStatus
from worker.partitions.batch_slice import BatchSlice
from worker.records import Change, Item, Notice, Rejection, Relayed, TopicPartition, User

log = logging.getLogger(__name__)

NUM_RECENT_DEAD_LETTERS = 20
NUM_INCIDENTS = 20


class Ledger:
    """Kept on the poll thread (and, while that is blocked in a poll, on the client's)."""

    def __init__(self, metrics: Metrics, on_refused: Callable[[], None]) -> None:
        """`on_refused` is called after records were too large for an output topic."""
        self._metrics = metrics
        self._accounting = metrics.accounting
        self._on_refused = on_refused
        self._refusals = RefusalLog()
        self.unaccounted = 0
        """At the last check."""
        self.recent_dead_letters: deque[DeadLetterStatus] = deque(maxlen=NUM_RECENT_DEAD_LETTERS)
        self.incidents: deque[IncidentStatus] = deque(maxlen=NUM_INCIDENTS)
        self.num_expired = 0

    def consumed(self, num_records: int) -> None:
        self._accounting.consumed += num_records

    def expired(self, partition: TopicPartition, start: int, end: int) -> None:
        """Records that were never read and are no longer there, from offset `start` to before `end`."""
        topic, number = partition
        self.num_expired += end - start
        self._metrics.expired.labels(topic).inc(end - start)
        detail = (
            f"{topic}/{number}: records lost unseen: this group has read up to offset {start}, and the log begins at "
            f"{end}, so {end - start} offsets, {start} to {end - 1}, have expired"
        )
        log.error(
            "%s: raise the topic's retention, or see why nobody read it for so long", detail,
            extra={"action": "records_expired", "first_offset": start, "last_offset": end - 1},
        )  # fmt: skip
        self._note("expired", detail)

    def new_log(self, partition: TopicPartition, detail: str) -> None:
        """Another log than before was taken up."""
        self._metrics.new_logs.labels(partition.topic).inc()
        log.warning("%s", detail, extra={"action": "new_log"})
        self._note("new_log", detail)

    def notice(self, notice: Notice) -> None:
        log.warning("%s", notice.detail, extra={"action": notice.kind})
        self._note(*notice)

    def _note(self, kind: str, detail: str) -> None:
        self.incidents.appendleft(IncidentStatus(at_ms=time.time_ns() // 1_000_000, kind=kind, detail=detail))

    def finished(self, done: BatchSlice) -> None:
        """Account for a finished slice: the only place where records end."""
        accounting, written = self._accounting, done.written
        newest = [entry for entry in done.kept() if entry.is_record]
        published = [entry for entry in newest if entry.id not in written.without_output]
        upserts = [entry for entry in published if isinstance(entry, Item | User) or _is_upsert(entry)]
        num_overtaken = sum(entry.is_overtaken for entry in newest)
        accounting.published["upsert"] += len(upserts)
        accounting.published["tombstone"] += len(published) - len(upserts)
        accounting.superseded["stale_revision"] += num_overtaken
        accounting.superseded["without_vector"] += len(newest) - len(published) - num_overtaken
        accounting.superseded["same_batch"] += done.num_same_batch - written.num_restored
        for reason, count in done.superseded.items():
            accounting.superseded[reason] += count
        rejections = [*done.rejections, *written.rejections]
        self._refusals.add(rejections)
        accounting.dead_lettered.update(rejection.reason.value for rejection in rejections)
        if written.rejections:
            self._on_refused()
        self.recent_dead_letters.extendleft(dead_letter_status(rejection) for rejection in rejections)
        self._observe(upserts, (written.finished_at or 0.0) * 1000)

    def _observe(self, upserts: Sequence[Item | User | Relayed], finished_ms: float) -> None:
        metrics, topic = self._metrics, self._metrics.topic
        metrics.last_publish.set(finished_ms / 1000)
        metrics.latency.observe_many(topic, [max(0.0, finished_ms - each.record.timestamp) / 1000 for each in upserts])
        freshness_ms = [finished_ms - each.event_time_ms for each in upserts]
        metrics.freshness.observe_many(topic, [max(0.0, each) / 1000 for each in freshness_ms])
        metrics.clock_skew.labels(topic).inc(sum(each < 0 for each in freshness_ms))

    def check(self, num_in_flight: int, *, is_last: bool = False) -> None:
        """Between two steps of the loop: export the counts, complain if they do not add up, and tell what was refused.
        `is_last`: nothing comes after it."""
        self.unaccounted = self._accounting.snapshot(num_in_flight).unaccounted()
        if self.unaccounted:
            log.error("%d records are not accounted for", self.unaccounted, extra={"action": "accounting_broken"})
        for line in self._refusals.due(time.monotonic(), all_of_them=is_last):
            log.warning("%s", line.text, extra={"action": "refused", **line._asdict()})


def _is_upsert(entry: Change) -> TypeGuard[Relayed]:
    """Whether a message was passed on, and not a delete."""
    return isinstance(entry, Relayed) and entry.value is not None


def dead_letter_status(rejection: Rejection) -> DeadLetterStatus:
    record = rejection.record
    return DeadLetterStatus(
        at_ms=time.time_ns() // 1_000_000,
        partition=record.partition,
        offset=record.offset,
        reason=Reason(rejection.reason).value,
        detail=rejection.detail[:300],
    )
