"""What is kept of a user's events does not depend on how they came."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from worker.align.history import Event, appended, merged

EVENTS = st.builds(
    Event,
    event_time_ms=st.integers(0, 6),
    event_id=st.sampled_from("abcdefgh"),
    item_id=st.sampled_from("xy"),
    event_type=st.sampled_from(["view", "like"]),
)


def newest(events: list[Event], last: int) -> list[Event]:
    """By the definition: the latest of each id, then the newest."""
    latest = [max(event for event in events if event.event_id == event_id) for event_id in {e.event_id for e in events}]
    return sorted(latest)[-last:]


@given(st.lists(EVENTS, max_size=20), st.lists(st.integers(0, 20), max_size=4), st.integers(1, 6))
def test_any_order_any_division_and_any_repetition_give_the_same(
    events: list[Event], cuts: list[int], last: int
) -> None:
    history: list[Event] = []
    edges = [0, *sorted(cuts), len(events)]
    for start, end in pairwise(edges):
        history = merged(history, events[start:end], last)
    history = merged(history, events[: len(events) // 2], last)
    assert history == newest(events, last)


def test_it_is_in_order_of_time_then_id() -> None:
    events = [Event(2, "b", "x", "like"), Event(1, "c", "x", "like"), Event(2, "a", "x", "like")]
    assert [event.event_id for event in merged([], events, 3)] == ["c", "a", "b"]


def test_an_event_that_is_too_old_changes_nothing() -> None:
    history = merged([], [Event(time, f"e{time}", "x", "like") for time in (5, 6, 7)], 3)
    assert merged(history, [Event(4, "old", "x", "like")], 3) == history


@given(st.lists(EVENTS, max_size=8), EVENTS, st.integers(1, 6))
def test_to_append_the_newest_event_is_to_merge_it(events: list[Event], event: Event, last: int) -> None:
    history = merged([], events, last)
    found = appended(history, event, last)
    assert found in (None, merged(history, [event], last))
    is_newest = not history or event > history[-1]
    is_known = event.event_id in {each.event_id for each in history}
    assert (found is None) == (not is_newest or is_known)
