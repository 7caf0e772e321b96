"""Whose turn a partition is in, how far it has come, and which offset may be committed.

A `Tenure` is one unbroken stretch of work on a partition: from its assignment, or the last return to its committed
offset, until it is revoked, lost or returned again. A `Share` is what one micro-batch holds of one tenure. Receipts go
to shares; a tenure's watermark moves over the contiguous prefix of finished shares. Work of a retired tenure is
dropped wherever it is met, so nothing of it is published or committed.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from schemas import Reason
from worker.errors import WorkerError
from worker.kafka.port import Commit, Membership
from worker.records import Change, Entry, Recompute, Record, Rejection, Superseded, TopicPartition
from worker.state.memory import Memory

_NOTE_PREFIX = "vectors_end="


class Share:
    """One tenure's part of one micro-batch, and the fate of its outputs.

    Filled by the thread that takes batches, then owned by the publisher; receipts arrive on the producer's thread.
    """

    __slots__ = (
        "_displaced",
        "_is_held",
        "_num_expected",
        "_num_receipts",
        "_on_finished",
        "changes",
        "error",
        "error_is_dead_letter",
        "finished_at",
        "newest",
        "next_offset",
        "num_records",
        "num_same_batch",
        "rejections",
        "state_end",
        "superseded",
        "tenure",
        "vectors_end",
        "without_output",
    )

    def __init__(self, tenure: Tenure) -> None:
        self.tenure = tenure
        self.newest: dict[str, Change] = {}
        self.rejections: list[Rejection] = []
        self.superseded: dict[str, int] = {}
        """Records that need no output, by reason."""
        self.without_output: set[str] = set()
        """Ids among the newest that readers are told nothing of: there is nothing that a vector could be made of."""
        self.changes: dict[str, bytes | None] = {}
        """What is to be remembered by id, as it is written to the changelog."""
        self.num_records = 0
        self.num_same_batch = 0
        self.next_offset: int | None = None
        """None: nothing in it has come from the log."""
        self.vectors_end = 0
        self.state_end = 0
        """Offset in the changelog after what this share has written there."""
        self.finished_at: float | None = None
        self.error: WorkerError | None = None
        self.error_is_dead_letter = False
        self._displaced: dict[str, list[Change]] = {}
        self._is_held = False
        self._num_expected: int | None = None
        self._num_receipts = 0
        self._on_finished: Callable[[], None] | None = None

    def add(self, entry: Entry) -> int:
        """Take in the next record; returns how many outputs it adds (0 or 1)."""
        kind = type(entry)
        if kind is not Recompute:
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
        if displaced is not None and kind is Recompute:  # the other one is computed just as late
            return 0
        self.newest[entry.id] = entry  # type: ignore[union-attr,assignment]
        if displaced is None:
            return 1
        self.num_same_batch += type(displaced) is not Recompute
        self._displaced.setdefault(displaced.id, []).append(displaced)
        return 0

    def reject(self, entry: Change, reason: Reason, stage: str, detail: str) -> Change | None:
        """Turn an entry that failed after decoding into a rejection.

        Returns the input that it had displaced, if there is one: that is the newest again.
        """
        if type(entry) is not Recompute:  # there is no record of it to keep
            self.rejections.append(Rejection(entry.record, reason, stage, detail))
        displaced = self._displaced.get(entry.id)
        if not displaced:
            del self.newest[entry.id]
            return None
        self.newest[entry.id] = displaced.pop()
        self.num_same_batch -= type(self.newest[entry.id]) is not Recompute
        return self.newest[entry.id]

    def expect(self, num_receipts: int, on_finished: Callable[[], None]) -> None:
        """Call once, when the outputs are settled and before the first is sent. `on_finished` is called when the last
        receipt is in, or the first failure, on whatever thread that happens."""
        self._on_finished = on_finished
        self._num_expected = num_receipts
        if self._num_expected == 0:
            self._finish()

    def acknowledged(self, offset: int) -> None:
        """A vector or tombstone is written, at this offset of the output partition."""
        if offset >= self.vectors_end:
            self.vectors_end = offset + 1
        self._count()

    def failed(self, error: WorkerError) -> None:
        if self.error is None:
            self.error = error
            self._finish()

    def _count(self) -> None:
        self._num_receipts += 1
        if self._num_receipts == self._num_expected and self.error is None:
            self._finish()

    def _finish(self) -> None:
        self.finished_at = time.time()
        on_finished, self._on_finished = self._on_finished, None  # it may refer to us: a cycle would keep the records
        if on_finished is not None:
            on_finished()

    def hold(self) -> None:
        """From now on receipts are not enough: the share is not done before it is released."""
        self._is_held = True

    def release(self) -> None:
        """What was held back counts: its transaction is committed."""
        self.finished_at = time.time()
        self._is_held = False

    def give_up(self, error: WorkerError) -> None:
        """The transaction that it was held back for has failed."""
        self.failed(error)
        self._is_held = False

    @property
    def has_failed(self) -> bool:
        """Whether it will never be done. What is held back fails with its transaction, not before."""
        return self.error is not None and not self._is_held

    @property
    def has_receipts(self) -> bool:
        """Whether the fate of its outputs is known, or that of one which failed."""
        return self.finished_at is not None

    @property
    def is_done(self) -> bool:
        return self.finished_at is not None and self.error is None and not self._is_held


class ChangeReceipt:
    """Books the receipt of what is to be remembered on its share."""

    __slots__ = ("_share",)

    def __init__(self, share: Share) -> None:
        self._share = share

    def acknowledged(self, offset: int) -> None:
        if offset >= self._share.state_end:
            self._share.state_end = offset + 1
        self._share._count()  # noqa: SLF001  # two halves of one thing

    def failed(self, error: WorkerError) -> None:
        self._share.failed(error)


class DeadLetterReceipt:
    """Books the receipt of a dead letter on its share."""

    __slots__ = ("_share",)

    def __init__(self, share: Share) -> None:
        self._share = share

    def acknowledged(self, offset: int) -> None:
        self._share._count()  # noqa: SLF001  # two halves of one thing

    def failed(self, error: WorkerError) -> None:
        if self._share.error is None:
            self._share.error_is_dead_letter = True
        self._share.failed(error)


class Tenure:
    """One stretch of work on one partition. The poll thread owns it; other threads only read `is_live` and
    `membership`, and the publish thread has `sent` and `is_blocked` for itself."""

    def __init__(self, partition: TopicPartition, commit: Commit) -> None:
        self.partition = partition
        self.commit = commit
        """What may be committed: everything before its offset is finished."""
        self.committed_offset = commit.offset
        self.memory: Memory[Any] | None = None
        """None until the partition has been restored."""
        self.is_live = True
        self.membership: Membership | None = None
        """The place in the group by which the partition was held at the last poll. That of a partition which has gone
        stays what it was, so that nothing is committed for it by a newer one."""
        self.sent = commit
        """What the last committed transaction has committed."""
        self.is_blocked = False
        """A share has failed before its outputs were sent: nothing after it may be committed."""
        self.num_consumed = 0
        self.num_settled = 0
        self._shares: deque[Share] = deque()
        self._unfinished: deque[tuple[int, int]] = deque()
        """Of each group of records that were taken together and are not all finished: the offset behind it, and the
        time of its first record."""

    def open_share(self) -> Share:
        """A new share, last in order. Called in the order in which batches are taken."""
        share = Share(self)
        self._shares.append(share)
        return share

    def consumed(self, records: Sequence[Record]) -> None:
        """The next records of the partition; some at least."""
        self.num_consumed += len(records)
        self._unfinished.append((records[-1].offset + 1, records[0].timestamp))

    @property
    def oldest_ms(self) -> int | None:
        """The time of the oldest record that is not finished, or of one consumed with it; None where all are."""
        return self._unfinished[0][1] if self._unfinished else None

    def settle(self) -> list[Share]:
        """Move the watermark over finished shares; returns those it moved over, in order."""
        settled = []
        while self.is_live and self._shares and self._shares[0].is_done:
            share = self._shares.popleft()
            self.commit = after(self.commit, share)
            self.num_settled += share.num_records
            if self.memory is not None:
                self.memory.settle(share.changes, share.newest, share.rejections, share.state_end)
            settled.append(share)
        while self._unfinished and self._unfinished[0][0] <= self.commit.offset:
            self._unfinished.popleft()
        return settled

    def failure(self) -> Share | None:
        """The first share that failed, if one did."""
        return next((share for share in tuple(self._shares) if share.has_failed), None)

    @property
    def in_flight(self) -> int:
        """Records consumed and not settled; none once the tenure is retired."""
        return self.num_consumed - self.num_settled if self.is_live else 0

    def has_news(self) -> bool:
        """Whether the watermark has moved since the last commit. A log that was made anew moves it down."""
        return self.commit.offset != self.committed_offset

    def has_open_shares(self) -> bool:
        return bool(self._shares)

    def retire(self) -> int:
        """Stop counting for anything; returns the number of records given up."""
        num_given_up = self.in_flight
        self.is_live = False
        self._shares.clear()  # they refer to us: a cycle would keep their records
        return num_given_up


def after(commit: Commit, share: Share) -> Commit:
    """What may be committed once a share is finished that follows on `commit`."""
    vectors_end = max(share.vectors_end, parse_note(commit.note) or 0)
    return Commit(commit.offset if share.next_offset is None else share.next_offset, format_note(vectors_end))


def format_note(vectors_end: int) -> str:
    """The note committed beside an offset: outputs of later inputs lie at or after `vectors_end` in the partition of
    the output topic with the same number, because one partition's outputs are written in the order of its inputs."""
    return f"{_NOTE_PREFIX}{vectors_end}"


def parse_note(note: str) -> int | None:
    """The position in a note, or None when it is not one of ours."""
    digits = note.removeprefix(_NOTE_PREFIX)
    return int(digits) if note.startswith(_NOTE_PREFIX) and digits.isdecimal() else None
