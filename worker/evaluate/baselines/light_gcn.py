"""LightGCN: factors of users and items, each the mean of its neighbours' over and over (He et al. 2020).

    U users   I items   D factors   B pairs of a batch

    e⁽ᵏ⁺¹⁾ = A e⁽ᵏ⁾,   A = 1 / √(events of the user · events of the item) where a user has an item
    s(u, i) = ē_u · ē_i,   ē the mean of e⁽⁰⁾ … e⁽ᴷ⁾

Learned from pairs of a liked and another item, as BPR-MF is. It knows users by number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from worker.evaluate.baselines.factors import DIM, EPOCHS_BETWEEN_CANDIDATES, FIRST_SCALE, MAX_EPOCHS
from worker.evaluate.baselines.known import Known, Setting, known_users, sampled_pairs
from worker.evaluate.questions import Questions, Score
from worker.evaluate.sparse import sparse_matrix

LEARNING_RATE = 5e-3
LAYERS = 3
STEPS_OF_EPOCH = 16
"""Every step is a walk over all events, so an epoch is a few large steps and not many small ones."""
DECAY = 1e-4


class LightGcn:
    """Matrix factorisation by pairs, over the graph of who has what."""

    name = "LightGCN"
    seeded = True
    patience: int | None = 5

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for epochs, factors_ND in self._training(known, seed):
            if epochs % EPOCHS_BETWEEN_CANDIDATES == 0:
                yield {"epochs": epochs}, _score(known, factors_ND)

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        trained = (each for epochs, each in self._training(known, seed) if epochs == setting["epochs"])
        return _score(known, next(trained))

    def _training(self, known: Known, seed: int) -> Iterator[tuple[int, Tensor]]:
        """Train, and after each epoch say how many there have been, and what users and then items are."""
        random, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        num_nodes = known.num_users + known.num_items
        first_ND = (torch.randn(num_nodes, DIM, generator=generator) * FIRST_SCALE).requires_grad_()
        optimizer = torch.optim.Adam([first_ND], LEARNING_RATE)
        graph_NN = _graph(known)
        batch = max(256, math.ceil(len(known.events) / STEPS_OF_EPOCH))
        for epoch in range(1, MAX_EPOCHS + 1):
            for users_B, liked_B, other_B in sampled_pairs(known, batch, random):
                factors_ND = _walked(graph_NN, first_ND)
                left_BD, right_BD = factors_ND[users_B], factors_ND[known.num_users + liked_B]
                wrong_BD = factors_ND[known.num_users + other_B]
                gains_B = (left_BD * (right_BD - wrong_BD)).sum(1)
                own = [first_ND[users_B], first_ND[known.num_users + liked_B], first_ND[known.num_users + other_B]]
                penalty = DECAY * sum(each.square().sum() for each in own) / (2 * max(1, len(users_B)))
                loss = -logsigmoid(gains_B).mean() + penalty
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            with torch.no_grad():
                yield epoch, _walked(graph_NN, first_ND)


def _graph(known: Known) -> Tensor:
    """`[U + I, U + I]`, sparse."""
    users_E, items_E = known.events.users_E, known.events.items_E
    count_U = np.bincount(users_E, minlength=known.num_users)
    values_E = 1 / np.sqrt(count_U[users_E] * known.count_I[items_E])
    one_way = np.stack([users_E, known.num_users + items_E])
    indices = torch.from_numpy(np.concatenate([one_way, one_way[::-1]], 1))
    values = torch.from_numpy(np.concatenate([values_E, values_E]).astype(np.float32))
    num_nodes = known.num_users + known.num_items
    return sparse_matrix(indices, values, (num_nodes, num_nodes)).coalesce()


def _walked(graph_NN: Tensor, first_ND: Tensor) -> Tensor:
    layer_ND = sum_ND = first_ND
    for _ in range(LAYERS):
        layer_ND = torch.sparse.mm(graph_NN, layer_ND)
        sum_ND = sum_ND + layer_ND
    return sum_ND / (LAYERS + 1)


def _score(known: Known, factors_ND: Tensor) -> Score:
    """Of what has no events, the random factors count for nothing."""
    trained_I1 = torch.from_numpy(known.count_I > 0)[:, None]
    seen_U1 = torch.from_numpy(np.bincount(known.events.users_E, minlength=known.num_users) > 0)[:, None]
    left_UD, right_ID = factors_ND[: known.num_users] * seen_U1, factors_ND[known.num_users :] * trained_I1

    def score(questions: Questions) -> Tensor:
        return known_users(left_UD, questions) @ right_ID[torch.from_numpy(questions.candidates_C)].T

    return score
