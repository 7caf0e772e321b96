from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.builders import interactions, rows_of
from worker.data import Split, split_by_time
from worker.data.split import (
    MIN_ASKED_EVENTS,
    MIN_WARM_EVENTS,
    SHORT_SHARE,
    GivenPairs,
    everything_to_learn_from,
    first_of_pairs,
    sample_cold_items,
    split_as_given,
)

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
    for user in range(NUM_USERS):  # events are in order of time, so an index is a time
        learned, val, test = (
            indices[chosen.users_E[indices] == user]
            for indices in (np.flatnonzero(split.train_E), split.val_events, split.test_events)
        )
        for earlier, later in ((learned, val), (learned, test), (val, test)):
            assert (earlier[:, None] < later).all()
            assert (chosen.times_ms_E[earlier][:, None] <= chosen.times_ms_E[later]).all()


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
    val_U, test_U, left_U = (
        np.bincount(chosen.users_E[indices], minlength=NUM_USERS)
        for indices in (split.val_events, split.test_events, split.train_E)
    )
    assert (left_U + val_U + test_U == num_warm_U).all()
    is_long_U, is_single_U = num_warm_U >= MIN_WARM_EVENTS, num_warm_U < MIN_ASKED_EVENTS
    assert ((val_U == 1) & (test_U == 1))[is_long_U].all()
    assert (val_U + test_U <= 1)[~is_long_U].all()
    assert (val_U + test_U == 0)[is_single_U].all()
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


def test_users_with_few_events_are_asked_too_and_most_of_them_are_learned_from_whole() -> None:
    events = interactions([(user, item, item, 1.0) for user in range(500) for item in range(2 + user % 3)])
    nothing_I = np.zeros(NUM_ITEMS, bool)
    split = split_by_time(events, nothing_I, nothing_I)
    for indices in (split.val_events, split.test_events):
        users = split.events.users_E[indices]
        assert 0.7 * SHORT_SHARE < len(users) / 500 < 1.3 * SHORT_SHARE
        assert set((2 + users % 3).tolist()) == {2, 3, 4}
    assert not set(split.events.users_E[split.val_events]) & set(split.events.users_E[split.test_events])


def test_who_is_asked_does_not_depend_on_who_else_there_is() -> None:
    draws_U = np.array([0.1, 0.3, 0.9, 0.05])
    events = interactions([(user, item, item, 1.0) for user in range(4) for item in range(3)])
    nothing_I = np.zeros(NUM_ITEMS, bool)
    whole = split_by_time(events, nothing_I, nothing_I, draws_U)
    assert whole.events.users_E[whole.test_events].tolist() == [0, 3]
    assert whole.events.users_E[whole.val_events].tolist() == [1]
    fewer = split_by_time(events.where(events.users_E < 3), nothing_I, nothing_I, draws_U)
    assert fewer.events.users_E[fewer.test_events].tolist() == [0]


def given_split(val: Any) -> Split:
    """User 0 has items 0 to 5, asked for 1 and 3; user 1 has items 0 to 2, asked for 0."""
    events = interactions([(user, item, item, 1.0) for user, most in ((0, 6), (1, 3)) for item in range(most)])
    nothing_I = np.zeros(NUM_ITEMS, bool)
    test = GivenPairs(np.array([0, 0, 1]), np.array([1, 3, 0]))
    return split_as_given(events, nothing_I, nothing_I, val, test)


def test_a_given_split_asks_for_what_it_names_whatever_its_time() -> None:
    split = given_split(GivenPairs(np.array([0]), np.array([2])))
    named = [(split.events.users_E[each].tolist(), split.events.items_E[each].tolist())
             for each in (split.train_E, split.val_events, split.test_events)]  # fmt: skip
    assert named == [([0, 0, 0, 1, 1], [0, 4, 5, 1, 2]), ([0], [2]), ([0, 0, 1], [1, 3, 0])]
    assert split.order == "given"


def test_where_only_the_test_is_given_the_last_of_the_rest_is_to_choose_by() -> None:
    events = interactions([(0, item, item, 1.0) for item in range(7)])
    nothing_I = np.zeros(NUM_ITEMS, bool)
    split = split_as_given(events, nothing_I, nothing_I, None, GivenPairs(np.array([0]), np.array([1])))
    assert split.events.items_E[split.val_events].tolist() == [6]
    assert split.events.items_E[split.train_E].tolist() == [0, 2, 3, 4, 5]


@given(events=events_in_order, kinds=cold_masks)
def test_what_has_been_judged_can_be_learned_from_whole(events: Any, kinds: Any) -> None:
    whole = everything_to_learn_from(split_of(events, kinds))
    assert whole.train_E.all()
    assert whole.warm_I.all()
    assert not len(whole.val_events) + len(whole.test_events)


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
