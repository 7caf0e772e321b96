"""Whose turn a partition is in, how far it has come, and which offset may be committed.

A `Tenure` is one unbroken stretch of work on a partition: from its assignment, or the last return to its committed
offset, until it is revoked, lost or returned again. A `BatchSlice` is what one micro-batch holds of one tenure.
Receipts go to slices; what may be committed moves over the contiguous prefix of finished ones. Work of a retired tenure
is dropped wherever it is met, so nothing of it is published or committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from worker.kafka.port import Commit, Membership
from worker.partitions.batch_slice import BatchSlice
from worker.records import Record, TopicPartition
from worker.state.memory import Memory

_NOTE_PREFIX = "vectors_end="


class Tenure:
    """One stretch of work on one partition.

    The poll thread owns it. The compute thread opens slices, and other threads read `is_live` and `membership`: each is
    one reference, replaced whole. `sent` and `is_blocked` are the publish thread's own.
    """

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
        """A slice has failed before its outputs were sent: nothing after it may be committed."""
        self.num_consumed = 0
        self.num_settled = 0
        self._slices: deque[BatchSlice] = deque()
        """In order. The compute thread appends and the poll thread takes from the front, which a deque allows at
        once."""
        self._unfinished: deque[tuple[int, int]] = deque()
        """Of each group of records that were taken together and are not all finished: the offset behind it, and the
        time of its first record."""

    def open_slice(self) -> BatchSlice:
        """A new slice, last in order. Called in the order in which batches are taken."""
        opened = BatchSlice(self)
        self._slices.append(opened)
        return opened

    def consumed(self, records: Sequence[Record]) -> None:
        """The next records of the partition; some at least."""
        self.num_consumed += len(records)
        self._unfinished.append((records[-1].offset + 1, records[0].timestamp))

    @property
    def oldest_ms(self) -> int | None:
        """The time of the oldest record that is not finished, or of one consumed with it; None where all are."""
        return self._unfinished[0][1] if self._unfinished else None

    def settle(self) -> list[BatchSlice]:
        """Move the commit over finished slices; returns those it moved over, in order."""
        settled = []
        while self.is_live and self._slices and self._slices[0].written.is_done:
            done = self._slices.popleft()
            self.commit = after(self.commit, done)
            self.num_settled += done.num_records
            if self.memory is not None:
                rejections = [*done.rejections, *done.written.rejections]
                self.memory.settle(done.written.changes, done.newest, rejections, done.written.state_end)
            settled.append(done)
        while self._unfinished and self._unfinished[0][0] <= self.commit.offset:
            self._unfinished.popleft()
        return settled

    def failure(self) -> BatchSlice | None:
        """The first slice that failed, if one did."""
        return next((each for each in tuple(self._slices) if each.written.has_failed), None)

    def block(self) -> None:
        """Commit nothing of it any more. Publish thread."""
        self.is_blocked = True

    def note_sent(self, commit: Commit) -> None:
        """A transaction has committed this. Publish thread."""
        self.sent = commit

    @property
    def in_flight(self) -> int:
        """Records consumed and not settled; none once the tenure is retired."""
        return self.num_consumed - self.num_settled if self.is_live else 0

    def has_news(self) -> bool:
        """Whether the watermark has moved since the last commit. A log that was made anew moves it down."""
        return self.commit.offset != self.committed_offset

    def has_open_slices(self) -> bool:
        return bool(self._slices)

    def retire(self) -> int:
        """Stop counting for anything; returns the number of records given up."""
        num_given_up = self.in_flight
        self.is_live = False
        self._slices.clear()  # they refer to us: a cycle would keep their records
        return num_given_up


def after(commit: Commit, done: BatchSlice) -> Commit:
    """What may be committed once a slice is finished that follows on `commit`."""
    vectors_end = max(done.written.vectors_end, parse_note(commit.note) or 0)
    return Commit(commit.offset if done.next_offset is None else done.next_offset, format_note(vectors_end))


def format_note(vectors_end: int) -> str:
    """The note committed beside an offset: outputs of later inputs lie at or after `vectors_end` in the partition of
    the output topic with the same number, because one partition's outputs are written in the order of its inputs."""
    return f"{_NOTE_PREFIX}{vectors_end}"


def parse_note(note: str) -> int | None:
    """The position in a note, or None when it is not one of ours."""
    digits = note.removeprefix(_NOTE_PREFIX)
    return int(digits) if note.startswith(_NOTE_PREFIX) and digits.isdecimal() else None
