"""Cosine with the mean of the history, in the space of the features themselves.

I items   K elements of all modalities in question   Q questions   C candidates
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from worker.data import Features
from worker.data.dataset import Floats
from worker.evaluate.baselines.known import Known, Setting, history_matrix
from worker.evaluate.questions import Questions, Score

Treatment = Literal["as it is", "centred", "half-whitened"]
TREATMENTS: tuple[Treatment, ...] = ("as it is", "centred", "half-whitened")


class ContentMean:
    """The unit vectors of some modalities side by side; a missing one counts for nothing.

    What is done to the vectors before is chosen: nothing; their mean is taken away; or, besides, only the half of their
    principal components that has most variance is kept, each divided by the root of its standard deviation, so that the
    few strongest do not decide alone.
    """

    seeded = False
    patience = None

    def __init__(self, modalities: Sequence[str]) -> None:
        self.modalities = tuple(modalities)
        self.name = f"content mean, {'+'.join(self.modalities)}"

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for treatment in TREATMENTS:
            yield {"vectors": treatment}, self.fit(known, seed, {"vectors": treatment})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        treatment = str(setting.get("vectors", TREATMENTS[0]))
        content_IK = torch.from_numpy(side_by_side(known.features, self.modalities, treatment))
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

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        for modality in self._modalities:
            for setting, score in ContentMean([modality]).candidates(known, seed):
                yield {"modality": modality, **setting}, score

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        return ContentMean([str(setting["modality"])]).fit(known, seed, setting)


def side_by_side(features: Mapping[str, Features], modalities: Sequence[str], treatment: str = "as it is") -> Floats:
    """`[I, K]`: the mean vector of each modality at unit length, or zeros where it is missing."""
    parts = [unit_rows(_treated(features[name], treatment)) for name in modalities]
    return np.concatenate(parts, 1)


def _treated(feature: Features, treatment: str) -> Floats:
    """The mean vector of each item, by one of `TREATMENTS`; zeros where it is missing."""
    means_IK = feature.mean_IK()
    there_I = feature.present_I
    if treatment == "as it is" or not there_I.any():
        return means_IK
    centred_IK: Floats = means_IK - means_IK[there_I].mean(0)
    if treatment == "half-whitened":
        # By torch: numpy's threads cannot be told to be few, and wait for one another where a machine is busy.
        centred_NK = torch.from_numpy(centred_IK[there_I])
        variances_K, directions_KK = (
            each.numpy() for each in torch.linalg.eigh((centred_NK.T @ centred_NK).double() / len(centred_NK))
        )
        kept = np.argsort(variances_K)[::-1][: max(1, len(variances_K) // 2)]
        scale_K = np.maximum(variances_K[kept], 1e-6 * variances_K.max()) ** -0.25
        centred_IK = (centred_IK @ (directions_KK[:, kept] * scale_K)).astype(np.float32)
    centred_IK[~there_I] = 0.0
    return centred_IK


def unit_rows(vectors_IK: Floats) -> Floats:
    """Rows at length 1; zeros stay zeros."""
    lengths_I1 = np.linalg.norm(vectors_IK, axis=1, keepdims=True)
    unit_IK: Floats = np.divide(vectors_IK, lengths_I1, out=np.zeros_like(vectors_IK), where=lengths_I1 > 0)
    return unit_IK
