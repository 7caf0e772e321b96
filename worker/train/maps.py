"""Maps of the features of each modality into one space, in closed form: one modality found by another.

    N items with both modalities of a pair   I items   K elements of a feature   P of a whitened one
    D dim of the space

They are fitted to what items have, and to nothing that users do, beside the recipe and not by it: contrastive heads
that share their tokens with what is recommended find less.

    correlated   s_m = Vᵀ P_m (x̂ - μ_m): whitened by w with ridge ρ, then the directions that agree most between
                 modalities, each by its agreement to the power p. w = 0: Procrustes. w = 1: canonical correlations,
                 for more than two modalities by their sum (MAXVAR)
    ridge        x̂_a - μ_a is regressed on x̂_b - μ_b
    joint        the same directions for all modalities, of one encoder that has aligned them already: nothing is lost

x̂ is x at unit length. Which of them, and with what numbers, is chosen by items that the maps were not fitted to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from worker.data.dataset import Bools, Features
from worker.evaluate.metrics import ranks_of

AMONG_FIRST = 10
FOLD = 5
"""Of the items to fit to, one in so many is kept back to choose by, beside those that are withheld anyway."""
MOST_ITEMS = 20_000
"""To fit to or to choose by: of more, this many are drawn."""
SEED = 0

Map = tuple[Tensor, Tensor]
"""Weight `[D, K]` and bias `[D]`."""


class Kind(NamedTuple):
    """One way to fit, with its numbers."""

    name: str
    whitening: float = 0.0
    ridge: float = 0.0
    power: float = 0.0
    answer: str = ""
    """Of `ridge`: the modality that the others are mapped to."""

    def text(self) -> str:
        if self.name == "correlated":
            return f"correlated, whitening {self.whitening:g}, ridge {self.ridge:g}, power {self.power:g}"
        return f"ridge {self.ridge:g} to {self.answer}" if self.name == "ridge" else self.name


@dataclass(frozen=True, slots=True)
class Maps:
    """What came out."""

    maps: Mapping[str, Map]
    kind: Kind | None
    """None: there are no two modalities to find one another."""
    found: float | None
    """By items not fitted to: how often the right one is among the first ten, a mean over ordered pairs."""
    chance: float | None


class _Known(NamedTuple):
    """Means of unit vectors `[I, K]`, and who has one."""

    means: Mapping[str, Tensor]
    present: Mapping[str, Tensor]


def fitted(features: Mapping[str, Features], content: Sequence[str], fit_I: Bools, choose_I: Bools, dim: int) -> Maps:
    """Choose by the items marked in `choose_I`, and fit to those marked in `fit_I`. `content` names the modalities that
    are content; others, made of events, are mapped to what these say."""
    features, fit_I, choose_I = _looked_at(features, fit_I, choose_I)
    known = _known(features)
    if len(content) < 2:
        return Maps(_others(known, {}, fit_I, dim), None, None, None)
    pairs = list(permutations(content, 2))
    fit = _some(torch.from_numpy(fit_I))
    choose = _some(torch.from_numpy(choose_I))
    kept_back = torch.arange(len(fit)) % FOLD == FOLD - 1
    first, choose = fit[~kept_back], torch.cat([choose, fit[kept_back]])
    best: tuple[float, Kind] | None = None
    for kind in _kinds(known, content):
        maps = _fit(kind, known, content, first, dim)
        value = None if maps is None else _found(maps, known, choose, pairs)
        if value is not None and (best is None or value > best[0]):
            best = value, kind
    if best is None:
        return Maps(_others(known, {}, fit_I, dim), None, None, None)
    chances = [min(1.0, AMONG_FIRST / n) for pair in pairs if (n := int(_both(known, choose, pair).sum())) > 1]
    return Maps(refitted(best[1], features, content, fit_I, dim), best[1], best[0], float(np.mean(chances)))


def refitted(
    kind: Kind | None, features: Mapping[str, Features], content: Sequence[str], fit_I: Bools, dim: int
) -> Mapping[str, Map]:
    """The maps of one kind, of all modalities."""
    features, fit_I, _ = _looked_at(features, fit_I, np.zeros_like(fit_I))
    known = _known(features)
    maps = None if kind is None else _fit(kind, known, content, _some(torch.from_numpy(fit_I)), dim)
    return _others(known, maps or {}, fit_I, dim)


def _looked_at(
    features: Mapping[str, Features], fit_I: Bools, choose_I: Bools
) -> tuple[Mapping[str, Features], Bools, Bools]:
    """The same of those items alone that are looked at: what is made of each is large beside its features."""
    fit, choose = (_some(torch.from_numpy(each)).numpy() for each in (fit_I, choose_I))
    items = np.union1d(fit, choose)
    return {name: each.where(items) for name, each in features.items()}, np.isin(items, fit), np.isin(items, choose)


def _known(features: Mapping[str, Features]) -> _Known:
    means, present = {}, {}
    for name, each in features.items():
        vectors_NK = normalize(torch.from_numpy(each.vectors_NK).double(), dim=1)
        counts_I = torch.from_numpy(each.counts_I)
        sums_IK = vectors_NK.new_zeros(len(counts_I), vectors_NK.shape[1])
        sums_IK.index_add_(0, torch.arange(len(counts_I)).repeat_interleave(counts_I), vectors_NK)
        means[name], present[name] = sums_IK / counts_I.clamp(min=1)[:, None], counts_I > 0
    return _Known(means, present)


def _some(marks_I: Tensor) -> Tensor:
    items = marks_I.nonzero()[:, 0]
    if len(items) <= MOST_ITEMS:
        return items
    drawn = np.random.default_rng(SEED).permutation(len(items))[:MOST_ITEMS]
    return items[torch.from_numpy(np.sort(drawn))]


def _both(known: _Known, items: Tensor, pair: tuple[str, str]) -> Tensor:
    return known.present[pair[0]][items] & known.present[pair[1]][items]


def _kinds(known: _Known, content: Sequence[str]) -> Iterator[Kind]:
    yield Kind("correlated")
    for whitening in (0.5, 1.0):
        for ridge in (0.01, 0.1, 1.0):
            for power in (0.0, 0.5, 1.0):
                yield Kind("correlated", whitening, ridge, power)
    yield Kind("correlated", power=0.5)
    if len(content) == 2:
        for answer in content:
            for ridge in (0.01, 0.1, 1.0):
                yield Kind("ridge", ridge=ridge, answer=answer)
    if len({known.means[name].shape[1] for name in content}) == 1:
        yield Kind("joint")
        yield Kind("joint, centred")


def _fit(kind: Kind, known: _Known, content: Sequence[str], items: Tensor, dim: int) -> dict[str, Map] | None:
    """None for what cannot be fitted."""
    rows = {name: known.means[name][items][known.present[name][items]] for name in content}
    if any(len(each) < 2 for each in rows.values()):
        return None
    centres = {name: each.mean(0) for name, each in rows.items()}
    if kind.name.startswith("joint"):
        return _joint(rows, centres if "centred" in kind.name else None, dim)
    if kind.name == "ridge":
        return _ridge(kind, known, content, items, centres, dim)
    whiten = {name: _whitening(each - centres[name], kind) for name, each in rows.items()}
    sizes = [whiten[name].shape[0] for name in content]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    cross = torch.zeros(starts[-1], starts[-1], dtype=torch.float64)
    for one, other in combinations(range(len(content)), 2):
        both = items[_both(known, items, (content[one], content[other]))]
        if len(both) < 2:
            continue
        these, those = (
            (known.means[name][both] - centres[name]) @ whiten[name].T for name in (content[one], content[other])
        )
        block = these.T @ those / len(both)
        cross[starts[one] : starts[one + 1], starts[other] : starts[other + 1]] = block
        cross[starts[other] : starts[other + 1], starts[one] : starts[one + 1]] = block.T
    values, vectors = torch.linalg.eigh(cross)
    rank = min(dim, *sizes)
    values, vectors = values.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    scale = (values / values[0].clamp(min=1e-12)) ** kind.power
    maps = {}
    for number, name in enumerate(content):
        turned = vectors[starts[number] : starts[number + 1]]
        turned = turned / torch.linalg.vector_norm(turned, dim=0).clamp(min=1e-12) * scale
        maps[name] = _map(turned.T @ whiten[name], centres[name], dim)
    return maps


def _whitening(centred_NK: Tensor, kind: Kind) -> Tensor:
    """`[P, K]`"""
    values, vectors = torch.linalg.eigh(centred_NK.T @ centred_NK / len(centred_NK))
    kept = values > 1e-9 * values[-1].clamp(min=1e-30)
    values, vectors = values[kept], vectors[:, kept]
    scale_P = torch.pow(values + kind.ridge * values.mean(), -kind.whitening / 2)
    weight_PK: Tensor = scale_P[:, None] * vectors.T
    return weight_PK


def _ridge(
    kind: Kind, known: _Known, content: Sequence[str], items: Tensor, centres: Mapping[str, Tensor], dim: int
) -> dict[str, Map] | None:
    answer = kind.answer
    if known.means[answer].shape[1] > dim:
        return None
    identity = torch.eye(known.means[answer].shape[1], dtype=torch.float64)
    maps = {answer: _map(identity, centres[answer], dim)}
    for name in content:
        if name != answer:
            both = items[_both(known, items, (name, answer))]
            if len(both) < 2:
                return None
            these, those = known.means[name][both] - centres[name], known.means[answer][both] - centres[answer]
            maps[name] = _map(_regression(these, those, kind.ridge), centres[name], dim)
    return maps


def _regression(these_NK: Tensor, those_NP: Tensor, ridge: float) -> Tensor:
    """`[P, K]`"""
    gram_KK = these_NK.T @ these_NK
    gram_KK.diagonal().add_(ridge * gram_KK.diagonal().mean().clamp(min=1e-12))
    weight_KP: Tensor = torch.linalg.solve(gram_KK, these_NK.T @ those_NP)
    return weight_KP.T


def _joint(rows: Mapping[str, Tensor], centres: Mapping[str, Tensor] | None, dim: int) -> dict[str, Map]:
    around = {name: torch.zeros_like(each[0]) if centres is None else centres[name] for name, each in rows.items()}
    pooled = sum((each - around[name]).T @ (each - around[name]) / len(each) for name, each in rows.items())
    assert isinstance(pooled, Tensor)
    _, vectors = torch.linalg.eigh(pooled)
    return {name: _map(vectors.flip(1)[:, :dim].T, centre, dim) for name, centre in around.items()}


def _map(weight_PK: Tensor, centre_K: Tensor, dim: int) -> Map:
    """Zeros beyond what the map has."""
    weight_DK = torch.zeros(dim, weight_PK.shape[1])
    weight_DK[: len(weight_PK)] = weight_PK.float()
    bias_D = torch.zeros(dim)
    bias_D[: len(weight_PK)] = -(weight_PK @ centre_K).float()
    return weight_DK, bias_D


def _others(known: _Known, maps: Mapping[str, Map], fit_I: Bools, dim: int) -> dict[str, Map]:
    """All maps: those that there are, and for the other modalities what they say of these; of a modality that is alone,
    its own directions."""
    result = dict(maps)
    items = _some(torch.from_numpy(fit_I))
    for name, means_IK in known.means.items():
        if name in result:
            continue
        mine = items[known.present[name][items]]
        centre_K = means_IK[mine].mean(0) if len(mine) else means_IK.new_zeros(means_IK.shape[1])
        targets = torch.zeros(len(mine), dim, dtype=torch.float64)
        for other, (weight_DK, bias_D) in maps.items():
            raw = known.means[other][mine] @ weight_DK.double().T + bias_D.double()
            targets += normalize(raw, dim=1) * known.present[other][mine][:, None]
        if maps and len(mine) > 1:
            result[name] = _map(_regression(means_IK[mine] - centre_K, targets, 0.1), centre_K, dim)
        else:
            _, vectors = torch.linalg.eigh((means_IK[mine] - centre_K).T @ (means_IK[mine] - centre_K))
            result[name] = _map(vectors.flip(1)[:, :dim].T, centre_K, dim)
    return result


def _found(maps: Mapping[str, Map], known: _Known, items: Tensor, pairs: Sequence[tuple[str, str]]) -> float | None:
    """Recall@10 of the items by one modality among the other, a mean over the pairs that two items have."""
    unit = {
        name: normalize(known.means[name][items].float() @ weight_DK.T + bias_D, dim=1)
        for name, (weight_DK, bias_D) in maps.items()
    }
    values = []
    for query, answer in pairs:
        both = _both(known, items, (query, answer))
        if int(both.sum()) > 1:
            scores = unit[query][both] @ unit[answer][both].T
            own = torch.arange(len(scores))
            values.append(float((ranks_of(scores, own, own) < AMONG_FIRST).double().mean()))
    return float(np.mean(values)) if values else None
