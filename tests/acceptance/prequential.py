"""Predict, then update: what user vectors that were published are worth, each event predicted before it counts.

The questions are those of the replay of `worker.evaluate`, and so are ranks and figures; only the vectors come from the
log. An event is answered by the user's newest vector of before it; by a daily job, with that of before the day, UTC.

V published user vectors   H events of all users   Q questions   I items   D dim of the space
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from schemas import ItemVector, UserVector
from worker.align.users import UserModel
from worker.data import Dataset, Interactions, Split
from worker.data.dataset import Bools, Ints
from worker.evaluate.evaluation import or_popularity
from worker.evaluate.metrics import Estimate, Ranking, Values, difference, estimate
from worker.evaluate.questions import DAY_MS, Questions, Score, ask, replay_questions
from worker.evaluate.spaces import ItemVectors, candidate_scores, user_vectors, vector_score

K = 20
AT_ONCE = 2_048
WAYS = ("fresh", "daily")


def published_items(newest: Mapping[str, ItemVector], dataset: Dataset, dim: int) -> ItemVectors:
    """The last vector of each item, in the order of the dataset."""
    found = [newest.get(item_id) for item_id in dataset.item_ids]
    nothing = np.zeros(dim, np.float32)
    return ItemVectors(
        vectors_ID=torch.from_numpy(
            np.stack([nothing if each is None else each.vector.to_numpy().astype(np.float32) for each in found])
        ),
        usable_I=torch.tensor([each is not None for each in found]),
        priors_I=torch.tensor([0.0 if each is None else each.prior or 0.0 for each in found]),
        alone={},
        refused={},
    )


class PublishedUsers:
    """The user vectors of a log, and which of them a reader had after an event."""

    def __init__(self, log: Iterable[UserVector], dataset: Dataset, line: Interactions, dim: int) -> None:
        """`log` is in order within each user; `line` has the events of the histories."""
        numbers = {user_id: number for number, user_id in enumerate(dataset.user_ids)}
        found = [each for each in log if each.user_id in numbers]
        users_V = np.array([numbers[each.user_id] for each in found], np.int64)
        times_ms_V = np.array([each.event_time_ms for each in found], np.int64)
        order = np.lexsort((times_ms_V, users_V))  # stable: what was written later stays behind its equals
        nothing = np.zeros((1, dim), np.float32)
        vectors_VD = np.concatenate([nothing, *(each.vector.to_numpy().astype(np.float32)[None] for each in found)])
        self._vectors_VD = torch.from_numpy(np.concatenate([nothing, vectors_VD[1:][order]]))
        self._rows_H = _newest_until(users_V[order], times_ms_V[order], line) + 1

    def vectors(self, questions: Questions) -> Tensor:
        """`[Q, D]`: the newest vector that holds nothing later than the history; zeros where there is none."""
        known_Q = questions.lengths_Q > 0
        rows_Q = np.where(known_Q, self._rows_H[np.where(known_Q, questions.end_Q - 1, 0)], 0)
        return self._vectors_VD[torch.from_numpy(rows_Q)]


def _newest_until(users_V: Ints, times_ms_V: Ints, line: Interactions) -> Ints:
    """`[H]`: the last of the user's vectors that is no newer than the event; -1: there is none."""
    moments = np.unique(np.concatenate([times_ms_V, line.times_ms_E]))
    keys_V = users_V * len(moments) + np.searchsorted(moments, times_ms_V)
    keys_H = line.users_E * len(moments) + np.searchsorted(moments, line.times_ms_E)
    last_H = np.searchsorted(keys_V, keys_H, side="right") - 1
    is_own_H = (last_H >= 0) & (users_V[last_H] == line.users_E) if len(users_V) else np.zeros(len(line), bool)
    found_H: Ints = np.where(is_own_H, last_H, -1)
    return found_H


def whole_histories(questions: Questions) -> Questions:
    """For each user all that the line has of it: what the last vector is made of. Asks for nothing of sense."""
    users_Q, begin_Q, counts = np.unique(questions.line.users_E, return_index=True, return_counts=True)
    return replace(
        questions,
        begin_Q=begin_Q,
        end_Q=begin_Q + counts,
        seen_end_Q=begin_Q + counts,
        users_Q=users_Q,
        relevant_P=np.zeros(len(users_Q), np.int64),
        starts=np.arange(len(users_Q) + 1),
    )


@dataclass(frozen=True)
class Evaluator:
    """How `worker.evaluate` makes user vectors."""

    model: UserModel
    last: int
    items: ItemVectors

    def vectors(self, questions: Questions) -> Tensor:
        return user_vectors(self.model, self.last, self.items, questions)

    def off_by(self, published: PublishedUsers, questions: Questions) -> Values:
        """`[Q]`: how far an element of the published vector is from its own, at most."""
        pieces = [np.zeros(0)]
        for start in range(0, len(questions), AT_ONCE):
            some = questions.where(np.arange(start, min(start + AT_ONCE, len(questions))))
            pieces.append((published.vectors(some) - self.vectors(some)).abs().amax(1).numpy())
        off_Q: Values = np.concatenate(pieces)
        return off_Q


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    title: str
    recall: Estimate
    ndcg: Estimate

    def __str__(self) -> str:
        cells = (f"{each.mean:>9.4f} ±{each.standard_error:.4f}" for each in (self.recall, self.ndcg))
        return f"{self.title:<46}{self.recall.count:>8}{''.join(cells)}"


@dataclass(frozen=True)
class Prequential:
    """Ranks of every liked item, by way, from the published vectors and from the evaluator's own."""

    questions: Mapping[str, Questions]
    published: Mapping[str, Ranking]
    evaluated: Mapping[str, Ranking]
    newest_share: float
    warm_I: Bools
    """Items that training was not denied."""
    asked_by_command: Mapping[str, tuple[Questions, Ranking]]
    """By way, what `align-worker evaluate` asks: withheld items are in no history and no answer."""

    @cached_property
    def newest_Q(self) -> Ints:
        """The questions of the replay that `align-worker evaluate` shows."""
        count = len(self.questions["fresh"])
        return np.arange(count - round(self.newest_share * count), count)

    @property
    def warm_Q(self) -> Ints:
        """The questions whose answer training was not denied."""
        fresh = self.questions["fresh"]
        return np.flatnonzero(self.warm_I[fresh.candidates_C[fresh.relevant_P]])

    def figure(self, way: str, chosen_Q: Ints, *, evaluated: bool = False) -> Row:
        ranking, users_Q = self._ranking(way, evaluated), self.questions[way].users_Q
        return _row(f"{way}, {'the evaluator' if evaluated else 'published vectors'}", ranking, users_Q, chosen_Q)

    def gain(self, chosen_Q: Ints) -> Row:
        """What freshness is worth, question by question."""
        fresh, daily = (self._ranking(way, evaluated=False) for way in WAYS)
        users_Q = self.questions["fresh"].users_Q[chosen_Q]
        recall, ndcg = (
            difference(measure(fresh, K)[chosen_Q], measure(daily, K)[chosen_Q], users_Q)
            for measure in (Ranking.recall, Ranking.ndcg)
        )
        return Row("fresh - daily", recall, ndcg)

    def _ranking(self, way: str, evaluated: bool) -> Ranking:
        return (self.evaluated if evaluated else self.published)[way]

    def lines(self) -> Sequence[str]:
        """The table for a person."""
        known = np.flatnonzero(self.questions["daily"].lengths_Q > 0)
        groups = {
            f"newest {self.newest_share:.0%} of the liked events": self.newest_Q,
            "of these, items that were not withheld from training": np.intersect1d(self.newest_Q, self.warm_Q),
            "of the newest, users met before the day": np.intersect1d(self.newest_Q, known),
            "all liked events": np.arange(len(self.questions["fresh"])),
        }
        lines = [f"{'predict, then update':<46}{'events':>8}{f'Recall@{K}':>17}{f'NDCG@{K}':>17}"]
        for title, chosen_Q in groups.items():
            lines.append(f"{title}:")
            lines += [
                f"  {self.figure(way, chosen_Q, evaluated=evaluated)!s}" for way in WAYS for evaluated in (False, True)
            ]
            lines.append(f"  {self.gain(chosen_Q)!s}")
        lines.append("what `align-worker evaluate` asks, withheld items in no history:")
        for way, (questions, ranking) in self.asked_by_command.items():
            row = _row(f"{way}, the evaluator", ranking, questions.users_Q, np.arange(len(questions)))
            lines.append(f"  {row!s}")
        return lines


def _row(title: str, ranking: Ranking, users_Q: Ints, chosen_Q: Ints) -> Row:
    recall, ndcg = (
        estimate(values_Q[chosen_Q], users_Q[chosen_Q]) for values_Q in (ranking.recall(K), ranking.ndcg(K))
    )
    return Row(title, recall, ndcg)


def ask_both(
    split: Split,
    published: PublishedUsers,
    items: ItemVectors,
    evaluator: Evaluator,
    by_popularity: Score,
    newest_share: float,
    of_command: Split,
) -> Prequential:
    """Put every liked event to both. Users of whom nothing is known are shown what is popular, as in the evaluator.

    `of_command` is the split that the command would make, with the items that were withheld from training.
    """
    questions = _both_ways(split, 1.0)

    def from_log(some: Questions) -> Tensor:
        return candidate_scores(published.vectors(some), items, some)

    own = vector_score(evaluator.model, evaluator.last, evaluator.items)
    return Prequential(
        questions=questions,
        published={way: ask(each, or_popularity(from_log, by_popularity)) for way, each in questions.items()},
        evaluated={way: ask(each, or_popularity(own, by_popularity)) for way, each in questions.items()},
        newest_share=newest_share,
        warm_I=of_command.warm_I,
        asked_by_command={
            way: (each, ask(each, or_popularity(own, by_popularity)))
            for way, each in _both_ways(of_command, newest_share).items()
        },
    )


def _both_ways(split: Split, newest_share: float) -> dict[str, Questions]:
    every_ms = {"fresh": None, "daily": DAY_MS}
    return {way: replay_questions(split, newest_share, every_ms[way]) for way in WAYS}
