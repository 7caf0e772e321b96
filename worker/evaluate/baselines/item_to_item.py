"""Baselines that rank an item by its similarity with those of the history: item-kNN and EASE.

    A items with events   Q questions   C candidates   U users

An item without events is similar to nothing and comes last: that is how these methods meet new items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from worker.data.dataset import Ints
from worker.evaluate.baselines.known import Known, Setting, history_matrix, sparse_ones
from worker.evaluate.questions import Questions, Score
from worker.evaluate.sparse import nearest_in_common, sparse_matrix

MAX_ITEMS = 20_000
"""With events: a matrix of all pairs then has 1.6 GB. Of more, item-kNN looks at pairs that have users in common alone,
and EASE, which inverts the matrix, at the items with most events."""
MAX_EASE_ITEMS = 12_000
"""The inverse of 12,000 takes about a minute of a core."""
USERS_AT_ONCE = 1_024


class ItemKnn:
    """Cosine of the items' columns of users, shrunk where few users stand behind it; the nearest neighbours count.

    With `activity` 1 a user counts for one in all, however many events there are of them, instead of one for each: else
    a few busy users decide who is whose neighbour.
    """

    name = "item-kNN"
    seeded = False
    patience = None

    def __init__(
        self,
        shrinks: Sequence[float] = (10.0, 50.0),
        neighbors: Sequence[float] = (50.0, 200.0, np.inf),
        activities: Sequence[float] = (0.0, 1.0),
    ) -> None:
        self._settings: list[Setting] = [
            {"shrink": shrink, "neighbors": most, "activity": activity}
            for activity in activities
            for shrink in shrinks
            for most in neighbors
        ]

    def limit(self, known: Known) -> str:
        num_items = int((known.count_I > 0).sum())
        return "" if num_items <= MAX_ITEMS else "no more than 200 neighbours of an item were tried"

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for setting in self._settings:
            if np.isfinite(float(setting["neighbors"])) or not self.limit(known):
                yield setting, self.fit(known, seed, setting)

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        items_A = np.flatnonzero(known.count_I)
        weights_U = _user_weights(known, float(setting.get("activity", 0.0)))
        shrink, most = float(setting["shrink"]), int(min(float(setting["neighbors"]), len(items_A)))
        if len(items_A) > MAX_ITEMS:
            return similarity_score(known, items_A, _nearest(known, items_A, weights_U, shrink, most))
        together_AA = co_occurrences(known, items_A, weights_U)
        lengths_A = torch.from_numpy(known.count_I[items_A]).float().sqrt()
        similar_AA = together_AA / (lengths_A[:, None] * lengths_A + shrink)
        similar_AA.fill_diagonal_(0.0)
        if most < len(items_A):
            least_A1 = similar_AA.topk(most, dim=0).values[-1:]
            similar_AA[similar_AA < least_A1] = 0.0
        return similarity_score(known, items_A, similar_AA)


class Ease:
    """Every item as the best linear combination of the others, in closed form (Steck 2019)."""

    name = "EASE"
    seeded = False
    patience = None

    def __init__(self, penalties: Sequence[float] = (200.0, 100.0, 50.0, 400.0, 800.0, 20.0)) -> None:
        """The likeliest first, in case there is no time for all."""
        self._penalties = penalties

    def limit(self, known: Known) -> str:
        num_items = int((known.count_I > 0).sum())
        if num_items <= MAX_EASE_ITEMS:
            return ""
        return f"of {num_items:,} items with events, the {MAX_EASE_ITEMS:,} that have most took part"

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for penalty in self._penalties:
            yield {"penalty": penalty}, self.fit(known, seed, {"penalty": penalty})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        count_I = known.count_I
        by_count = np.argsort(-count_I, kind="stable")[: min(MAX_EASE_ITEMS, int((count_I > 0).sum()))]
        items_A = np.sort(by_count)
        together_AA = co_occurrences(known, items_A)
        together_AA.diagonal().add_(float(setting["penalty"]))
        precision_AA = torch.cholesky_inverse(torch.linalg.cholesky(together_AA))
        weights_AA = -precision_AA / precision_AA.diagonal()
        weights_AA.fill_diagonal_(0.0)
        return similarity_score(known, items_A, weights_AA)


def _user_weights(known: Known, activity: float) -> Tensor:
    """`[U]`: what having two items in common is worth, by who has them."""
    count_U = torch.from_numpy(np.bincount(known.events.users_E, minlength=known.num_users)).float()
    return count_U.clamp(min=1.0) ** -activity


def co_occurrences(known: Known, items_A: Ints, weights_U: Tensor | None = None) -> Tensor:
    """For each pair of these items the number of users that they share, or the sum of their weights."""
    column_I = np.full(known.num_items, -1)
    column_I[items_A] = np.arange(len(items_A))
    order = np.argsort(known.events.users_E, kind="stable")
    users_E, columns_E = known.events.users_E[order], column_I[known.events.items_E[order]]
    users_E, columns_E = users_E[columns_E >= 0], columns_E[columns_E >= 0]
    together_AA = torch.zeros(len(items_A), len(items_A))
    for first in range(0, known.num_users, USERS_AT_ONCE):
        start, end = np.searchsorted(users_E, [first, first + USERS_AT_ONCE])
        if start == end:
            continue
        indices = torch.from_numpy(np.stack([users_E[start:end] - first, columns_E[start:end]]))
        pairs_UA = sparse_ones(indices, (USERS_AT_ONCE, len(items_A)))
        dense_UA = pairs_UA.to_dense()
        if weights_U is not None:
            some_U = weights_U[first : first + USERS_AT_ONCE]
            dense_UA[: len(some_U)] *= some_U[:, None]
        together_AA += torch.sparse.mm(pairs_UA.T, dense_UA)
    return together_AA


def _nearest(known: Known, items_A: Ints, weights_U: Tensor, shrink: float, most: int) -> Tensor:
    """`[A, A]`, sparse: the similarities of each item's nearest neighbours, in its column."""
    columns_E = np.searchsorted(items_A, known.events.items_E)
    found = nearest_in_common(
        known.events.users_E, columns_E, weights_U.numpy(), len(items_A), most=most, shrink=shrink
    )
    indices = torch.from_numpy(np.stack([found.others_N, found.items_N]))
    return sparse_matrix(indices, torch.from_numpy(found.similarities_N), (len(items_A), len(items_A)))


def similarity_score(known: Known, items_A: Ints, similar_AA: Tensor) -> Score:
    """Sums of the similarities with the items of a history. `similar_AA` has the history's items in its rows."""
    column_I = np.full(known.num_items, -1)
    column_I[items_A] = np.arange(len(items_A))

    def score(questions: Questions) -> Tensor:
        history_QA = history_matrix(questions, column_I, len(items_A))
        if similar_AA.is_sparse:
            sums_QA = torch.sparse.mm(similar_AA.T, history_QA.to_dense().T).T
        else:
            sums_QA = torch.sparse.mm(history_QA, similar_AA)
        columns_C = column_I[questions.candidates_C]
        has_events_C = torch.from_numpy(columns_C >= 0)
        scores_QC = torch.full((len(questions), len(columns_C)), -torch.inf)
        scores_QC[:, has_events_C] = sums_QA[:, torch.from_numpy(columns_C[columns_C >= 0])]
        return scores_QC

    return score
