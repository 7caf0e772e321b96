"""Baselines that rank an item by its similarity with those of the history: item-kNN and EASE.

    A items with events   Q questions   C candidates

An item without events is similar to nothing and comes last: that is how these methods meet new items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from worker.data.dataset import Ints
from worker.errors import ConfigError
from worker.evaluate.baselines.known import Known, Setting, history_matrix, sparse_ones
from worker.evaluate.questions import Questions, Score

MAX_ITEMS = 30_000
"""With events: a matrix of all pairs then has 3.6 GB, and EASE inverts it."""
USERS_AT_ONCE = 1_024


class ItemKnn:
    """Cosine of the items' columns of users, shrunk where few users stand behind it; the nearest neighbours count."""

    name = "item-kNN"
    seeded = False
    patience = None

    def __init__(
        self, shrinks: Sequence[float] = (10.0, 50.0), neighbors: Sequence[float] = (50.0, 200.0, np.inf)
    ) -> None:
        self._settings: list[Setting] = [
            {"shrink": shrink, "neighbors": most} for shrink in shrinks for most in neighbors
        ]

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for setting in self._settings:
            yield setting, self.fit(known, seed, setting)

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        items_A, together_AA = co_occurrences(known)
        lengths_A = together_AA.diagonal().sqrt()
        similar_AA = together_AA / (lengths_A[:, None] * lengths_A + float(setting["shrink"]))
        similar_AA.fill_diagonal_(0.0)
        most = int(min(float(setting["neighbors"]), len(items_A)))
        if most < len(items_A):
            least_A1 = similar_AA.topk(most, dim=0).values[-1:]
            similar_AA[similar_AA < least_A1] = 0.0
        return similarity_score(known, items_A, similar_AA)


class Ease:
    """Every item as the best linear combination of the others, in closed form (Steck 2019)."""

    name = "EASE"
    seeded = False
    patience = None

    def __init__(self, penalties: Sequence[float] = (50.0, 200.0, 800.0)) -> None:
        self._penalties = penalties

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for penalty in self._penalties:
            yield {"penalty": penalty}, self.fit(known, seed, {"penalty": penalty})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        items_A, together_AA = co_occurrences(known)
        together_AA.diagonal().add_(float(setting["penalty"]))
        precision_AA = torch.cholesky_inverse(torch.linalg.cholesky(together_AA))
        weights_AA = -precision_AA / precision_AA.diagonal()
        weights_AA.fill_diagonal_(0.0)
        return similarity_score(known, items_A, weights_AA)


def co_occurrences(known: Known) -> tuple[Ints, Tensor]:
    """The items with events, and for each pair of them the number of users that they share."""
    items_A = np.flatnonzero(known.count_I)
    if len(items_A) > MAX_ITEMS:
        raise ConfigError(
            f"--baseline: item-kNN and EASE compare all pairs of items; {len(items_A)} have events, more than "
            f"{MAX_ITEMS}: leave these baselines out"
        )
    columns_E = np.searchsorted(items_A, known.events.items_E)
    order = np.argsort(known.events.users_E, kind="stable")
    users_E, columns_E = known.events.users_E[order], columns_E[order]
    together_AA = torch.zeros(len(items_A), len(items_A))
    for first in range(0, known.num_users, USERS_AT_ONCE):
        start, end = np.searchsorted(users_E, [first, first + USERS_AT_ONCE])
        indices = torch.from_numpy(np.stack([users_E[start:end] - first, columns_E[start:end]]))
        pairs_UA = sparse_ones(indices, (USERS_AT_ONCE, len(items_A)))
        together_AA += torch.sparse.mm(pairs_UA.T, pairs_UA.to_dense())
    return items_A, together_AA


def similarity_score(known: Known, items_A: Ints, similar_AA: Tensor) -> Score:
    """Sums of the similarities with the items of a history. `similar_AA` has the history's items in its rows."""
    column_I = np.full(known.num_items, -1)
    column_I[items_A] = np.arange(len(items_A))

    def score(questions: Questions) -> Tensor:
        sums_QA = torch.sparse.mm(history_matrix(questions, column_I, len(items_A)), similar_AA)
        columns_C = column_I[questions.candidates_C]
        has_events_C = torch.from_numpy(columns_C >= 0)
        scores_QC = torch.full((len(questions), len(columns_C)), -torch.inf)
        scores_QC[:, has_events_C] = sums_QA[:, torch.from_numpy(columns_C[columns_C >= 0])]
        return scores_QC

    return score
