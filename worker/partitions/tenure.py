"""Tenures: whose turn a partition is in, how far it has come, and which offset may be committed.

A `Tenure` is one unbroken stretch of work on a partition: from its assignment, or the last return to its committed
offset, until it is revoked, lost or returned again. A `BatchSlice` is what one micro-batch holds of one tenure.
Receipts go to slices; what may be committed moves over the contiguous prefix of finished ones. Work of a retired tenure
is dropped wherever it is met, so nothing of it is published or committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.kafka.port import Commit, Membership
from worker.partitions.backfill import COMPLETE, Backfill, NextNote, parse_next
from worker.partitions.batch_slice import BatchSlice
from worker.records import Record, TopicPartition
from worker.state.input_log import UNKNOWN, InputLog
from worker.state.overlay import StateOverlay

_NOTE_PREFIX = "vectors_end="


class Note(NamedTuple):
    """Metadata of a commit, beside its offset."""

    vectors_end: int
    """Outputs of later inputs lie at or after this offset of the partition of the output topic with the same number,
    because one partition's outputs are written in the order of its inputs."""
    log: InputLog = UNKNOWN
    """The log that the offset belongs to."""
    outputs_id: str = ""
    """Id of the topic that the outputs went to; empty where the cluster does not say."""
    state_id: str = ""
    """Id of the changelog."""
    next: NextNote | None = None
    """Of the next space; None where nothing is certain of it."""


class Tenure:
    """One stretch of work on one partition.

    The poll thread owns it. The compute thread opens slices, and other threads read `is_live` and `membership`: each is
    one reference, replaced whole. `sent` and `is_blocked` are the publish thread's own.
    """

    def __init__(self, partition: TopicPartition, commit: Commit) -> None:
        self.partition = partition
        self.commit = commit
        """A committable position: everything before its offset is finished."""
        self.committed_offset = commit.offset
        self.log = UNKNOWN
        """The log that is read. Settled, with the offset to begin at, when the partition is restored."""
        self.position = commit.offset
        """The next offset that is expected from the log."""
        self.doubt = ""
        """Why the log may not be the one that was read before, whatever its id says."""
        self.outputs_id = self.state_id = ""
        """Ids of the topics that are written to, as commits name them."""
        self.new_outputs_id: str | None = None
        """Where the outputs are another log: its id, until everything remembered has been written to that."""
        self._rebuilt_by: int | None = None
        self._is_note_due = False
        self._num_missing_noted = 0
        self._is_log_remembered = True
        self.backfill: Backfill | None = None
        """What is to be published in the next space, where there is one."""
        self.overlay: StateOverlay[Any] | None = None
        """None until the partition has been restored."""
        self.is_live = True
        self.membership: Membership | None = None
        """The place in the group by which the partition was held at the last poll. That of a partition which has gone
        stays what it was, so that nothing is committed for it by a newer one."""
        self.sent = commit
        """The commit of the last committed transaction."""
        self.is_blocked = False
        """A slice has failed before its outputs were sent: nothing after it may be committed."""
        self.num_consumed = 0
        self.num_settled = 0
        self._slices: deque[BatchSlice] = deque()
        """In order. The compute thread appends and the poll thread takes from the front, which a deque allows at
        once."""
        self._unfinished: deque[tuple[int, int]] = deque()
        """Groups of records that were taken together and are not all finished: the offset behind it, and the
        time of its first record."""

    def open_slice(self) -> BatchSlice:
        """A new slice, last in order. Called in the order in which batches are taken."""
        opened = BatchSlice(self)
        opened.backfill = self.backfill
        if not self._is_log_remembered:
            opened.log, self._is_log_remembered = self.log, True
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

    def reached(self, offset: int) -> None:
        """The log is read up to here."""
        self.position = offset

    def begin_at(self, offset: int, note: Note, *, is_remembered: bool) -> None:
        """Settle what the restored partition begins with. `is_remembered`: the changelog names the log already."""
        committed = parse_note(self.commit.metadata)
        self._is_note_due = committed is not None and committed[1:] != note[1:]
        self.log, self.outputs_id, self.state_id = note.log, note.outputs_id, note.state_id
        self._is_log_remembered = is_remembered
        self.commit = self.sent = Commit(offset, format_note(note))
        self.position = offset

    def pass_over(self) -> None:
        """Finish what lies before the next expected offset and is no record: markers, and what was compacted. Not
        committed, it would look like records that nobody has read once the log drops it."""
        if self.position > self.commit.offset and not self.in_flight and not self._slices:
            self.commit = self.commit._replace(offset=self.position)

    def all_queued(self) -> None:
        """Everything that was to be written to the new log of the outputs waits to be computed."""
        if self.new_outputs_id is not None and self._rebuilt_by is None:
            self._rebuilt_by = self.num_consumed

    def finish_outputs(self, *, is_idle: bool) -> None:
        """Name the new log of the outputs in commits, once all of them are in it. `is_idle`: nothing waits to be
        computed."""
        if self.new_outputs_id is None or self._rebuilt_by is None:
            return
        if self.num_settled > self._rebuilt_by or (is_idle and not self.in_flight and not self._slices):
            self.outputs_id, self.new_outputs_id, self._rebuilt_by = self.new_outputs_id, None, None
            note = parse_note(self.commit.metadata) or Note(0)
            self.commit = self.commit._replace(metadata=format_note(note._replace(outputs_id=self.outputs_id)))
            self._is_note_due = True

    def fill(self, backfill: Backfill | None) -> None:
        """From the next slice on, publish in the next space, too; None: no longer."""
        self.backfill = backfill
        if backfill is None:
            self._note_next(None)

    def finish_backfill(self) -> None:
        """Say in commits that the next space has all there is of the partition, once that is so."""
        backfill = self.backfill
        if backfill is None:
            return
        if not backfill.look(self):
            if backfill.is_complete and len(backfill.missing) != self._num_missing_noted:
                self._note_missing(len(backfill.missing))
            return
        note = parse_note(self.commit.metadata) or Note(0)
        known = note.next if note.next is not None and note.next.space_id == backfill.space.space_id else backfill.begun
        self._note_next(known._replace(reached=COMPLETE, num_missing=len(backfill.missing), num_left=0))

    def _note_missing(self, num_missing: int) -> None:
        self._num_missing_noted = num_missing
        note = parse_note(self.commit.metadata)
        if note is not None and note.next is not None:
            self._note_next(note.next._replace(num_missing=num_missing))

    def _note_next(self, note: NextNote | None) -> None:
        known = parse_note(self.commit.metadata) or Note(0)
        if known.next != note:
            self.commit = self.commit._replace(metadata=format_note(known._replace(next=note)))
            self._is_note_due = True

    def open_backfills(self) -> list[Backfill | None]:
        """Of the slices that are not settled."""
        return [each.backfill for each in tuple(self._slices)]

    def settle(self) -> list[BatchSlice]:
        """Move the commit over finished slices; returns those it moved over, in order."""
        settled = []
        while self.is_live and self._slices and self._slices[0].written.is_done:
            done = self._slices.popleft()
            self.commit = after(self.commit, done)
            self.num_settled += done.num_records
            if self.overlay is not None:
                rejections = [*done.rejections, *done.written.rejections]
                self.overlay.settle(done.written.changes, done.newest, rejections, done.written.state_end, done.log)
            if self.backfill is not None:
                self.backfill.settled(done)
                self._is_note_due = self._is_note_due or done.backfilled_to >= 0
            settled.append(done)
        while self._unfinished and self._unfinished[0][0] <= self.commit.offset:
            self._unfinished.popleft()
        return settled

    def failures(self) -> list[BatchSlice]:
        """Slices that have failed, in order."""
        return [each for each in tuple(self._slices) if each.written.has_failed]

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
        """Whether the committable offset has moved since the last commit, or belongs to another log. That moves it
        down."""
        return self.commit.offset != self.committed_offset or self._is_note_due

    def committed(self, commit: Commit) -> None:
        """The group has taken this."""
        self.committed_offset = commit.offset
        if commit.metadata == self.commit.metadata:
            self._is_note_due = False

    def has_open_slices(self) -> bool:
        return bool(self._slices)

    def retire(self) -> int:
        """Stop counting for anything; returns the number of records given up."""
        num_given_up = self.in_flight
        self.is_live = False
        self._slices.clear()  # they refer to us: a cycle would keep their records
        return num_given_up


def after(commit: Commit, done: BatchSlice) -> Commit:
    """The commit after a finished slice that follows on `commit`."""
    note = parse_note(commit.metadata) or Note(0)
    tenure = done.tenure
    following = None if done.backfill is None else done.backfill.noted(note.next, done)
    vectors_end = max(done.written.vectors_end, note.vectors_end)
    note = Note(vectors_end, tenure.log, tenure.outputs_id, tenure.state_id, following)
    return Commit(commit.offset if done.next_offset is None else done.next_offset, format_note(note))


def format_note(note: Note) -> str:
    """Text as it is committed. What is not known is left out."""
    named = (
        (_NOTE_PREFIX, str(note.vectors_end)),
        ("log=", note.log.topic_id),
        ("era=", str(note.log.era) if note.log.era else ""),
        ("outputs=", note.outputs_id),
        ("state=", note.state_id),
        ("next=", "" if note.next is None else note.next.format()),
    )
    return " ".join(f"{name}{value}" for name, value in named if value)


def parse_note(text: str) -> Note | None:
    """None when it is not one of ours. What a later version may say besides is passed over."""
    if not text.startswith(_NOTE_PREFIX):
        return None
    named = dict(word.partition("=")[::2] for word in text.split(" "))
    vectors_end, era = named["vectors_end"], named.get("era", "0")
    if not (_is_number(vectors_end) and _is_number(era)):
        return None
    log = InputLog(named.get("log", ""), int(era))
    following = parse_next(named.get("next", ""))
    return Note(int(vectors_end), log, named.get("outputs", ""), named.get("state", ""), following)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal()
