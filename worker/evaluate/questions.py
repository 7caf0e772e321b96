"""What a model is asked: to rank candidates for a user, given what the user did before.

    Q questions   C candidates   P relevant items   H events of all users, one user after the other, in order of time

The history of a question is a stretch of its user's line of events, and so costs two numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.data import Interactions, Split
from worker.data.dataset import Floats, Ints
from worker.evaluate.metrics import Ranking, ranks_of

JudgedBy = Literal["val", "test"]
"""To choose by, or to judge by."""

DAY_MS = 86_400_000
SAMPLE_SEED = 0
ASKED_AT_ONCE = 256
SCORES_AT_ONCE = 1 << 25
"""Bounds the memory of an answer: among many candidates fewer questions are asked at a time."""


class Padded(NamedTuple):
    """Histories side by side, the newest event last, -1 where there is none."""

    items_QN: Ints
    times_ms_QN: Ints
    weights_QN: Floats


@dataclass(frozen=True, slots=True)
class Questions:
    """Whom to ask what."""

    line: Interactions
    """`[H]`"""
    begin_Q: Ints
    end_Q: Ints
    """The history of question q is `line[begin_Q[q]:end_Q[q]]`."""
    seen_end_Q: Ints
    """`line[begin_Q[q]:seen_end_Q[q]]` is what the user has seen: it is not recommended again."""
    users_Q: Ints
    candidates_C: Ints
    """The items to rank, rising."""
    relevant_P: Ints
    """Positions among the candidates."""
    starts: Ints
    """`[Q + 1]`: the relevant ones of question q are `starts[q]` to `starts[q + 1]`, at least one."""

    def __len__(self) -> int:
        return len(self.users_Q)

    @property
    def lengths_Q(self) -> Ints:
        """Events in each history."""
        return self.end_Q - self.begin_Q

    def behind(self, num_events: int) -> Questions:
        """The same with histories that lack the newest events; what has been seen stays seen."""
        return replace(self, end_Q=np.maximum(self.begin_Q, self.end_Q - num_events))

    def where(self, chosen_Q: Ints) -> Questions:
        """Those chosen, by index."""
        counts = np.diff(self.starts)[chosen_Q]
        return replace(
            self,
            begin_Q=self.begin_Q[chosen_Q],
            end_Q=self.end_Q[chosen_Q],
            seen_end_Q=self.seen_end_Q[chosen_Q],
            users_Q=self.users_Q[chosen_Q],
            relevant_P=self.relevant_P[_stretches(self.starts[chosen_Q], counts)],
            starts=np.concatenate([[0], np.cumsum(counts)]),
        )

    def sample(self, most: int) -> Questions:
        """At most so many of them, spread at random, the same ones every time."""
        if len(self) <= most:
            return self
        return self.where(np.sort(np.random.default_rng(SAMPLE_SEED).permutation(len(self))[:most]))

    def histories(self, last: int) -> Padded:
        """The newest events of every history, at most `last` of them; N is at least 1."""
        lengths_Q = np.minimum(self.lengths_Q, last)
        width = int(lengths_Q.max(initial=1))
        there_QN = np.arange(width) >= (width - lengths_Q)[:, None]
        rows_H = (self.end_Q[:, None] - width + np.arange(width))[there_QN]
        padded = Padded(
            np.full(there_QN.shape, -1), np.zeros(there_QN.shape, np.int64), np.zeros(there_QN.shape, np.float32)
        )
        padded.items_QN[there_QN] = self.line.items_E[rows_H]
        padded.times_ms_QN[there_QN] = self.line.times_ms_E[rows_H]
        padded.weights_QN[there_QN] = self.line.weights_E[rows_H]
        return padded

    def history_pairs(self) -> tuple[Ints, Ints]:
        """The histories as (question, item) pairs."""
        return self._pairs(self.end_Q)

    def seen_pairs(self) -> tuple[Ints, Ints]:
        """What is not recommended again, as (question, item) pairs."""
        return self._pairs(self.seen_end_Q)

    def _pairs(self, end_Q: Ints) -> tuple[Ints, Ints]:
        counts = end_Q - self.begin_Q
        return np.repeat(np.arange(len(self)), counts), self.line.items_E[_stretches(self.begin_Q, counts)]


Score = Callable[[Questions], Tensor]
"""`[Q, C]`: how well each candidate suits each question. Asked for a few hundred questions at a time."""


def ask(questions: Questions, score: Score, chunk: int | None = None) -> Ranking:
    """Rank the candidates of every question by `score`, without those that the user has seen. `chunk` questions are
    asked at a time, by default as many as memory allows: there is never a matrix of all users and items."""
    chunk = chunk or max(1, min(ASKED_AT_ONCE, SCORES_AT_ONCE // max(1, len(questions.candidates_C))))
    pieces = [np.zeros(0, np.int64)]
    for start in range(0, len(questions), chunk):
        some = questions.where(np.arange(start, min(start + chunk, len(questions))))
        scores_QC = _without_seen(some, score(some))
        rows_P = np.repeat(np.arange(len(some)), np.diff(some.starts))
        device = scores_QC.device
        ranks_P = ranks_of(scores_QC, torch.from_numpy(rows_P).to(device), torch.from_numpy(some.relevant_P).to(device))
        pieces.append(ranks_P.cpu().numpy())
    return Ranking(np.concatenate(pieces), questions.starts)


def _without_seen(questions: Questions, scores_QC: Tensor) -> Tensor:
    rows, items = questions.seen_pairs()
    columns = np.searchsorted(questions.candidates_C, items)
    found = columns < len(questions.candidates_C)
    found[found] = questions.candidates_C[columns[found]] == items[found]
    scores_QC = scores_QC.clone()
    scores_QC[torch.from_numpy(rows[found]), torch.from_numpy(columns[found])] = -torch.inf
    return scores_QC


def warm_questions(split: Split, part: JudgedBy) -> Questions:
    """One for each user who is asked: which item came next, among all? The history is everything before it.

    In a split that was given a user may be asked for several: all of them are relevant, and none is in the history.
    """
    line, place_E = _lines(split)
    asked = split.val_events if part == "val" else split.test_events
    asked = asked[np.argsort(place_E[asked])]  # user by user
    users_Q, first, counts = np.unique(split.events.users_E[asked], return_index=True, return_counts=True)
    end_Q = place_E[asked][first]
    return Questions(
        line=line,
        begin_Q=np.searchsorted(line.users_E, users_Q),
        end_Q=end_Q,
        seen_end_Q=end_Q,
        users_Q=users_Q,
        candidates_C=np.arange(len(split.cold_val_I)),
        relevant_P=split.events.items_E[asked],
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def train_questions(split: Split) -> Questions:
    """The same question about each event to learn from. That about a user's first event has no history."""
    targets = np.flatnonzero(split.train_E)
    line, place_E = _lines(split)
    users_Q = split.events.users_E[targets]
    return Questions(
        line=line,
        begin_Q=np.searchsorted(line.users_E, users_Q),
        end_Q=place_E[targets],
        seen_end_Q=place_E[targets],
        users_Q=users_Q,
        candidates_C=np.arange(len(split.cold_val_I)),
        relevant_P=split.events.items_E[targets],
        starts=np.arange(len(targets) + 1),
    )


def cold_questions(split: Split, part: JudgedBy, *, whole_catalogue: bool = False) -> Questions:
    """One for each user who liked an item that was withheld: which of those items are they?

    The history is what the user did with the other items, before anything that validation (or the test) asks. The
    withheld items are the candidates; with `whole_catalogue` all are, as on a shelf that new items have to themselves
    or share.
    """
    line, place_E = _lines(split)
    cold_I = split.cold_val_I if part == "val" else split.cold_test_I
    liked = np.flatnonzero(cold_I[split.events.items_E])
    liked = liked[np.argsort(split.events.users_E[liked], kind="stable")]
    users_Q, counts = np.unique(split.events.users_E[liked], return_counts=True)
    candidates_C = np.arange(len(cold_I)) if whole_catalogue else np.flatnonzero(cold_I)
    end_U = np.searchsorted(line.users_E, np.arange(int(split.events.users_E.max(initial=-1)) + 1), side="right")
    asked = np.concatenate([split.val_events, split.test_events]) if part == "val" else split.test_events
    np.minimum.at(end_U, split.events.users_E[asked], place_E[asked])
    return Questions(
        line=line,
        begin_Q=np.searchsorted(line.users_E, users_Q),
        end_Q=end_U[users_Q],
        seen_end_Q=end_U[users_Q],
        users_Q=users_Q,
        candidates_C=candidates_C,
        relevant_P=np.searchsorted(candidates_C, split.events.items_E[liked]),
        starts=np.concatenate([[0], np.cumsum(counts)]),
    )


def replay_questions(split: Split, newest_share: float, refreshed_every_ms: int | None = None) -> Questions:
    """One for each of the newest events with a warm item, in order of time: would it have been predicted before?

    The history is what came before, or, with `refreshed_every_ms`, what came before the last multiple of that time:
    all that a job that runs once in that time can know.
    """
    line, place_E = _lines(split)
    asked = np.flatnonzero(place_E >= 0)
    asked = asked[len(asked) - round(newest_share * len(asked)) :]
    users_Q, times_ms_Q = split.events.users_E[asked], split.events.times_ms_E[asked]
    known_ms_Q = times_ms_Q if refreshed_every_ms is None else times_ms_Q - times_ms_Q % refreshed_every_ms
    return Questions(
        line=line,
        begin_Q=np.searchsorted(line.users_E, users_Q),
        end_Q=_first_not_before(line, users_Q, known_ms_Q),
        seen_end_Q=_first_not_before(line, users_Q, times_ms_Q),
        users_Q=users_Q,
        candidates_C=np.arange(len(split.cold_val_I)),
        relevant_P=split.events.items_E[asked],
        starts=np.arange(len(asked) + 1),
    )


def _lines(split: Split) -> tuple[Interactions, Ints]:
    """The events with warm items, user by user, and where each event is among them; -1: it is not."""
    warm = np.flatnonzero(split.warm_I[split.events.items_E])
    order = warm[np.argsort(split.events.users_E[warm], kind="stable")]
    place_E = np.full(len(split.events), -1)
    place_E[order] = np.arange(len(order))
    events = split.events
    line = Interactions(events.users_E[order], events.items_E[order], events.times_ms_E[order], events.weights_E[order])
    return line, place_E


def _first_not_before(line: Interactions, users_Q: Ints, times_ms_Q: Ints) -> Ints:
    """Where in the line the user's first event at that time or later is."""
    moments = np.unique(line.times_ms_E)
    keys_H = line.users_E * (len(moments) + 1) + np.searchsorted(moments, line.times_ms_E)
    found: Ints = np.searchsorted(keys_H, users_Q * (len(moments) + 1) + np.searchsorted(moments, times_ms_Q))
    return found


def _stretches(starts: Ints, counts: Ints) -> Ints:
    """starts[0], starts[0] + 1, …, then from starts[1], …: counts[q] numbers each."""
    offsets = np.concatenate([[0], np.cumsum(counts)])
    return np.arange(offsets[-1]) - np.repeat(offsets[:-1] - starts, counts)
