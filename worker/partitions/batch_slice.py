"""One partition's part of a micro-batch: what was read of it, and what became of that at the broker.

A `BatchSlice` has one owner at a time and is frozen before it is published; a `Written` has a lock, because receipts
come on several threads at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from enum import Enum, auto
from typing import TYPE_CHECKING, NamedTuple

from schemas import Reason
from worker.errors import NextSpaceError, WorkerError
from worker.records import Backfilled, Change, Entry, Recompute, Rejection, Superseded
from worker.state.input_log import InputLog

if TYPE_CHECKING:
    from worker.partitions.backfill import Backfill
    from worker.partitions.tenure import Tenure


NOWHERE = -1


class BatchSlice:
    """The inputs that one micro-batch holds of one tenure.

    The compute thread fills it and takes out what the model fails on. Then it is frozen, and nothing in it changes:
    that is why the publish thread, the poll thread and the client's threads may read it without a lock.
    """

    __slots__ = (
        "_displaced",
        "_is_frozen",
        "backfill",
        "backfilled_to",
        "has_backfilled",
        "log",
        "newest",
        "next_offset",
        "num_records",
        "num_same_batch",
        "rejections",
        "superseded",
        "tenure",
        "written",
    )

    def __init__(self, tenure: Tenure) -> None:
        self.tenure = tenure
        self.newest: dict[str, Change] = {}
        """The newest input of each item or user: what outputs are made of."""
        self.rejections: list[Rejection] = []
        self.superseded: dict[str, int] = {}
        """Records that need no output, by reason."""
        self.num_records = 0
        self.num_same_batch = 0
        """Records that a newer one of their item or user has displaced."""
        self.next_offset: int | None = None
        """None: nothing in it has come from the log."""
        self.log: InputLog | None = None
        """Identity of the log to remember with it; None: it is remembered already."""
        self.backfill: Backfill | None = None
        """What of the next space the tenure fills: then its outputs are published in that, too."""
        self.backfilled_to = NOWHERE
        """How far it brings that (`Backfill`)."""
        self.has_backfilled = False
        """Whether something in it is for the next space alone."""
        self.written = Written()
        self._displaced: dict[str, list[Change]] = {}
        self._is_frozen = False

    def add(self, entry: Entry) -> int:
        """Take in the next entry; returns how many outputs it adds (0 or 1)."""
        kind = type(entry)  # asked here once per record; elsewhere the entries answer for themselves
        if kind is Backfilled:
            self.has_backfilled = True
            self.backfilled_to = max(self.backfilled_to, entry.place)  # type: ignore[union-attr]
        elif kind is not Recompute:
            self.num_records += 1
            self.next_offset = entry.record.offset + 1
        if kind is Superseded:
            reason = entry.reason  # type: ignore[union-attr]
            self.superseded[reason] = self.superseded.get(reason, 0) + 1
            return 0
        if kind is Rejection:
            self.rejections.append(entry)  # type: ignore[arg-type]
            return 1
        displaced = self.newest.get(entry.id)  # type: ignore[union-attr]
        if displaced is not None and (kind is Backfilled or (kind is Recompute and type(displaced) is not Backfilled)):
            return 0  # the other one is computed just as late
        self.newest[entry.id] = entry  # type: ignore[union-attr,assignment]
        if displaced is None:
            return 1
        self.num_same_batch += displaced.is_record
        self._displaced.setdefault(displaced.id, []).append(displaced)
        return 0

    def reject(self, entry: Change, reason: Reason, stage: str, detail: str) -> Change | None:
        """Turn an entry that the model fails on into a rejection.

        Returns the input that it had displaced, if there is one: that is the newest again.
        """
        assert not self._is_frozen, "what has been handed to be published does not change"
        if entry.is_record:  # or there is none to keep
            self.rejections.append(Rejection(entry.record, reason, stage, detail))
        displaced = self._displaced.get(entry.id)
        if not displaced:
            del self.newest[entry.id]
            return None
        self.newest[entry.id] = displaced.pop()
        self.num_same_batch -= self.newest[entry.id].is_record
        return self.newest[entry.id]

    def freeze(self) -> None:
        """Nothing in it changes any more."""
        self._is_frozen = True

    def displaced_by(self, entry: Change) -> Sequence[Change]:
        """The older inputs that the newest of an item or user stands for."""
        return self._displaced.get(entry.id, ())

    def kept(self) -> Iterator[Change]:
        """The newest inputs without those that a topic has refused."""
        refused = self.written.refused
        return (entry for entry in self.newest.values() if entry.id not in refused)


class Output(Enum):
    """The kinds of records that are written for a slice."""

    VECTOR = auto()
    """Or tombstone."""
    STATE = auto()
    """For the changelog."""
    DEAD_LETTER = auto()
    NEXT = auto()
    """A vector or tombstone of the next space."""


class Receipt:
    """Books the receipts of one kind of record on what is written of a slice."""

    __slots__ = ("_output", "_written")

    def __init__(self, written: Written, output: Output) -> None:
        self._written = written
        self._output = output

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self._written.count(self._output, offset, count)

    def failed(self, error: WorkerError) -> None:
        self._written.fail(self._output, error)


class Receipts(NamedTuple):
    """One for each kind of record. They refer to what is written, and it not to them: a cycle would keep its
    records."""

    vectors: Receipt
    state: Receipt
    dead_letters: Receipt
    next: Receipt


class Written:
    """Outputs of a slice, and their receipts.

    The publish thread says what there is to be (`note`, `expect`) before the first record is sent. Receipts then come
    on the client's threads: of one producer, or of two, vectors and dead letters, at once. The poll thread asks
    `is_done`, and reads the rest when it is. One lock guards all that receipts change.
    """

    __slots__ = (
        "_awaits_commit",
        "_lock",
        "_num_expected",
        "_num_receipts",
        "_on_finished",
        "changes",
        "error",
        "error_is_dead_letter",
        "finished_at",
        "is_in_next",
        "missing_in_next",
        "next_end",
        "num_restored",
        "refused",
        "rejections",
        "state_end",
        "vectors_end",
        "without_output",
    )

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.vectors_end = 0
        """Offset in the output partition after the last vector or tombstone; 0 where there is none."""
        self.state_end = 0
        """The same in the changelog."""
        self.next_end = 0
        """The same in the output partition of the next space."""
        self.is_in_next = False
        """Whether what there is of it in the next space is among the outputs."""
        self.missing_in_next: Mapping[str, str] = {}
        """Ids that have a vector and none in the next space, and why."""
        self.changes: Mapping[str, bytes | None] = {}
        """States by id, as they are written to the changelog."""
        self.without_output: Set[str] = frozenset()
        """Ids that readers are told nothing of: overtaken, or without anything that a vector could be made of."""
        self.rejections: Sequence[Rejection] = ()
        """Inputs whose outputs no topic takes."""
        self.refused: frozenset[str] = frozenset()
        """Ids of their items or users, which have no outputs."""
        self.num_restored = 0
        """Displaced inputs among them: dead letters now, and no longer superseded within their batch."""
        self.finished_at: float | None = None
        """Wall clock; None until the fate of the outputs is known, or that of one which failed."""
        self.error: WorkerError | None = None
        self.error_is_dead_letter = False
        self._awaits_commit = False
        self._num_expected: int | None = None
        self._num_receipts = 0
        self._on_finished: Callable[[], None] | None = None

    # ------------------------------------------------------------------ publish thread

    def receipts(self) -> Receipts:
        return Receipts(*(Receipt(self, output) for output in Output))

    def note(
        self,
        changes: Mapping[str, bytes | None],
        without_output: Set[str],
        rejections: Sequence[Rejection],
        refused: frozenset[str],
        num_restored: int,
    ) -> None:
        """Note what is to be written, before any of it is sent."""
        self.changes, self.without_output = changes, without_output
        self.rejections, self.refused, self.num_restored = rejections, refused, num_restored

    def note_next(self, missing: Mapping[str, str]) -> None:
        """What there is in the next space is to be written, too, before any of it is sent."""
        self.is_in_next, self.missing_in_next = True, missing

    def expect(self, num_receipts: int, on_finished: Callable[[], None]) -> None:
        """Call once, before the first record is sent. `on_finished` is called when the last receipt is in, or the first
        failure, on whatever thread that happens."""
        with self._lock:
            self._on_finished = on_finished
            self._num_expected = num_receipts
            called = self._finish() if num_receipts == 0 else None
        if called is not None:
            called()

    def await_commit(self) -> None:
        """From now on receipts are not enough: the slice is not done before its transaction is committed."""
        with self._lock:
            self._awaits_commit = True

    def committed(self) -> None:
        """The transaction is committed: what was written counts."""
        with self._lock:
            self.finished_at = time.time()
            self._awaits_commit = False

    def give_up(self, error: WorkerError) -> None:
        """The transaction has failed, and everything in it."""
        self.fail(Output.VECTOR, error)
        with self._lock:
            self._awaits_commit = False

    # ------------------------------------------------------------------ the client's threads

    def count(self, output: Output, offset: int, count: int = 1) -> None:
        """Count records as written, the last of them at this offset of its partition."""
        with self._lock:
            if output is Output.VECTOR:
                self.vectors_end = max(self.vectors_end, offset + 1)
            elif output is Output.STATE:
                self.state_end = max(self.state_end, offset + 1)
            elif output is Output.NEXT:
                self.next_end = max(self.next_end, offset + 1)
            self._num_receipts += count
            is_last = self._num_receipts == self._num_expected and self.error is None
            called = self._finish() if is_last else None
        if called is not None:
            called()

    def fail(self, output: Output, error: WorkerError) -> None:
        """A record cannot be written. The first failure counts."""
        with self._lock:
            if self.error is not None:
                return
            self.error, self.error_is_dead_letter = error, output is Output.DEAD_LETTER
            if output is Output.NEXT:
                self.error = NextSpaceError.of(error)
            called = self._finish()
        if called is not None:
            called()

    def _finish(self) -> Callable[[], None] | None:
        """Returns what is to be called without the lock. It may refer to us: a cycle would keep the records."""
        self.finished_at = time.time()
        on_finished, self._on_finished = self._on_finished, None
        return on_finished

    # ------------------------------------------------------------------ poll thread

    @property
    def has_failed(self) -> bool:
        """Whether it will never be done. What awaits a commit fails with its transaction, not before."""
        with self._lock:
            return self.error is not None and not self._awaits_commit

    @property
    def has_receipts(self) -> bool:
        """Whether the fate of the outputs is known, or that of one which failed."""
        return self.finished_at is not None

    @property
    def is_done(self) -> bool:
        with self._lock:
            return self.finished_at is not None and self.error is None and not self._awaits_commit
