"""Questions that somebody gives, with histories of their own, instead of those that a split makes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from worker.data import Dataset, Interactions
from worker.data.question_file import Question
from worker.errors import DataError
from worker.evaluate.questions import Questions


def given_questions(given: Iterable[Question], dataset: Dataset, *, rank_seen: bool) -> tuple[Questions, int]:
    """The questions, and how many were left out because the catalogue has none of their answers.

    All items are ranked; with `rank_seen` those of the history, too. Items of a history that the catalogue lacks are
    left out of it. Users whom the events do not know have numbers beyond those of the dataset.
    """
    items = {item_id: number for number, item_id in enumerate(dataset.item_ids)}
    users = {user_id: number for number, user_id in enumerate(dataset.user_ids)}
    users_Q, histories, answers, num_left_out = [], list[list[int]](), list[list[int]](), 0
    for each in given:
        relevant = sorted({items[item_id] for item_id in each.relevant if item_id in items})
        if not relevant:
            num_left_out += 1
            continue
        users_Q.append(users.setdefault(each.user_id, len(users)))
        histories.append([items[item_id] for item_id in each.history if item_id in items])
        answers.append(relevant)
    if not answers:
        raise DataError("--questions: there is no question whose answer is an item of the catalogue")
    lengths_Q = np.array([len(each) for each in histories])
    end_Q = np.cumsum(lengths_Q)
    begin_Q = end_Q - lengths_Q
    num_events = int(end_Q[-1])
    line = Interactions(
        np.repeat(np.array(users_Q), lengths_Q),
        np.array([item for each in histories for item in each], np.int64),
        np.arange(num_events) - np.repeat(begin_Q, lengths_Q),
        np.ones(num_events, np.float32),
    )
    return (
        Questions(
            line=line,
            begin_Q=begin_Q,
            end_Q=end_Q,
            seen_end_Q=begin_Q if rank_seen else end_Q,
            users_Q=np.array(users_Q),
            candidates_C=np.arange(dataset.num_items),
            relevant_P=np.array([item for each in answers for item in each]),
            starts=np.concatenate([[0], np.cumsum([len(each) for each in answers])]),
        ),
        num_left_out,
    )
