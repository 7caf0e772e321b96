"""A user as events leave it. Pure; `align.history` decides what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from worker.align.history import Event, merged
from worker.state.input_log import era_of
from worker.state.packing import pack, unpack


@dataclass(frozen=True, slots=True)
class UserState:
    """What is remembered of a user."""

    offset: int
    """Of the last record that changed it."""
    events: Sequence[Event]
    """In order of time."""
    is_incomplete: bool = False
    """The item of some event had no vector when this was written."""

    def encode(self) -> bytes:
        return pack((self.offset, self.events), marked=self.is_incomplete)

    @classmethod
    def decode(cls, value: bytes) -> UserState:
        offset, events = unpack(value)
        return cls(offset, [Event(*event) for event in events])


def with_event(known: UserState | None, event: Event, offset: int, last: int) -> UserState | str:
    """The user after an event, or why it changes nothing: `duplicate` or `too_old`.

    `offset` is the record's place (`InputLog.at`). The record that changed the user last changes it again when it comes
    again: whether its vector was published before a crash is not known. Neither is it of a user that was last changed
    by an earlier log.
    """
    before = known.events if known is not None else []
    after = merged(before, [event], last)
    if known is None or after != before:
        return UserState(offset, after)
    if offset == known.offset or era_of(offset) > era_of(known.offset):
        return replace(known, offset=offset)
    return "duplicate" if any(each.event_id == event.event_id for each in before) else "too_old"
