"""Cosine with the mean of the history, in the space of the features themselves.

I items   K elements of all modalities in question   Q questions   C candidates
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from worker.data import Features
from worker.data.dataset import Floats
from worker.evaluate.baselines.known import Known, Setting, history_matrix
from worker.evaluate.questions import Questions, Score


class ContentMean:
    """The unit vectors of some modalities side by side; a missing one counts for nothing."""

    seeded = False
    patience = None

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self.name = f"content mean, {'+'.join(self.modalities)}"

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        yield {}, self.fit(known, seed, {})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        content_IK = torch.from_numpy(side_by_side(known.features, self.modalities))
        everything_I = np.arange(known.num_items)

        def score(questions: Questions) -> Tensor:
            # The length of the mean is the same for all candidates.
            sums_QK = torch.sparse.mm(history_matrix(questions, everything_I, known.num_items), content_IK)
            scores_QC: Tensor = sums_QK @ content_IK[torch.from_numpy(questions.candidates_C)].T
            return scores_QC

        return score


class BestModality:
    """The one modality whose mean does best on validation."""

    name = "best single modality"
    seeded = False
    patience = None

    def __init__(self, modalities: Sequence[str]) -> None:
        self._modalities = tuple(modalities)

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for modality in self._modalities:
            yield {"modality": modality}, self.fit(known, seed, {"modality": modality})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        return ContentMean([str(setting["modality"])]).fit(known, seed, {})


def side_by_side(features: Mapping[str, Features], modalities: Sequence[str]) -> Floats:
    """`[I, K]`: the mean vector of each modality at unit length, or zeros where it is missing."""
    parts = [unit_rows(features[name].mean_IK()) for name in modalities]
    return np.concatenate(parts, 1)


def unit_rows(vectors_IK: Floats) -> Floats:
    """Rows at length 1; zeros stay zeros."""
    lengths_I1 = np.linalg.norm(vectors_IK, axis=1, keepdims=True)
    unit_IK: Floats = np.divide(vectors_IK, lengths_I1, out=np.zeros_like(vectors_IK), where=lengths_I1 > 0)
    return unit_IK
