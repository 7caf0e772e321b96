"""Where work on a partition begins, and in which log. Pure: what is known comes in, a decision goes out.

A log is known by the id of its topic. The group's commits name it, and so does the changelog, because a broker forgets
the commits of a topic that is deleted. Where it is another one than before, or no longer reaches as far as it was read,
its offsets say nothing of what is remembered: it begins a new era (`state/input_log.py`), at its beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.partitions.tenure import Note
from worker.state.input_log import InputLog, era_of
from worker.topics import RoleTopics


@dataclass(frozen=True, slots=True)
class Known:
    """Traces of earlier owners of a partition, and the identity of the log now."""

    committed: int | None
    """The group's offset; None where there is none."""
    note: Note | None
    """Metadata committed beside it."""
    remembered: InputLog | None
    """Identity of the log, as the changelog has it."""
    newest_published: int
    """The greatest place (`InputLog.at`) of an input in the outputs, or -1."""
    topic_id: str
    """The log as it is now: its topic's id, or empty."""
    first: int
    """Its first offset,"""
    end: int
    """and the one that its next record will get."""
    doubt: str = ""
    """Why it may be another one, whatever its id says."""


@dataclass(frozen=True, slots=True)
class Origin:
    log: InputLog
    offset: int
    reason: str = ""
    """Why the log is taken for another one than before; empty where it is not."""
    num_expired: int = 0
    """Records before `offset` that the log has dropped and the group had not read."""


def origin(known: Known) -> Origin:
    before = _before(known)
    log = InputLog(known.topic_id or before.topic_id, before.era)
    if reason := _reason(known, before, log):
        era = max(before.era, era_of(max(0, known.newest_published)))
        return Origin(log._replace(era=era + 1), known.first, reason)
    committed = known.committed
    if committed is None or _is_of_earlier_log(known.note, log):
        return Origin(log, known.first)
    offset = max(committed, known.first)
    return Origin(log, offset, num_expired=offset - committed)


def _before(known: Known) -> InputLog:
    """The log that was read last, as far as anything says."""
    found = [log for log in (known.note and known.note.log, known.remembered) if log is not None]
    if not found:  # another group may have made the outputs: what this one makes must not be older to readers
        return InputLog("", era_of(max(0, known.newest_published)))
    return max(found, key=lambda log: (log.era, bool(log.topic_id)))


def _is_of_earlier_log(note: Note | None, log: InputLog) -> bool:
    """Whether a commit was made before the log was taken up."""
    return note is not None and bool(note.log.topic_id) and note.log != log


def _reason(known: Known, before: InputLog, log: InputLog) -> str:
    if before.topic_id and known.topic_id and before.topic_id != known.topic_id:
        return f"its topic was deleted and made again (id {known.topic_id}, before that {before.topic_id})"
    if known.doubt:
        return known.doubt
    if known.committed is not None and known.committed > known.end and not _is_of_earlier_log(known.note, log):
        return f"it ends at offset {known.end}, before offset {known.committed}, up to which the group has read it"
    if era_of(max(0, known.newest_published)) == log.era and known.newest_published >= log.at(known.end):
        newest = known.newest_published - log.at(0)
        return f"it ends at offset {known.end}, before offset {newest}, of which there is an output"
    return ""


_ANOTHER = "is not the one of before (it was made again, or the setting names another)"


@dataclass(frozen=True, slots=True)
class FoundLogs:
    """Whether the logs of a partition are those of before."""

    origin: Origin
    are_outputs_new: bool
    is_state_new: bool

    def told(self, topics: RoleTopics) -> Sequence[str]:
        """Sentences for a person, one for each log; none where all is as it was."""
        inputs, outputs, state = topics.settings
        told = []
        if self.origin.reason:
            told.append(f"{inputs}: topic {topics.inputs!r} is another log than before: {self.origin.reason}")
        if self.are_outputs_new:
            told.append(f"{outputs}: topic {topics.outputs!r} {_ANOTHER}: it lacks what was published before")
        if self.is_state_new:
            told.append(f"{state}: topic {topics.state!r} {_ANOTHER}: it lacks what was remembered before")
        return told


def found_logs(known: Known, outputs_id: str, state_id: str) -> FoundLogs:
    """Judge all three by what was committed."""
    note = known.note or Note(0)
    return FoundLogs(
        origin(known),
        are_outputs_new=are_different(note.outputs_id, outputs_id),
        is_state_new=are_different(note.state_id, state_id),
    )


def are_different(before: str | None, now: str) -> bool:
    """Whether two ids of a topic name different ones. Where one is not known nothing is."""
    return bool(before and now) and before != now


def watched_topics(topics: RoleTopics) -> Sequence[str]:
    return topics.inputs, *topics.written, topics.dead_letters
