"""The frozen content block: how large its parts are and how far they are whitened, chosen on validation.

I items   C elements of the block   K elements of a feature   Q questions
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from worker.data import Split
from worker.data.dataset import Features
from worker.evaluate.baselines.known import history_matrix
from worker.evaluate.questions import Questions, Score, ask, cold_questions, warm_questions
from worker.train.asked import most_asked

CHOSEN_BY = 20
"""Length of the lists that are looked at."""
SHARES = (0.5, 0.25)
WHITENINGS = (0.5, 0.0)
MOST_VECTORS = 200_000
"""That directions are fitted to: of more, so many evenly from all."""


class Block(NamedTuple):
    """What the parts of all modalities have in common."""

    share: float
    """Elements of a part, of those of its modality."""
    whitening: float

    def dim(self, of_feature: int, most: int) -> int:
        return min(most, int(of_feature * self.share))

    def components(self, features: Features, dim: int) -> tuple[Tensor, Tensor]:
        """The map of one modality to its part, as weight `[C, K]` and bias `[C]`."""
        vectors_NK = features.vectors_NK
        if len(vectors_NK) > MOST_VECTORS:
            vectors_NK = vectors_NK[np.linspace(0, len(vectors_NK) - 1, MOST_VECTORS).astype(np.int64)]
        return principal_components(torch.from_numpy(vectors_NK), dim, self.whitening)


def chosen_block(
    features: Mapping[str, Features], split: Split, most: int, share: float | None, whitening: float | None
) -> Block:
    """The block by which the mean of a history finds most, known items and new ones, where it is not given."""
    blocks = [Block(*each) for each in _choices(share, whitening)]
    if len(blocks) == 1 or not most or not features:
        return blocks[0]
    every = warm_questions(split, "val"), cold_questions(split, "val")
    asked = [each.sample(most_asked(len(each.candidates_C))) for each in every if len(each)]
    values = [_found(_vectors(each, features, most), asked) for each in blocks]
    return blocks[int(np.argmax(values))]


def _choices(share: float | None, whitening: float | None) -> Iterator[tuple[float, float]]:
    for one in SHARES if share is None else (share,):
        for other in WHITENINGS if whitening is None else (whitening,):
            yield one, other


def _vectors(block: Block, features: Mapping[str, Features], most: int) -> Tensor:
    """`[I, C]`, as the model makes them."""
    parts = []
    for each in features.values():
        weight_CK, bias_C = block.components(each, block.dim(each.dim, most))
        counts_I = torch.from_numpy(each.counts_I)
        rows_NC = torch.from_numpy(each.vectors_NK) @ weight_CK.T + bias_C
        sums_IC = torch.zeros(len(counts_I), rows_NC.shape[1])
        sums_IC.index_add_(0, torch.arange(len(counts_I)).repeat_interleave(counts_I), rows_NC)
        parts.append(normalize(sums_IC, dim=1))
    return torch.cat(parts, 1)


def _found(vectors_IC: Tensor, asked: Sequence[Questions]) -> float:
    """Geometric mean of NDCG@20 over the kinds of questions."""
    everything_I = np.arange(len(vectors_IC))

    def of(questions: Questions) -> Score:
        among_CC = vectors_IC[torch.from_numpy(questions.candidates_C)]

        def score(some: Questions) -> Tensor:
            sums_QC = torch.sparse.mm(history_matrix(some, everything_I, len(everything_I)), vectors_IC)
            scores: Tensor = sums_QC @ among_CC.T
            return scores

        return score

    values = [float(ask(each, of(each)).ndcg(CHOSEN_BY).mean()) for each in asked]
    return math.prod(values) ** (1 / len(values)) if values else 0.0


def principal_components(vectors_NK: Tensor, num_components: int, whitening: float = 0.0) -> tuple[Tensor, Tensor]:
    """The map to the components of most variance, as weight `[C, K]` and bias `[C]`.

    With a whitening of 0 their variances stay as they are; with 1 all are alike, and those that say little weigh as
    much as the rest.
    """
    mean_K = vectors_NK.double().mean(0)
    centred_NK = vectors_NK.double() - mean_K
    values_K, directions_KK = torch.linalg.eigh(centred_NK.T @ centred_NK / max(len(centred_NK), 1))
    weight_CK = directions_KK.flip(1)[:, :num_components].T
    largest_C = weight_CK.abs().argmax(1)  # a direction may point either way: we choose
    weight_CK = weight_CK * weight_CK[torch.arange(len(weight_CK)), largest_C].sign()[:, None]
    if whitening:
        values_C = values_K.flip(0)[:num_components]
        floor = 1e-6 * values_C[0].clamp(min=1e-30)  # what does not vary is no direction
        weight_CK = weight_CK * (values_C.clamp(min=floor) ** (-whitening / 2))[:, None]
    return weight_CK.float().contiguous(), -(weight_CK @ mean_K).float()
