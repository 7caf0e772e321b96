"""How good a ranking is, for each question and on average.

    Q questions   C candidates   P relevant items over all questions, question by question   K length of a list

Every candidate is ranked; nothing is sampled. Ties count against the model: a relevant item stands behind every other
candidate with the same score, so equal scores for all earn nothing, and the result depends on no order of the items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.data.dataset import Ints

Values = NDArray[np.float64]

COMPARED_AT_ONCE = 1 << 24  # elements; bounds the memory of a comparison


def ranks_of(scores_QC: Tensor, rows_P: Tensor, columns_P: Tensor) -> Tensor:
    """The rank of every relevant item among the candidates of its question, from 0.

    `rows_P` (rising) and `columns_P` say where the relevant ones are. A candidate with the score -inf is out of the
    ranking; a relevant one with it comes after everything else. Raises `ValueError` for NaN: it has no place.
    """
    own_P = scores_QC[rows_P, columns_P]
    if scores_QC.isnan().any():
        raise ValueError("a score is NaN")
    others_QC = scores_QC.clone()
    others_QC[rows_P, columns_P] = -torch.inf
    step = max(1, COMPARED_AT_ONCE // max(1, scores_QC.shape[1]))
    better_P = torch.cat(
        [
            (others_QC[rows_P[start : start + step]] >= own_P[start : start + step, None]).sum(1)
            for start in range(0, max(1, len(rows_P)), step)
        ]
    )
    return better_P + _place_in_row(own_P, rows_P)


def _place_in_row(own_P: Tensor, rows_P: Tensor) -> Tensor:
    """How many relevant items of the same question come before each: those with higher scores."""
    by_score = torch.argsort(own_P, descending=True, stable=True)
    order = by_score[torch.argsort(rows_P[by_score], stable=True)]
    first_P = torch.searchsorted(rows_P.contiguous(), rows_P.contiguous())
    places_P = torch.empty_like(rows_P)
    places_P[order] = torch.arange(len(rows_P), device=rows_P.device) - first_P
    return places_P


@dataclass(frozen=True, slots=True)
class Ranking:
    """Where the relevant items of each question came."""

    ranks_P: Ints
    """From 0."""
    starts: Ints
    """`[Q + 1]`: those of question q are `starts[q]` to `starts[q + 1]`, at least one."""

    def recall(self, k: int) -> Values:
        """`[Q]` share of the relevant items that are among the first k. Of more than k, not all can be."""
        share_Q: Values = self._sums((self.ranks_P < k).astype(np.float64)) / np.diff(self.starts)
        return share_Q

    def ndcg(self, k: int) -> Values:
        """`[Q]` discounted gain of the first k over the largest that could be had (Järvelin and Kekäläinen 2002)."""
        gains_P = np.where(self.ranks_P < k, 1 / np.log2(self.ranks_P + 2.0), 0.0)
        best = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2.0))])
        share_Q: Values = self._sums(gains_P) / best[np.minimum(np.diff(self.starts), k)]
        return share_Q

    def _sums(self, values_P: Values) -> Values:
        sums: Values = np.add.reduceat(values_P, self.starts[:-1]) if len(self.starts) > 1 else np.zeros(0)
        return sums


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, and how far it may be from that over all users there could be."""

    mean: float
    standard_error: float
    count: int


def estimate(values_Q: Values, users_Q: Ints) -> Estimate:
    """The mean, with the standard error of independent users: questions of the same user are not independent.

    NaN for no question, and a standard error of NaN for one user: nothing can be said.
    """
    if not len(values_Q):
        return Estimate(float("nan"), float("nan"), 0)
    mean = float(values_Q.mean())
    _, group_Q = np.unique(users_Q, return_inverse=True)
    sums = np.bincount(group_Q, values_Q - mean)
    if len(sums) < 2:
        return Estimate(mean, float("nan"), len(values_Q))
    variance = float((sums**2).sum()) * len(sums) / (len(sums) - 1)
    return Estimate(mean, float(np.sqrt(variance)) / len(values_Q), len(values_Q))


def difference(these_Q: Values, those_Q: Values, users_Q: Ints) -> Estimate:
    """How much better these are than those, question by question: much surer than the difference of two estimates."""
    return estimate(these_Q - those_Q, users_Q)
