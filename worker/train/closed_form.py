"""A space without a single step of learning: content, what is had together and what comes next, in one dot product.

    I items   U users   C elements of a content block   R rank   K elements of a modality's vector   D dim of the space

    score(user, j) = Σ_i w_i (z_i · z_j + M_ij) / number of modalities,   w_i halved with every `half_life` newer events
    M = a · together + b · next
    together_ij = Σ_u [u has i and j] / events of u / √((n_i + 1) (n_j + 1))      n, the users of an item
    next_ij     = number of users who had j right after i / (n_i + 1)

z is the half-whitened content of an item at unit length. M is factored, M ≈ X Yᵀ, and an item's modality of behaviour
is [Y_i ; X_i] with one element more that brings all items to the same length; the user map turns what X says of a
history into what is looked for in Y. So M need not be symmetric: what comes next is not what came before. a, b and the
half-life are chosen by cross-validation over users; then it is fitted once more, to everything, unless it is to be
judged.

For few events it is hard to beat, and it takes seconds. What it cannot do is to tell what of the content matters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from worker import __version__
from worker.align.space import TRAINING_FOLDER, require_free, write_space
from worker.align.spec import SpaceSpec
from worker.align.weights import initial_weights
from worker.data import Dataset, Split
from worker.data.dataset import Features, Interactions
from worker.data.split import everything_to_learn_from
from worker.data.trained_on import trained_on, write_trained_on
from worker.errors import ConfigError
from worker.evaluate.questions import Questions, ask, train_questions
from worker.evaluate.sparse import sparse_matrix
from worker.train.run import Fit, Learned, Trained
from worker.train.settings import TrainSettings

HALF_LIVES = (0.5, 0.7, 1.0, 1.5, 3.0)
"""In events."""
MIXTURES = tuple(product((0.0, 1.0, 2.0, 4.0), (0.0, 1.0, 2.0, 4.0, 8.0)))
"""Of what is had together and of what comes next, beside a content of 1."""
MOST_CONTENT = 512
"""Elements of a modality's content block: half of its own, or this."""
MOST_RANK = 2_048
"""Who has what is sparse, and its factors are many: 512 instead of 1,800 cost 4 % of NDCG on 3,700 items."""
OVERSAMPLING, POWER_ITERATIONS = 16, 2  # of the randomised factoring (Halko et al. 2011)
MOST_OF_USER = 200
"""Newest events of a user that are had together: pairs grow with their square."""
PARTS, MOST_ASKED = 4, 2_000
"""Of the users, and questions, that a mixture is chosen by."""
CHOSEN_BY = 10
CONTENT_WEIGHT = 100.0
"""The learned block, which has nothing to say here, is then a hundredth of a vector."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen by cross-validation."""

    half_life: float
    together: float
    following: float
    ndcg: float
    """NDCG@10 of what came next, by what other users did; 0 where nothing is asked."""


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A space and what it takes of its items."""

    spec: SpaceSpec
    weights: Mapping[str, Tensor]
    features: Mapping[str, Features]
    """All modalities, that of behaviour included."""


def closed_form_space(
    dataset: Dataset, split: Split, settings: TrainSettings, out: Path, *, rank_seen: bool
) -> Trained:
    """Choose, fit and write the space; fitted to everything in the end, unless the settings say that it will be judged.

    With `rank_seen` it is chosen for lists that may have what the user has had.
    """
    require_free(out)
    choice = chosen(dataset, split, rank_seen=rank_seen)
    known = split if settings.final_fit is False else everything_to_learn_from(split)
    found = fitted(dataset, known, choice, settings.behavior, settings.last, settings.event_weights, settings.seed)
    space = write_space(
        out,
        found.spec,
        found.weights,
        training_data=dataset.fingerprint,
        evaluation={f"validation/known/ndcg@{CHOSEN_BY}": choice.ndcg},
        notes=f"in closed form by align-worker {__version__}, seed {settings.seed}: {choice}",
    )
    write_trained_on(out / TRAINING_FOLDER, trained_on(dataset, known))
    fit = Fit(space, Learned(found.features, None))
    told = (
        f"chosen by cross-validation: content 1, together {choice.together:g}, next {choice.following:g}, an event "
        f"worth half after {choice.half_life:g} newer ones (NDCG@{CHOSEN_BY} {choice.ndcg:.4f})"
    )
    return Trained(fit, fit, [told])


def chosen(dataset: Dataset, split: Split, *, rank_seen: bool = False) -> Choice:
    """The mixture that does best at the events to learn from, each asked about by what other users did: a user is in
    one of a few parts, and what is asked about those in one is fitted to the others."""
    asked = train_questions(split)
    asked = asked.where(np.flatnonzero(asked.lengths_Q > 0))
    if not len(asked):
        return Choice(1.0, 1.0, 2.0, 0.0)
    if rank_seen:
        asked = replace(asked, seen_end_Q=asked.begin_Q)
    random = np.random.default_rng(0)
    asked = asked.where(np.sort(random.permutation(len(asked))[:MOST_ASKED]))
    part_U = random.integers(0, PARTS, dataset.num_users)
    blocks = [_content(each)[0] for each in dataset.features.values()]
    content_IC = torch.cat(blocks, 1) if blocks else torch.zeros(dataset.num_items, 1)
    sums = np.zeros((len(HALF_LIVES), len(MIXTURES)))
    for part in range(PARTS):
        some = asked.where(np.flatnonzero(part_U[asked.users_Q] == part))
        if len(some):
            others = split.events.where(split.train_E & (part_U[split.events.users_E] != part))
            sums += _ndcg_of_mixtures(some, others, dataset, content_IC)
    best_half_life, best_mixture = np.unravel_index(int(sums.argmax()), sums.shape)
    return Choice(
        HALF_LIVES[best_half_life], *MIXTURES[best_mixture], float(sums[best_half_life, best_mixture]) / len(asked)
    )


def _ndcg_of_mixtures(
    asked: Questions, events: Interactions, dataset: Dataset, content_IC: Tensor
) -> NDArray[np.float64]:
    """Of every half-life and mixture, added up over the questions."""
    together_II, next_II = _together(events, dataset), _next(events, dataset)
    sums = np.zeros((len(HALF_LIVES), len(MIXTURES)))
    for row, half_life in enumerate(HALF_LIVES):
        history_QI = _history(asked, half_life, dataset.num_items)
        by_content_QI = torch.sparse.mm(history_QI, content_IC) @ content_IC.T
        history_IQ = history_QI.to_dense().T
        by_together_QI = torch.sparse.mm(together_II.T, history_IQ).T
        by_next_QI = torch.sparse.mm(next_II.T, history_IQ).T
        for column, (together, following) in enumerate(MIXTURES):
            scores_QI = by_content_QI + together * by_together_QI + following * by_next_QI
            ranking = ask(asked, lambda _, scores_QI=scores_QI: scores_QI, chunk=len(asked))  # type: ignore[misc]
            sums[row, column] = ranking.ndcg(CHOSEN_BY).sum()
    return sums


def fitted(
    dataset: Dataset, split: Split, choice: Choice, behavior: str, last: int, weights: Mapping[str, float], seed: int
) -> ClosedForm:
    """The space of a choice, by the events to learn from. `weights` of events, by type. `seed` is of the factoring."""
    if not dataset.features:
        raise ConfigError("--items: no item has features; make them from content with `align-worker encode`")
    if behavior in dataset.features:
        raise ConfigError(
            f"--behavior: the items have a modality {behavior!r} already; leave it out of the files, or name another"
        )
    events = split.events.where(split.train_E)
    made, length = _behavior(events, dataset, choice, seed)
    features = dict(sorted({**dataset.features, behavior: made}.items()))
    maps = {name: _content(each)[1] for name, each in dataset.features.items()}
    dims = {name: made.dim if name == behavior else len(maps[name][0]) for name in features}
    spec = SpaceSpec.model_validate(
        {
            "dim": 1 + sum(dims.values()),
            "width": 8,
            "modalities": {
                name: {
                    "dim": each.dim,
                    "encoder": each.encoder,
                    "max_vectors": max(1, int(each.counts_I.max(initial=0))),
                    "content_dim": dims[name],
                }
                for name, each in features.items()
            },
            "fusion": {"kind": "concat_mlp", "hidden": 8},
            "content_weight": CONTENT_WEIGHT,
            "user": {"kind": "attention", "last": last, "heads": 1, "hidden": 1, "event_weights": dict(weights)},
        }
    )
    parameters = initial_weights(spec, seed)
    for name in features:
        weight_CK, bias_C = (torch.eye(made.dim), torch.zeros(made.dim)) if name == behavior else maps[name]
        parameters[f"content_{name}.weight"], parameters[f"content_{name}.bias"] = weight_CK, bias_C
    parameters["user.pool.query"] = torch.zeros_like(parameters["user.pool.query"])
    parameters["user.pool.decay"] = torch.tensor([math.log(math.expm1(math.log(2) / choice.half_life))])
    parameters["user.pool.merge.weight"] = _user_map(dims, behavior, length)
    return ClosedForm(spec, parameters, features)


def _user_map(dims: Mapping[str, int], behavior: str, length: float) -> Tensor:
    """`[D, D]`: content as it is, the places of Y filled by what is in those of X, and nothing else."""
    map_DD = torch.zeros(1 + sum(dims.values()), 1 + sum(dims.values()))
    start = 1  # after the learned block
    for name, dim in dims.items():
        if name != behavior:
            map_DD[start : start + dim, start : start + dim] = torch.eye(dim)
        else:
            rank = dim // 2
            map_DD[start : start + rank, start + rank : start + 2 * rank] = torch.eye(rank) * length**2
        start += dim
    return map_DD


def _content(feature: Features) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The content of each item at unit length, `[I, C]`, and the map that makes it, as weight and bias."""
    vectors_NK = torch.from_numpy(feature.vectors_NK).double()
    mean_K = vectors_NK.mean(0)
    centred_NK = vectors_NK - mean_K
    variances_K, directions_KK = torch.linalg.eigh(centred_NK.T @ centred_NK / max(1, len(centred_NK)))
    kept = torch.arange(len(variances_K)).flip(0)[: max(1, min(MOST_CONTENT, len(variances_K) // 2))]
    scale_C = variances_K[kept].clamp(min=1e-6 * float(variances_K.max().clamp(min=1e-12))) ** -0.25
    weight_CK = (directions_KK[:, kept] * scale_C).T
    means_IK = torch.from_numpy(feature.mean_IK()).double()
    present_I1 = torch.from_numpy(feature.present_I)[:, None]
    content_IC = normalize((means_IK - mean_K) @ weight_CK.T) * present_I1
    return content_IC.float(), (weight_CK.float().contiguous(), -(weight_CK @ mean_K).float())


def _behavior(events: Interactions, dataset: Dataset, choice: Choice, seed: int) -> tuple[Features, float]:
    """The modality of all items, and what their length was before it was made 1."""
    num_items = dataset.num_items
    mixed_II = choice.together * _together(events, dataset) + choice.following * _next(events, dataset)
    rank = max(1, min(MOST_RANK, num_items // 2))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        left_IR, values_R, right_IR = torch.svd_lowrank(
            mixed_II.coalesce(), min(rank + OVERSAMPLING, num_items), niter=POWER_ITERATIONS
        )
    roots_R = values_R[:rank].clamp(min=0).sqrt()
    both_IR = torch.cat([right_IR[:, :rank] * roots_R, left_IR[:, :rank] * roots_R], 1)
    squares_I = both_IR.square().sum(1)
    length = float(squares_I.max().sqrt()) or 1.0
    filling_I = (length**2 - squares_I).clamp(min=0).sqrt()
    vectors_IK = (torch.cat([both_IR, filling_I[:, None]], 1) / length).float().numpy()
    digest = blake2b(repr((choice, seed)).encode(), digest_size=6)
    digest.update(np.ascontiguousarray(np.stack([events.users_E, events.items_E])).data)
    return Features(f"closed-form-{digest.hexdigest()}", vectors_IK, np.arange(num_items + 1)), length


def _together(events: Interactions, dataset: Dataset) -> Tensor:
    """`[I, I]`, sparse."""
    count_I = np.bincount(events.items_E, minlength=dataset.num_items)
    ones, others, values = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for items in _lines(events):
        newest = items[-MOST_OF_USER:]
        one, other = np.repeat(newest, len(newest)), np.tile(newest, len(newest))
        apart = one != other
        ones.append(one[apart])
        others.append(other[apart])
        values.append(np.full(int(apart.sum()), 1 / len(items)))
    one, other, value = np.concatenate(ones), np.concatenate(others), np.concatenate(values)
    return _sparse(one, other, value / np.sqrt((count_I[one] + 1) * (count_I[other] + 1)), dataset.num_items)


def _next(events: Interactions, dataset: Dataset) -> Tensor:
    """`[I, I]`, sparse: row, what came before; column, what came next."""
    count_I = np.bincount(events.items_E, minlength=dataset.num_items)
    pairs = [(items[:-1], items[1:]) for items in _lines(events)]
    before = np.concatenate([np.zeros(0, np.int64), *(each for each, _ in pairs)])
    after = np.concatenate([np.zeros(0, np.int64), *(each for _, each in pairs)])
    return _sparse(before, after, 1 / (count_I[before] + 1), dataset.num_items)


def _lines(events: Interactions) -> Iterator[np.ndarray]:
    """The items of each user, in the order of the events."""
    order = np.argsort(events.users_E, kind="stable")
    bounds = np.flatnonzero(np.diff(events.users_E[order])) + 1
    yield from np.split(events.items_E[order], bounds)


def _sparse(rows: np.ndarray, columns: np.ndarray, values: np.ndarray, num_items: int) -> Tensor:
    indices = torch.from_numpy(np.stack([rows, columns]))
    return sparse_matrix(indices, torch.from_numpy(values).float(), (num_items, num_items)).coalesce()


def _history(asked: Questions, half_life: float, num_items: int) -> Tensor:
    """`[Q, I]`, sparse: the weights of a history, which add up to 1."""
    rows, items = asked.history_pairs()
    newer = (
        np.repeat(asked.end_Q, asked.lengths_Q)
        - 1
        - (np.arange(len(rows)) - _offsets(asked))
        - np.repeat(asked.begin_Q, asked.lengths_Q)
    )
    weights = 0.5 ** (newer / half_life)
    sums_Q = np.bincount(rows, weights, minlength=len(asked))
    indices = torch.from_numpy(np.stack([rows, items]))
    return sparse_matrix(indices, torch.from_numpy(weights / sums_Q[rows]).float(), (len(asked), num_items)).coalesce()


def _offsets(asked: Questions) -> np.ndarray:
    starts = np.cumsum(asked.lengths_Q) - asked.lengths_Q
    return np.repeat(starts, asked.lengths_Q)
