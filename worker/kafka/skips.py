"""Stretches left out of logs because they cannot be read: told once, and known to all who read them.

An operator's decision to pass over a batch lies with the brokers, as the commit of a group that has no members and so
takes commits from anyone, whether workers run or not: where to read on, with a note of what is left out. Who meets the
batch asks here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol

from worker.errors import UnreadableError
from worker.kafka.port import Commit
from worker.records import TopicPartition

log = logging.getLogger(__name__)

SUFFIX = "-skipped"
_PREFIX = "skipped="
_MAX_NOTE_CHARS = 4_000  # the broker's default bound, offset.metadata.max.bytes, is 4,096


class Skip(NamedTuple):
    """Offsets from `first` up to, and without, `until`."""

    first: int
    until: int


class GroupCommits(Protocol):
    """The commits of a group that has no members, through a client of its own."""

    def read(self, partition: TopicPartition) -> Commit | None: ...

    def write(self, partition: TopicPartition, commit: Commit) -> None: ...


class Skips:
    """The offsets of a partition that are left out. Any thread; each call opens a client of its own, because there are
    few."""

    def __init__(self, open_commits: Callable[[str], AbstractContextManager[GroupCommits]], group_id: str) -> None:
        """`group_id` is the workers' group, beside whose commits these lie; `open_commits` takes the name of a group,
        and raises `worker.errors` only, as what it opens does."""
        self._open = open_commits
        self._group_id = f"{group_id}{SUFFIX}"

    def add(self, partition: TopicPartition, skip: Skip) -> None:
        with self._open(self._group_id) as commits:
            _write(commits, partition, joined([*_read(commits, partition), skip]))

    def behind(self, error: UnreadableError) -> int | None:
        """Where to read on behind what could not be read; None where nobody has said to leave it out."""
        partition = TopicPartition(error.topic, error.partition)
        try:
            with self._open(self._group_id) as commits:
                known = _read(commits, partition)
                until = end_of_skip(known, error)
                if until is not None:  # a commit that nobody renews is forgotten by the brokers
                    _write(commits, partition, known)
        except Exception as problem:  # what stands is that the partition cannot be read
            log.warning("%s", problem, extra={"action": "skips_unknown"})
            return None
        if until is not None:
            log.warning(
                "%s/%d: what cannot be read from offset %d to %d is left out, as dlq skip has told us",
                *partition, error.offset, until - 1,
                extra={"action": "skipped"},
            )  # fmt: skip
        return until


def _read(commits: GroupCommits, partition: TopicPartition) -> list[Skip]:
    found = commits.read(partition)
    return [] if found is None else parsed(found.metadata)


def _write(commits: GroupCommits, partition: TopicPartition, skips: Sequence[Skip]) -> None:
    commits.write(partition, Commit(skips[-1].until, noted(skips)))


def end_of_skip(skips: Sequence[Skip], error: UnreadableError) -> int | None:
    """End of the skip that leaves out what cannot be read. Compaction may have taken what lay between the last record
    and the batch, so that a reader who has come from further back meets the same batch at an earlier offset."""
    for skip in skips:
        if skip.first <= error.offset < skip.until or skip.until == error.next_offset:
            return skip.until
    return None


def joined(skips: Sequence[Skip]) -> list[Skip]:
    """In order, those that touch as one."""
    found: list[Skip] = []
    for skip in sorted(skips):
        if found and skip.first <= found[-1].until:
            found[-1] = Skip(found[-1].first, max(found[-1].until, skip.until))
        else:
            found.append(skip)
    return found


def noted(skips: Sequence[Skip]) -> str:
    """The newest that find room."""
    kept: list[str] = []
    for skip in reversed(skips):
        kept.insert(0, f"{skip.first}-{skip.until}")
        if len(",".join(kept)) > _MAX_NOTE_CHARS:
            return _PREFIX + ",".join(kept[1:])
    return _PREFIX + ",".join(kept)


def parsed(note: str) -> list[Skip]:
    """Empty where another writer made it."""
    if not note.startswith(_PREFIX):
        return []
    try:
        return [Skip(*map(int, part.split("-"))) for part in note.removeprefix(_PREFIX).split(",") if part]
    except (ValueError, TypeError):
        return []
