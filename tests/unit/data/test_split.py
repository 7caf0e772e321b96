from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.builders import interactions, rows_of
from worker.data import Split, split_by_time
from worker.data.split import MIN_WARM_EVENTS, first_of_pairs, sample_cold_items

NUM_USERS, NUM_ITEMS = 4, 12

events_in_order = st.lists(
    st.tuples(
        st.integers(0, NUM_USERS - 1),
        st.integers(0, NUM_ITEMS - 1),
        st.integers(0, 30),
        st.sampled_from([1.0, 0.5, -0.5]),
    ),
    max_size=120,
).map(lambda rows: interactions(sorted(rows, key=lambda row: row[2])))
cold_masks = st.lists(st.sampled_from(["warm", "warm", "warm", "val", "test"]), min_size=NUM_ITEMS, max_size=NUM_ITEMS)


def split_of(events: Any, kinds: Any) -> Split:
    return split_by_time(events, np.array([kind == "val" for kind in kinds]), np.array([k == "test" for k in kinds]))


@given(events=events_in_order, kinds=cold_masks)
def test_no_event_to_learn_from_is_after_what_its_user_is_asked(events: Any, kinds: Any) -> None:
    split = split_of(events, kinds)
    chosen = split.events
    for val, test in zip(split.val_events, split.test_events, strict=True):
        user = chosen.users_E[val]
        assert chosen.users_E[test] == user
        history = np.flatnonzero(split.train_E & (chosen.users_E == user))
        assert (history < val).all()
        assert val < test  # events are in order of time, so an index is a time
        assert (chosen.times_ms_E[history] <= chosen.times_ms_E[val]).all()
        assert chosen.times_ms_E[val] <= chosen.times_ms_E[test]


@given(events=events_in_order, kinds=cold_masks)
def test_cold_items_are_in_no_history_and_no_warm_question(events: Any, kinds: Any) -> None:
    split = split_of(events, kinds)
    for indices in (np.flatnonzero(split.train_E), split.val_events, split.test_events):
        assert split.warm_I[split.events.items_E[indices]].all()
    assert not (split.warm_I & (split.cold_val_I | split.cold_test_I)).any()


@given(events=events_in_order, kinds=cold_masks)
def test_each_user_with_enough_warm_events_gives_one_to_each_and_the_rest_to_training(events: Any, kinds: Any) -> None:
    split = split_of(events, kinds)
    chosen = split.events
    warm_E = split.warm_I[chosen.items_E]
    num_warm_U = np.bincount(chosen.users_E[warm_E], minlength=NUM_USERS)
    asked = set(np.flatnonzero(num_warm_U >= MIN_WARM_EVENTS).tolist())
    for indices in (split.val_events, split.test_events):
        assert len(indices) == len(asked)
        assert set(chosen.users_E[indices].tolist()) == asked
    left = [number - 2 if user in asked else number for user, number in enumerate(num_warm_U.tolist())]
    assert np.bincount(chosen.users_E[split.train_E], minlength=NUM_USERS).tolist() == left
    assert not (split.train_E & ~warm_E).any()


@given(events=events_in_order, kinds=cold_masks)
def test_only_the_first_positive_event_with_an_item_counts(events: Any, kinds: Any) -> None:
    split = split_of(events, kinds)
    first: dict[tuple[int, int], tuple[int, int, int, float]] = {}
    for row in rows_of(events):
        if row[3] > 0:
            first.setdefault(row[:2], row)
    assert rows_of(split.events) == list(first.values())


@given(events=events_in_order)
def test_all_that_is_not_positive_is_left_by_the_search_for_firsts(events: Any) -> None:
    marks_E = first_of_pairs(events)
    assert marks_E[events.weights_E <= 0].all()


def test_a_repeated_favourite_is_not_asked_about_again() -> None:
    rows = [(0, item, item, 1.0) for item in range(6)]
    again = [*rows, (0, 0, 10, 1.0)]
    split, other = split_of(interactions(rows), ["warm"] * 12), split_of(interactions(again), ["warm"] * 12)
    assert split.events.items_E[split.test_events].tolist() == [5] == other.events.items_E[other.test_events].tolist()


def test_without_events_nobody_is_asked() -> None:
    split = split_of(interactions([]), ["warm"] * 12)
    assert (len(split.events), len(split.val_events), len(split.test_events)) == (0, 0, 0)


def test_cold_items_are_a_seeded_share_of_the_candidates() -> None:
    among_I = np.arange(200) % 2 == 0
    cold_I = sample_cold_items(200, 0.25, 3, among_I)
    assert cold_I.sum() == 25
    assert not (cold_I & ~among_I).any()
    assert (cold_I == sample_cold_items(200, 0.25, 3, among_I)).all()
    assert (cold_I != sample_cold_items(200, 0.25, 4, among_I)).any()
