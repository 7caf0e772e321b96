"""The history kept of a user's events: the newest `last`, each once, in order of time.

The result of any number of `merged` calls depends on the set of events alone: not on their order of arrival, nor on
how often each arrives, nor on where the calls divide them. Of events with the same id the latest counts. Choosing
the earliest would not do: it may lie before what is kept, and then the later one would be gone or not, depending on
which came first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Event(NamedTuple):
    """One thing a user did. Events are in order of their fields, the first that differs deciding."""

    event_time_ms: int
    event_id: str
    item_id: str
    event_type: str


def appended(history: Sequence[Event], event: Event, last: int) -> list[Event] | None:
    """Merge as `merged` does where the event is new and the newest, as most are; else None."""
    if history and (event <= history[-1] or event.event_id in [each.event_id for each in history]):
        return None
    return [*history, event][-last:]


def merged(history: Sequence[Event], events: Iterable[Event], last: int) -> list[Event]:
    """The newest `last` events of both, in order of time. `history` is the result of an earlier call, or empty."""
    by_id: dict[str, Event] = {event.event_id: event for event in history}
    for event in events:
        known = by_id.get(event.event_id)
        if known is None or event > known:
            by_id[event.event_id] = event
    return sorted(by_id.values())[-last:]
