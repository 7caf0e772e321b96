"""Maps between two modalities in closed form: what alignment has to beat where one modality is to find another.

    N items with both   K elements of a query   L elements of an answer   F factors

    Procrustes   the rotation that brings queries nearest to answers, both whitened in part (Schönemann 1966)
    CCA          directions that go together most, weighed by how much they do (Hotelling 1936)
    ridge        the answers as a linear function of the queries, and the other way round

Fitted to items that are not withheld. The penalty, and with it which directions count, is chosen by the items that are
withheld to choose by, and the items withheld to judge by are looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from worker.data import Features, Split
from worker.data.dataset import Bools
from worker.evaluate.retrieval import Retrieval, ranks_of_own

PENALTIES = (0.01, 0.1, 1.0)
"""Times the mean variance of an element."""
CHOSEN_BY = 10
"""Length of the lists that the penalty is chosen by."""
MOST_ITEMS = 50_000
"""That a map is fitted to: more change nothing."""
MOST_ASKED = 5_000
"""Items that are looked for."""

Map = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Brings queries and answers to where they can be compared."""


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """One map, put to the withheld items."""

    name: str
    penalty: float
    found: Retrieval


def closed_forms(features: Mapping[str, Features], split: Split) -> Iterator[ClosedForm]:
    """Every map, for every ordered pair of modalities of which enough items have both."""
    vectors = {name: torch.from_numpy(each.mean_IK()).double() for name, each in features.items()}
    for query, answer in permutations(sorted(features), 2):
        both_I = features[query].present_I & features[answer].present_I
        fitted, chosen, asked = (
            torch.from_numpy(np.flatnonzero(both_I & part_I)[:most]) for part_I, most in _parts(split, both_I)
        )
        if min(len(fitted), len(chosen), len(asked)) < 2:
            continue
        for name, fit in FITS.items():
            maps = {p: fit(vectors[query][fitted], vectors[answer][fitted], p) for p in PENALTIES}

            def found(penalty: float, items: Tensor, maps: Mapping[float, Map] = maps) -> Retrieval:
                queries_NF, answers_NF = maps[penalty](vectors[query][items], vectors[answer][items])  # noqa: B023
                return Retrieval(query, answer, ranks_of_own(queries_NF, answers_NF))  # noqa: B023

            best = max(PENALTIES, key=lambda penalty: found(penalty, chosen).recall(CHOSEN_BY))
            yield ClosedForm(name, best, found(best, asked))


def _parts(split: Split, both_I: Bools) -> Iterator[tuple[Bools, int]]:
    yield split.warm_I, MOST_ITEMS
    # Where nothing is withheld to choose by, a part of what is fitted to does: a penalty is not much of a choice.
    yield (split.cold_val_I if (split.cold_val_I & both_I).sum() > 1 else split.warm_I), MOST_ASKED
    yield split.cold_test_I, int(1e9)


@dataclass(frozen=True, slots=True)
class _Whitened:
    """Vectors without their mean, in the directions of their variance, each divided by a power of its deviation."""

    mean_K: Tensor
    weight_KF: Tensor

    def __call__(self, vectors_NK: Tensor) -> Tensor:
        return (vectors_NK - self.mean_K) @ self.weight_KF


def _whitened(vectors_NK: Tensor, penalty: float, power: float) -> _Whitened:
    mean_K = vectors_NK.mean(0)
    centred_NK = vectors_NK - mean_K
    variances_K, directions_KK = torch.linalg.eigh(centred_NK.T @ centred_NK / len(centred_NK))
    variances_K = variances_K.clamp(min=0) + penalty * variances_K.mean().clamp(min=1e-12)
    return _Whitened(mean_K, directions_KK * variances_K ** (-power / 2))


def _cca(queries_NK: Tensor, answers_NL: Tensor, penalty: float) -> Map:
    white_K, white_L = _whitened(queries_NK, penalty, 1.0), _whitened(answers_NL, penalty, 1.0)
    together_KL = white_K(queries_NK).T @ white_L(answers_NL) / len(queries_NK)
    left_KF, strength_F, right_FL = torch.linalg.svd(together_KL, full_matrices=False)
    return lambda queries, answers: (
        white_K(queries) @ left_KF * strength_F.sqrt(),
        white_L(answers) @ right_FL.T * strength_F.sqrt(),
    )


def _procrustes(queries_NK: Tensor, answers_NL: Tensor, penalty: float) -> Map:
    white_K, white_L = _whitened(queries_NK, penalty, 0.5), _whitened(answers_NL, penalty, 0.5)
    left_KF, _, right_FL = torch.linalg.svd(white_K(queries_NK).T @ white_L(answers_NL), full_matrices=False)
    return lambda queries, answers: (white_K(queries) @ left_KF, white_L(answers) @ right_FL.T)


def _ridge(queries_NK: Tensor, answers_NL: Tensor, penalty: float) -> Map:
    """What each side predicts of the other, beside what the other is."""
    forth, back = _regression(queries_NK, answers_NL, penalty), _regression(answers_NL, queries_NK, penalty)
    mean_K, mean_L = queries_NK.mean(0), answers_NL.mean(0)

    def both(queries: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
        return (
            torch.cat([normalize(queries - mean_K), normalize(forth(queries))], 1),
            torch.cat([normalize(back(answers)), normalize(answers - mean_L)], 1),
        )

    return both


def _regression(from_NK: Tensor, to_NL: Tensor, penalty: float) -> _Whitened:
    mean_K = from_NK.mean(0)
    centred_NK = from_NK - mean_K
    square_KK = centred_NK.T @ centred_NK
    strength = penalty * square_KK.diagonal().mean().clamp(min=1e-12)
    weight_KL = torch.linalg.solve(
        square_KK + strength * torch.eye(len(square_KK), dtype=square_KK.dtype), centred_NK.T @ (to_NL - to_NL.mean(0))
    )
    return _Whitened(mean_K, weight_KL)


FITS: Mapping[str, Callable[[Tensor, Tensor, float], Map]] = {"Procrustes": _procrustes, "CCA": _cca, "ridge": _ridge}
