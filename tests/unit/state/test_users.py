from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from worker.align.history import Event
from worker.state.packing import is_marked
from worker.state.users import UserState, with_event

EVENTS = st.builds(
    Event, st.integers(0, 50), st.sampled_from("abcdefgh"), st.sampled_from(["i1", "i2"]), st.just("view")
)


def event(at: int, name: str) -> Event:
    return Event(at, name, f"item-{name}", "view")


def test_an_event_is_added_in_its_place() -> None:
    state = with_event(with_event(None, event(5, "a"), 0, 10), event(3, "b"), 1, 10)
    assert state == UserState(1, [event(3, "b"), event(5, "a")])


def test_a_duplicate_and_a_late_event_change_nothing() -> None:
    state = with_event(with_event(None, event(5, "a"), 0, 2), event(6, "b"), 1, 2)
    assert with_event(state, event(5, "a"), 9, 2) == "duplicate"
    assert with_event(state, event(1, "c"), 9, 2) == "too_old"


def test_the_record_that_changed_the_user_last_does_so_again() -> None:
    """Its vector may not have been published before a crash."""
    state = with_event(with_event(None, event(5, "a"), 3, 10), event(6, "b"), 4, 10)
    assert with_event(state, event(6, "b"), 4, 10) == state
    assert with_event(state, event(5, "a"), 3, 10) == "duplicate"


@given(st.lists(EVENTS, max_size=20), st.integers(1, 5), st.data())
def test_a_replay_ends_where_it_was(events: Any, last: Any, data: Any) -> None:
    def after(log: Any, state: Any = None) -> Any:
        for offset, each in log:
            changed = with_event(state, each, offset, last)
            state = state if isinstance(changed, str) else changed
        return state

    log = list(enumerate(events))
    state = after(log)
    again = after(log[data.draw(st.integers(0, len(log))) :], state)
    assert (again is None) == (state is None)
    assert again is None or list(again.events) == list(state.events)


def test_a_state_is_the_same_after_it_was_written() -> None:
    state = UserState(7, [event(1, "a"), event(2, "b")], is_incomplete=True)
    assert is_marked(state.encode())
    decoded = UserState.decode(state.encode())
    assert (decoded.offset, decoded.events) == (7, state.events)
    assert not is_marked(decoded.encode()), "the mark is of the moment of writing"
