"""The writer's thread: batches into the store, one at a time, each for as long as it takes.

A store that cannot be reached, or does not answer, is tried again with growing pauses; meanwhile nothing is taken from
the log and nothing is committed. Rows that it refuses are isolated by halving and become dead letters, which are
acknowledged before their batch is done.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas import Reason
from worker.errors import ConfigError, StoreError, WorkerError
from worker.kafka.port import ClientPort, ProducerPort
from worker.records import Record, Rejection
from worker.sink.batch import Batch, Counts, Pending, by_collection
from worker.sink.metrics import SinkMetrics
from worker.sink.port import Outcome, RowsRefusedError, Store
from worker.sink.row import STAGE, Collection, Entity, Row
from worker.stages.publish import dead_letter

log = logging.getLogger(__name__)

STEP_S = 0.2
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
LETTER_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class LetterFormat:
    """The part of a role's output that `dead_letter` needs."""

    dead_letter_topic: str
    space_id: str


class _Letters:
    """The receipts of dead letters."""

    def __init__(self, num: int) -> None:
        self._changed = threading.Condition()
        self._num_left = num
        self.error: WorkerError | None = None

    def acknowledged(self, offset: int) -> None:
        with self._changed:
            self._num_left -= 1
            self._changed.notify_all()

    def failed(self, error: WorkerError) -> None:
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._num_left <= 0 or self.error is not None, timeout_s)
            return self._num_left <= 0 and self.error is None


class Writer:
    def __init__(
        self, store: Store, pending: Pending, client: ClientPort, letters: LetterFormat, metrics: SinkMetrics
    ) -> None:
        self._store = store
        self._pending = pending
        self._client = client
        self._letters = letters
        self._metrics = metrics
        self._producer: ProducerPort | None = None
        self._max_letter_bytes: int | None = None
        self._is_connected = True
        self._thread = threading.Thread(target=self._run, name="write", daemon=True)
        self.moved_at = time.monotonic()
        self.error: WorkerError | None = None
        """The error that has ended the thread."""
        self.trouble = ""
        """Why nothing can be written at present."""
        self._gives_up = threading.Event()
        self.is_caught_up = False
        """Whether all is written that the topics have, as the poll thread sees it."""
        self.is_settled = False
        """Whether the store has then had nothing left to do."""
        self.unsettled: StoreError | None = None
        """What the store fails at that is left to do."""
        self._unsettled_since: float | None = None
        self._tick_at = 0.0

    def start(self) -> None:
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def unsettled_s(self) -> float:
        """For how long the store has failed at what is left to do."""
        since = self._unsettled_since
        return 0.0 if since is None else time.monotonic() - since

    def close(self, timeout_s: float) -> None:
        """End it: after what is in work, or in the middle of it when that takes too long."""
        self._pending.close()
        self._gives_up.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._pending.is_closed:
                self.moved_at = time.monotonic()
                batch = self._pending.take(STEP_S)
                if batch is not None:
                    self._write(batch)
                else:
                    self._tick()
        except WorkerError as error:
            self.error = error
        except Exception as error:
            log.exception("the writer has failed", extra={"action": "failed"})
            self.error = StoreError(f"the writer has failed: {error!r}")
        finally:
            self._store.close()
            if self._producer is not None:
                self._producer.close(1.0)

    def _tick(self) -> None:
        if time.monotonic() < self._tick_at:
            return
        now, is_caught_up = time.monotonic(), self.is_caught_up
        try:
            if not self._is_connected:
                self._store.connect()
                self._is_connected = True
            self.is_settled = self._store.tick(is_caught_up=is_caught_up) and is_caught_up
        except StoreError as error:
            self._is_connected, self._tick_at = False, now + LONGEST_PAUSE_S
            self.unsettled, self._unsettled_since = error, self._unsettled_since or now
            log.warning("%s", error.one_line(), extra={"action": "tick_failed"})
        if self.is_settled:
            self.unsettled, self._unsettled_since = None, None

    def _write(self, batch: Batch) -> None:
        pause_s, started = FIRST_PAUSE_S, time.monotonic()
        while not self._gives_up.is_set():
            self.moved_at = time.monotonic()
            try:
                if not self._is_connected:
                    self._store.connect()
                    self._is_connected = True
                counts = self._attempt(batch)
            except ConfigError:
                raise
            except WorkerError as error:
                self._is_connected = False
                if not self.trouble:
                    self._metrics.waiting.set_since((), started)
                self.trouble = error.one_line()
                self._metrics.failures.inc()
                log.warning("%s; trying again in %.1f s", self.trouble, pause_s, extra={"action": "write_failed"})
                self._gives_up.wait(pause_s)
                pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                continue
            if self.trouble:
                log.info("writing again", extra={"action": "write_again"})
                self._metrics.waiting.set_since((), None)
                self.trouble = ""
            self._metrics.duration.observe(time.monotonic() - started)
            self._metrics.rows.observe(batch.size)
            self._pending.finish(batch, counts)
            return

    def _attempt(self, batch: Batch) -> Mapping[Entity, Counts]:
        counts: dict[Entity, Counts] = defaultdict(Counts)
        for hold, num in batch.num_records.items():
            counts[hold.entity].consumed += num
            counts[hold.entity].abandoned += 0 if hold.is_live else num
        rows: dict[Entity, list[tuple[Record, Row]]] = defaultdict(list)
        for hold, record, row in batch.rows:
            if hold.is_live:
                rows[hold.entity].append((record, row))
        for hold, rejection in batch.rejections:
            if hold.is_live:
                counts[hold.entity].rejected.append(rejection)
        for entity, held in rows.items():
            self._write_entity(entity, held, counts[entity])
        rejections = [each for count in counts.values() for each in count.rejected]
        if rejections:
            self._send_letters(rejections)
        return counts

    def _write_entity(self, entity: Entity, read: Sequence[tuple[Record, Row]], counts: Counts) -> None:
        rows = [row for _, row in read]
        existing = self._store.collections(entity) if any(row.is_deleted for row in rows) else ()
        told = by_collection(rows, existing)
        kept = {id(row) for each in told.values() for row in each}
        refused: dict[int, str] = {}
        num_vectors = num_deleted = 0
        for collection, each in told.items():
            self._store.prepare(collection)
            outcome, wrong = self._write_rows(collection, each)
            num_vectors += outcome.num_vectors
            num_deleted = max(num_deleted, outcome.num_deleted)
            refused.update({id(row): detail for row, detail in wrong})
        counts.rejected += [_refusal(record, refused[id(row)]) for record, row in read if id(row) in refused]
        num_deleted = min(num_deleted, sum(row.is_deleted and id(row) in kept for row in rows))
        num_untold = sum(row.is_deleted for row in rows) if not told else 0
        counts.upserts += num_vectors
        counts.tombstones += num_deleted
        counts.same_batch += len(rows) - len(kept) - num_untold
        counts.stale += num_untold + len(kept) - len(refused) - num_vectors - num_deleted

    def _write_rows(self, collection: Collection, rows: Sequence[Row]) -> tuple[Outcome, list[tuple[Row, str]]]:
        """With the rows that the store refuses, each with its reason."""
        self.moved_at = time.monotonic()
        try:
            return self._store.write(collection, rows), []
        except RowsRefusedError as error:
            if len(rows) == 1:
                return Outcome(0, 0, 0), [(rows[0], str(error))]
        middle = len(rows) // 2
        first, wrong = self._write_rows(collection, rows[:middle])
        second, also_wrong = self._write_rows(collection, rows[middle:])
        return Outcome(*(a + b for a, b in zip(first, second, strict=True))), wrong + also_wrong

    def _send_letters(self, rejections: Sequence[Rejection]) -> None:
        """Raises `WorkerError` where they are not acknowledged; the batch is tried again then."""
        if self._producer is None:
            self._producer = self._client.producer()
            described = self._client.describe_topics([self._letters.dead_letter_topic])
            topic = described.get(self._letters.dead_letter_topic)
            self._max_letter_bytes = None if topic is None else topic.max_message_bytes
        receipts: Any = _Letters(len(rejections))
        now_ms = time.time_ns() // 1_000_000
        output: Any = self._letters  # of a role's output a letter needs these two names alone
        outbound = [dead_letter(output, each, now_ms, receipts, self._max_letter_bytes) for each in rejections]
        try:
            self._producer.send(outbound)
            deadline = time.monotonic() + LETTER_TIMEOUT_S
            while not receipts.wait(STEP_S):
                self.moved_at = time.monotonic()
                if receipts.error is not None:
                    raise receipts.error
                if time.monotonic() > deadline or self._gives_up.is_set():
                    raise StoreError("dead letters were not acknowledged in time")
        except WorkerError:
            self._producer.close(1.0)
            self._producer = None
            raise


def _refusal(record: Record, detail: str) -> Rejection:
    return Rejection(record, Reason.PUBLISH_REFUSED, STAGE, f"the index refuses it: {detail}")
