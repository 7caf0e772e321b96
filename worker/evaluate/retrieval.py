"""Finding an item by another modality of it: its text among the images of all, and so on.

N items that have both modalities   D dim of the space
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from worker.data.dataset import Bools, Ints
from worker.evaluate.metrics import ranks_of

QUERIES_AT_ONCE = 256
AMONG_FIRST = (1, 10, 50)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """How well one modality finds another."""

    query: str
    answer: str
    ranks_N: Ints
    """Of each item's own answer among all, from 0."""

    @property
    def num_items(self) -> int:
        return len(self.ranks_N)

    def recall(self, k: int) -> float:
        """Share of the items whose own answer is among the first k."""
        return float((self.ranks_N < k).mean())

    def chance(self, k: int) -> float:
        """What guessing would find."""
        return min(1.0, k / self.num_items)

    @property
    def median_rank(self) -> float:
        """From 1."""
        return float(np.median(self.ranks_N)) + 1


def retrievals(alone: Mapping[str, Tensor], among_I: Bools) -> Iterator[Retrieval]:
    """Every ordered pair of modalities, over the items marked that have both; pairs with fewer than two are left out.

    `alone` has vectors `[I, D]` by modality, zeros where an item lacks it.
    """
    has = {name: (vectors_ID != 0).any(1).numpy() & among_I for name, vectors_ID in alone.items()}
    for query, answer in permutations(sorted(alone), 2):
        both = torch.from_numpy(np.flatnonzero(has[query] & has[answer]))
        if len(both) > 1:
            yield Retrieval(query, answer, ranks_of_own(alone[query][both], alone[answer][both]))


def ranks_of_own(queries_ND: Tensor, answers_ND: Tensor) -> Ints:
    """Where the answer of each item is among those of all, by cosine, from 0."""
    queries_ND, answers_ND = normalize(queries_ND), normalize(answers_ND)
    pieces = []
    for start in range(0, len(queries_ND), QUERIES_AT_ONCE):
        scores_BN = queries_ND[start : start + QUERIES_AT_ONCE] @ answers_ND.T
        rows_B = torch.arange(len(scores_BN))
        pieces.append(ranks_of(scores_BN, rows_B, rows_B + start).numpy())
    return np.concatenate(pieces)
