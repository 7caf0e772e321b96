"""Who is asked, to learn: users as they are met in serving, of every length of history.

    U users   Q questions

Where a hundred users hold most of the events, a training that learned from all events alike would be made for them. So
no user is asked more than some questions in an epoch.
"""

from __future__ import annotations

import numpy as np

from worker.data import Split
from worker.data.dataset import Bools, Ints
from worker.evaluate.questions import Questions, train_questions

LEAST_QUESTIONS = 8
MEDIANS = 8
"""A user is asked at most this many times as many questions in an epoch as half of the users have, and not fewer than
`LEAST_QUESTIONS`."""
LEAST_ASKED, MOST_SCORES = 1_000, 200_000_000
"""Validation asks so many users, if there are, and more while it does not take more scores than that."""


def most_asked(num_candidates: int) -> int:
    """Of how many users validation asks one kind of question: of all, unless the catalogue is large, too."""
    return max(LEAST_ASKED, MOST_SCORES // max(1, num_candidates))


LONGEST_PASS, SHORT_EPOCH = 500, 100
"""Steps. An epoch is a pass over all questions that may be asked in it, unless that is longer than the first; then it
has as many as the second."""


def steps_of_epoch(steps_of_pass: int, given: int | None) -> int:
    if given is not None:
        return min(steps_of_pass, given)
    return steps_of_pass if steps_of_pass <= LONGEST_PASS else SHORT_EPOCH


def learned_from(split: Split, usable_I: Bools, first_events: bool) -> Questions:
    """The questions about training events whose items have a vector. With `first_events` those without a history, too:
    what a user begins with says what is popular, and nothing else."""
    questions = train_questions(split)
    answerable_Q = usable_I[questions.relevant_P] & ((questions.lengths_Q > 0) | first_events)
    return questions.where(np.flatnonzero(answerable_Q))


def most_per_user(users_Q: Ints, given: int | None) -> int:
    """How many questions a user is asked in an epoch at most: as given, or by what most users have."""
    if given is not None or not len(users_Q):
        return given or 1
    _, counts_U = np.unique(users_Q, return_counts=True)
    return max(LEAST_QUESTIONS, round(MEDIANS * float(np.median(counts_U))))


def num_capped(users_Q: Ints, most: int) -> int:
    """How many questions `capped` leaves."""
    _, counts_U = np.unique(users_Q, return_counts=True)
    return int(np.minimum(counts_U, most).sum())


def capped(users_Q: Ints, order: Ints, most: int) -> Ints:
    """Of the questions in this order the first `most` of each user, in the same order."""
    by_user = np.argsort(users_Q[order], kind="stable")
    sorted_Q = users_Q[order][by_user]
    place_Q = np.empty(len(order), np.int64)
    place_Q[by_user] = np.arange(len(order)) - np.searchsorted(sorted_Q, sorted_Q)
    return order[place_Q < most]
