"""A user as events leave it. Pure; `align.history` decides what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from worker.align.history import Event, appended, merged
from worker.state.input_log import era_of
from worker.state.packing import pack, unpack

_event = partial(tuple.__new__, Event)
"""A named tuple's own constructor takes three times as long, and a user has many events."""


class UserState(NamedTuple):
    """State of a user."""

    offset: int
    """Offset of the last record that changed it."""
    events: Sequence[Event]
    """In order of time."""
    is_incomplete: bool = False
    """The item of some event had no vector when this was written."""

    def encode(self) -> bytes:
        return pack((self.offset, self.events), marked=self.is_incomplete)

    @classmethod
    def decode(cls, value: bytes) -> UserState:
        offset, events = unpack(value)
        return cls(offset, list(map(_event, events)))


def with_event(known: UserState | None, event: Event, offset: int, last: int) -> UserState | str:
    """The user after an event, or why it changes nothing: `duplicate` or `too_old`.

    `offset` is the record's place (`InputLog.at`). The record that changed the user last changes it again when it comes
    again: whether its vector was published before a crash is not known. Neither is it of a user that was last changed
    by an earlier log.
    """
    before = known.events if known is not None else []
    if (after := appended(before, event, last)) is not None:
        return UserState(offset, after)
    after = merged(before, [event], last)
    if known is None or after != before:
        return UserState(offset, after)
    if offset == known.offset or era_of(offset) > era_of(known.offset):
        return known._replace(offset=offset)
    return "duplicate" if any(each.event_id == event.event_id for each in before) else "too_old"
