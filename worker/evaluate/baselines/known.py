"""What a baseline may learn from, and what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from worker.data import Dataset, Features, Interactions, Split
from worker.data.dataset import Bools, Ints
from worker.evaluate.questions import JudgedBy, Questions, Score
from worker.evaluate.sparse import sparse_matrix

Setting = Mapping[str, float | str]
"""What was chosen on validation, by name."""


@dataclass(frozen=True, slots=True)
class Known:
    """What may be known before the questions of a part are asked."""

    events: Interactions
    """Positive events to learn from."""
    warm_I: Bools
    """Items that are not withheld."""
    num_users: int
    features: Mapping[str, Features]
    """Of all items, the withheld ones included."""

    @property
    def num_items(self) -> int:
        return len(self.warm_I)

    @property
    def count_I(self) -> Ints:
        """Events of each item."""
        return np.bincount(self.events.items_E, minlength=self.num_items)


def known_before(dataset: Dataset, split: Split, part: JudgedBy) -> Known:
    """Before validation the training events; before the test the validation events, too."""
    learned_E = split.train_E.copy()
    if part == "test":
        learned_E[split.val_events] = True
    return Known(split.events.where(learned_E), split.warm_I, dataset.num_users, dataset.features)


class Baseline(Protocol):
    """One method, with what there is to choose about it."""

    @property
    def name(self) -> str: ...

    @property
    def seeded(self) -> bool:
        """Whether the seed makes a difference."""
        ...

    @property
    def patience(self) -> int | None:
        """How many candidates in a row may be worse than the best before one stops looking. None: look at all."""
        ...

    def limit(self, known: Known) -> str:
        """What the size of the data does not allow, in words; empty: all of it takes part."""
        ...

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        """Models to choose from. A score need not be good any more once the next has been taken."""
        ...

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        """The model of one setting."""
        ...


def sampled_pairs(known: Known, batch: int, random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass over the events, in batches: users, items that they like, and as many drawn that they do not."""
    others = np.flatnonzero(known.warm_I)
    pairs = np.unique(known.events.users_E * known.num_items + known.events.items_E)
    order = random.permutation(len(known.events))
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        users_B, liked_B = known.events.users_E[some], known.events.items_E[some]
        other_B = random.choice(others, len(some))
        keys_B = users_B * known.num_items + other_B
        at_B = np.minimum(np.searchsorted(pairs, keys_B), len(pairs) - 1)
        unknown_B = pairs[at_B] != keys_B  # an item that the user likes, too, says nothing
        users, liked, other = (torch.from_numpy(each[unknown_B]) for each in (users_B, liked_B, other_B))
        yield users, liked, other


def known_users(factors_UD: Tensor, questions: Questions) -> Tensor:
    """`[Q, D]`: the factors of the questions' users; zeros for those who have no number among them."""
    users_Q = torch.from_numpy(questions.users_Q)
    is_known_Q1 = (users_Q < len(factors_UD))[:, None]
    return factors_UD[users_Q.clamp(max=len(factors_UD) - 1)] * is_known_Q1


def history_matrix(questions: Questions, column_I: Ints, num_columns: int) -> Tensor:
    """`[Q, num_columns]`, sparse: 1 where the item with that column is in the history. Column -1: left out."""
    rows, items = questions.history_pairs()
    columns = column_I[items]
    indices = torch.from_numpy(np.stack([rows, columns])[:, columns >= 0])
    return sparse_ones(indices, (len(questions), num_columns))


def sparse_ones(indices: Tensor, shape: tuple[int, int]) -> Tensor:
    """1 at the indices, `[2, n]`; where one is named several times, the number of times."""
    return sparse_matrix(indices, torch.ones(indices.shape[1]), shape)
