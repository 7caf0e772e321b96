"""How events are divided to train, to choose and to judge.

Cold items are withheld whole: none of their events is in any history. Of the other items, each user with enough
positive events gives the last one to the test and the one before to validation; everything before is for training.
The order is that of time, so no history holds anything that came after what it is asked to predict.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from worker.data.dataset import Bools, Interactions, Ints

MIN_WARM_EVENTS = 5  # of a user, to be asked about


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into `events`, the positive events of the dataset, and masks over items."""

    events: Interactions
    """Positive events, in order of time."""
    train_E: Bools
    """Events to learn from: of warm items, before the user's validation event."""
    val_events: Ints
    """`[V]` one for each user asked about: the last but one positive event with a warm item."""
    test_events: Ints
    """`[V]`, of the same users: the last one."""
    cold_val_I: Bools
    """Items withheld from training to choose by."""
    cold_test_I: Bools
    """Items withheld from training to judge by."""

    @property
    def warm_I(self) -> Bools:
        warm_I: Bools = ~(self.cold_val_I | self.cold_test_I)
        return warm_I


def split_by_time(events: Interactions, cold_val_I: Bools, cold_test_I: Bools) -> Split:
    """Split the positive events: leave the last out, per user, and whole items, as given.

    Of an item that a user has several positive events with, the first counts.
    """
    positive = events.where(first_of_pairs(events) & (events.weights_E > 0))
    warm_E = ~(cold_val_I | cold_test_I)[positive.items_E]
    train_E = warm_E.copy()
    val, test = [], []
    order = np.flatnonzero(warm_E)
    order = order[np.argsort(positive.users_E[order], kind="stable")]
    users = positive.users_E[order]
    boundaries = np.flatnonzero(np.diff(users)) + 1
    for of_user in np.split(order, boundaries):
        if len(of_user) >= MIN_WARM_EVENTS:
            val.append(of_user[-2])
            test.append(of_user[-1])
    val_events, test_events = np.array(val, np.int64), np.array(test, np.int64)
    train_E[val_events] = train_E[test_events] = False
    return Split(positive, train_E, val_events, test_events, cold_val_I, cold_test_I)


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
