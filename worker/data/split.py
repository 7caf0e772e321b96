"""How events are divided to train, to choose and to judge.

Cold items are withheld whole: none of their events is in any history. What is asked of the others is either a matter of
time, or given: files of events say which to choose by and which to judge by.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from worker.data.dataset import Bools, Interactions, Ints

MIN_WARM_EVENTS = 5
"""Of a user who is asked both to choose by and to judge by."""
MIN_ASKED_EVENTS = 2
"""Of a user who is asked at all: one in the history, and one to ask for."""
SHORT_SHARE = 0.2
"""Of the users between the two, those who are asked to judge by, and as many others to choose by. If all of them were,
nothing would be left to learn from where most histories are short."""

Order = Literal["time", "given"]


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into `events`, the positive events of the dataset, and masks over items."""

    events: Interactions
    """Positive events, of each user in the order that histories have: that of time, or, for a split that was given,
    those to learn from, to choose by and to judge by, each in order of time."""
    train_E: Bools
    """Events to learn from, all of warm items."""
    val_events: Ints
    """Events with warm items to choose by; of a user, they follow all those to learn from."""
    test_events: Ints
    """Events with warm items to judge by; of a user, they follow all others."""
    cold_val_I: Bools
    """Items withheld from training to choose by."""
    cold_test_I: Bools
    """Items withheld from training to judge by."""
    order: Order = "time"

    @property
    def warm_I(self) -> Bools:
        warm_I: Bools = ~(self.cold_val_I | self.cold_test_I)
        return warm_I


def split_by_time(
    events: Interactions, cold_val_I: Bools, cold_test_I: Bools, draws_U: NDArray[np.float64] | None = None
) -> Split:
    """Split the positive events by time, within each user, and whole items, as given.

    Of an item that a user has several positive events with, the first counts. A user with five warm events or more
    gives the last to the test and the one before to validation; of those with two to four, a share gives the last to
    the test and as many others the last to validation. `draws_U`, from 0 to 1, says who: by default it is drawn by the
    number of the user; made of the ids, it does not depend on who else there is.
    """
    positive = events.where(first_of_pairs(events) & (events.weights_E > 0))
    warm_E = ~(cold_val_I | cold_test_I)[positive.items_E]
    num_users = int(positive.users_E.max(initial=-1)) + 1
    draws_U = np.random.default_rng(0).random(num_users) if draws_U is None else draws_U[:num_users]
    order = np.flatnonzero(warm_E)
    order = order[np.argsort(positive.users_E[order], kind="stable")]
    count_U = np.bincount(positive.users_E[order], minlength=num_users)
    end_U = np.cumsum(count_U)
    is_long_U = count_U >= MIN_WARM_EVENTS
    is_short_U = (count_U >= MIN_ASKED_EVENTS) & ~is_long_U
    in_test_U = is_long_U | (is_short_U & (draws_U < SHORT_SHARE))
    in_val_U = is_short_U & (draws_U >= SHORT_SHARE) & (draws_U < 2 * SHORT_SHARE)
    test_events = order[end_U[in_test_U] - 1]
    val_events = order[np.sort(np.concatenate([end_U[is_long_U] - 2, end_U[in_val_U] - 1]))]
    train_E = warm_E.copy()
    train_E[val_events] = train_E[test_events] = False
    return Split(positive, train_E, val_events, test_events, cold_val_I, cold_test_I)


@dataclass(frozen=True, slots=True)
class GivenPairs:
    """Users with items, by number: what somebody else's split asks for."""

    users_P: Ints
    items_P: Ints

    def marks(self, events: Interactions) -> Bools:
        """Which events are of these."""
        most = max(int(self.items_P.max(initial=0)), int(events.items_E.max(initial=0))) + 1
        marks_E: Bools = np.isin(events.users_E * most + events.items_E, self.users_P * most + self.items_P)
        return marks_E


def split_as_given(
    events: Interactions,
    cold_val_I: Bools,
    cold_test_I: Bools,
    val: GivenPairs | None,
    test: GivenPairs,
    draws_U: NDArray[np.float64] | None = None,
) -> Split:
    """Split the positive events as somebody else did: a user with an item is asked for where it is among these pairs,
    whatever its time. What is in both is in the test. Where only the test is given, the last of the other events of a
    user is to choose by, as in a split by time."""
    positive = events.where(first_of_pairs(events) & (events.weights_E > 0))
    in_test_E = test.marks(positive)
    in_val_E = val.marks(positive) if val is not None else _last_of(positive, ~in_test_E, draws_U)
    place_E = np.where(in_test_E, 2, np.where(in_val_E, 1, 0))
    order = np.argsort(place_E, kind="stable")
    positive, place_E = positive.where(order), place_E[order]
    warm_E = ~(cold_val_I | cold_test_I)[positive.items_E]
    return Split(
        positive,
        warm_E & (place_E == 0),
        np.flatnonzero(warm_E & (place_E == 1)),
        np.flatnonzero(warm_E & (place_E == 2)),
        cold_val_I,
        cold_test_I,
        order="given",
    )


def _last_of(positive: Interactions, among_E: Bools, draws_U: NDArray[np.float64] | None) -> Bools:
    """Marks what a split by time would choose by, if these were all the events."""
    among = np.flatnonzero(among_E)
    nothing_I = np.zeros(int(positive.items_E.max(initial=-1)) + 1, bool)
    marks_E = np.zeros(len(positive), bool)
    marks_E[among[split_by_time(positive.where(among), nothing_I, nothing_I, draws_U).test_events]] = True
    return marks_E


def everything_to_learn_from(split: Split) -> Split:
    """The same events with nothing withheld and nobody asked: what a space is trained on that has been judged."""
    nothing_I = np.zeros_like(split.cold_val_I)
    nobody = np.zeros(0, np.int64)
    everything_E = np.ones(len(split.events), bool)
    return replace(
        split,
        train_E=everything_E,
        val_events=nobody,
        test_events=nobody,
        cold_val_I=nothing_I,
        cold_test_I=nothing_I.copy(),
    )


def first_of_pairs(events: Interactions) -> Bools:
    """Marks the first positive event of every user with every item, and all that are not positive."""
    positive = np.flatnonzero(events.weights_E > 0)
    items_P = events.items_E[positive]
    pairs_P = events.users_E[positive] * (items_P.max(initial=0) + 1) + items_P
    _, first = np.unique(pairs_P, return_index=True)
    marks_E: Bools = events.weights_E <= 0
    marks_E[positive[first]] = True
    return marks_E


def sample_cold_items(num_items: int, share: float, seed: int, among_I: Bools) -> Bools:
    """A seeded share of the items marked in `among_I`."""
    candidates = np.flatnonzero(among_I)
    chosen = np.random.default_rng(seed).permutation(candidates)[: round(share * len(candidates))]
    cold_I = np.zeros(num_items, bool)
    cold_I[chosen] = True
    return cold_I
