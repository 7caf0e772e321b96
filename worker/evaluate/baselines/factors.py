"""Factors learned from pairs of a liked and another item: BPR-MF and VBPR.

    B pairs of a batch   D factors   K elements of the content   I items   U users

    BPR-MF (Rendle et al. 2009)   s(u, i) = b_i + p_u · q_i
    VBPR (He and McAuley 2016)    s(u, i) = b_i + p_u · q_i + t_u · E f_i + c · f_i

Both know users by their number: a user who was not there in training gets the items' biases alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from worker.evaluate.baselines.content import side_by_side
from worker.evaluate.baselines.known import Known, Setting, known_users, sampled_pairs
from worker.evaluate.questions import Questions, Score

DIM = 64
BATCH, LEAST_BATCH, STEPS_OF_EPOCH = 1_024, 64, 16
LEARNING_RATE = 2e-3
MAX_EPOCHS = 200
EPOCHS_BETWEEN_CANDIDATES = 4
FIRST_SCALE = 0.1  # of the factors before training


class Factors(nn.Module):
    """The parameters. Without content it is BPR-MF, with it VBPR."""

    def __init__(self, known: Known, content_IK: Tensor | None, generator: torch.Generator) -> None:
        super().__init__()

        def table(rows: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(rows, DIM, generator=generator) * FIRST_SCALE)

        self.users_UD, self.items_ID = table(known.num_users), table(known.num_items)
        self.bias_I = nn.Parameter(torch.zeros(known.num_items))
        self.content_IK = content_IK
        if content_IK is not None:
            width = content_IK.shape[1]
            self.tastes_UD, self.projection_KD = table(known.num_users), table(width)
            self.bias_K = nn.Parameter(torch.zeros(width))

    def forward(self, users_B: Tensor, items_B: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and the sum of the squares of what they were made of."""
        user_BD, item_BD, bias_B = self.users_UD[users_B], self.items_ID[items_B], self.bias_I[items_B]
        score_B = bias_B + (user_BD * item_BD).sum(1)
        squares = user_BD.square().sum() + item_BD.square().sum() + bias_B.square().sum()
        if self.content_IK is not None:
            content_BK, taste_BD = self.content_IK[items_B], self.tastes_UD[users_B]
            score_B = score_B + (taste_BD * (content_BK @ self.projection_KD)).sum(1) + content_BK @ self.bias_K
            squares = squares + taste_BD.square().sum()
        return score_B, squares

    def score(self, known: Known) -> Score:
        """Of what was never trained, the random factors count for nothing."""
        trained_I1 = torch.from_numpy(known.count_I > 0)[:, None]
        seen_U1 = torch.from_numpy(np.bincount(known.events.users_E, minlength=known.num_users) > 0)[:, None]
        with torch.no_grad():
            left_UD, right_ID, bias_I = self.users_UD * seen_U1, self.items_ID * trained_I1, self.bias_I.clone()
            if self.content_IK is not None:
                left_UD = torch.cat([left_UD, self.tastes_UD * seen_U1], 1)
                right_ID = torch.cat([right_ID, self.content_IK @ self.projection_KD], 1)
                bias_I = bias_I + self.content_IK @ self.bias_K

        def score(questions: Questions) -> Tensor:
            candidates_C = torch.from_numpy(questions.candidates_C)
            user_QD = known_users(left_UD, questions)
            return user_QD @ right_ID[candidates_C].T + bias_I[candidates_C]

        return score


class BprMf:
    """Matrix factorisation by pairs."""

    name = "BPR-MF"
    seeded = True
    patience: int | None = 5
    decays = (0.001, 0.004)

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for decay in self.decays:
            model, epochs = self._start(known, seed), 0
            for epochs in _training(model, known, seed, decay):
                if epochs % EPOCHS_BETWEEN_CANDIDATES == 0:
                    yield {"epochs": epochs, "decay": decay}, model.score(known)

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        model = self._start(known, seed)
        for epochs in _training(model, known, seed, float(setting["decay"])):
            if epochs == setting["epochs"]:
                break
        return model.score(known)

    def _start(self, known: Known, seed: int) -> Factors:
        return Factors(known, self._content(known), torch.Generator().manual_seed(seed))

    def _content(self, known: Known) -> Tensor | None:
        return None


class Vbpr(BprMf):
    """The same with a taste for content."""

    name = "VBPR"

    def __init__(self, modalities: Sequence[str]) -> None:
        self._modalities = tuple(modalities)

    def _content(self, known: Known) -> Tensor:
        return torch.from_numpy(side_by_side(known.features, self._modalities))


def batch_of(known: Known) -> int:
    """Pairs of a step: of few events fewer, or an epoch would be a single step and the epochs there are too few."""
    return max(LEAST_BATCH, min(BATCH, len(known.events) // STEPS_OF_EPOCH))


def _training(model: Factors, known: Known, seed: int, decay: float) -> Iterator[int]:
    """Train, and after each epoch say how many there have been."""
    random = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for epoch in range(1, MAX_EPOCHS + 1):
        for users, liked, other in sampled_pairs(known, batch_of(known), random):
            liked_scores, liked_squares = model(users, liked)
            other_scores, other_squares = model(users, other)
            penalty = decay * (liked_squares + other_squares) / (2 * max(1, len(users)))
            loss = -logsigmoid(liked_scores - other_scores).mean() + penalty
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield epoch
