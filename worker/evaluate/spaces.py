"""A space put to the questions, as a ranker would use it: the vectors that are served, and a dot product.

I items   D dim of the space   N neighbours of an item   Q questions   C candidates
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from schemas import Feature
from worker.align import AlignRuntime, Contract, Refusal, Space
from worker.align.model import NeighborAttention
from worker.align.scoring import scores
from worker.align.users import NO_ROW, Histories, UserModel, UserVectors
from worker.align.weights import build_model, build_user_model
from worker.data import Dataset
from worker.errors import SpaceError
from worker.evaluate.questions import Questions, Score

ITEMS_AT_ONCE = 4_096


@dataclass(frozen=True, slots=True)
class ItemVectors:
    """What the worker would publish of every item."""

    vectors_ID: Tensor
    """Zeros where there is none."""
    usable_I: Tensor
    """Whether there is one."""
    priors_I: Tensor
    alone: Mapping[str, Tensor]
    """By modality `[I, D]`: the vector of that modality alone; zeros where an item lacks it."""
    refused: Mapping[str, int]
    """How many items the space refuses, by reason."""


def embed_items(runtime: AlignRuntime, dataset: Dataset, modalities: Collection[str] | None = None) -> ItemVectors:
    """The vectors of all items by the code that serves them, of these modalities only if they are given.

    Raises `SpaceError` if the space refuses every item: it was made for others.
    """
    contract = Contract(runtime.space.spec)
    pieces, refused, detail = [], Counter[str](), ""
    for start in range(0, dataset.num_items, ITEMS_AT_ONCE):
        accepted: list[Mapping[str, Feature]] = []
        for item in range(start, min(start + ITEMS_AT_ONCE, dataset.num_items)):
            features = contract.check(_features(dataset, item, modalities))
            if isinstance(features, Refusal):
                refused[features.reason] += 1
                detail = f"item {dataset.item_ids[item]!r}: {features.detail}"
                features = {}
            accepted.append(features)
        pieces.append(runtime.embed(accepted))
    if refused.total() == dataset.num_items:
        raise SpaceError(f"space.path: the space accepts none of the items; {detail}")
    bad = np.concatenate([np.isin(np.arange(len(piece.modalities)), list(piece.bad_rows)) for piece in pieces])
    usable_I = torch.from_numpy(~bad)
    vectors_ID = torch.from_numpy(np.concatenate([piece.vectors for piece in pieces]))
    names = sorted({name for piece in pieces for name in piece.modality_vectors or {}})
    alone = {
        name: [(piece.modality_vectors or {}).get(name, np.zeros_like(piece.vectors)) for piece in pieces]
        for name in names
    }
    return ItemVectors(
        vectors_ID=_among_neighbors(runtime.space, vectors_ID, usable_I, dataset.neighbors),
        usable_I=usable_I,
        priors_I=torch.from_numpy(np.concatenate([piece.priors for piece in pieces])),
        alone={name: torch.from_numpy(np.concatenate(parts)) for name, parts in alone.items()},
        refused=dict(refused),
    )


def _features(dataset: Dataset, item: int, modalities: Collection[str] | None) -> Mapping[str, Feature]:
    """Of one item, as they come off the wire."""
    features = {}
    for name, each in dataset.features.items():
        start, end = each.starts[item], each.starts[item + 1]
        if start < end and (modalities is None or name in modalities):
            features[name] = Feature.from_numpy(each.vectors_NK[start:end], "f4", encoder=each.encoder)
    return features


def _among_neighbors(
    space: Space, vectors_ID: Tensor, usable_I: Tensor, neighbors: Sequence[tuple[int, ...]]
) -> Tensor:
    """The vectors after graph fusion, where the space has it. All look at what the others were before."""
    if space.spec.graph is None:
        return vectors_ID
    graph = build_model(space.spec, space.weights).graph
    assert isinstance(graph, NeighborAttention)
    rows_IN = neighbor_rows(neighbors, usable_I, space.spec.graph.max_neighbors)
    pieces = []
    for start in range(0, len(neighbors), ITEMS_AT_ONCE):
        rows_BN = rows_IN[start : start + ITEMS_AT_ONCE]
        pieces.append(
            graph(vectors_ID[start : start + ITEMS_AT_ONCE], vectors_ID[rows_BN.clamp(min=0)], rows_BN != NO_ROW)
        )
    return torch.where(usable_I[:, None], torch.cat(pieces), vectors_ID)


def neighbor_rows(neighbors: Sequence[tuple[int, ...]], usable_I: Tensor, most: int) -> Tensor:
    """`[I, most]`: of the neighbours of each item the first that have a vector, by number; then `NO_ROW`."""
    counts_I = np.fromiter(map(len, neighbors), np.int64, len(neighbors))
    others_P = np.fromiter(chain.from_iterable(neighbors), np.int64, int(counts_I.sum()))
    items_P = np.repeat(np.arange(len(neighbors)), counts_I)
    usable_P = usable_I.numpy()[others_P]
    items_P, others_P = items_P[usable_P], others_P[usable_P]
    place_P = np.arange(len(items_P)) - np.searchsorted(items_P, items_P)
    first_P = place_P < most
    rows_IN = np.full((len(neighbors), most), NO_ROW)
    rows_IN[items_P[first_P], place_P[first_P]] = others_P[first_P]
    return torch.from_numpy(rows_IN)


def space_score(space: Space, items: ItemVectors) -> Score:
    """The score of a space. Raises `SpaceError` if it says nothing of users."""
    user_model = build_user_model(space.spec, space.weights)
    assert space.spec.user is not None
    return vector_score(user_model, space.spec.user.last, items)


def vector_score(user_model: UserModel, last: int, items: ItemVectors) -> Score:
    """Dot products of users, pooled from their `last` events, and items, plus the priors.

    A user without a vector gets the priors alone; an item without one is out of the ranking. Computes where the items'
    vectors are, and the model with them.
    """

    def score(questions: Questions) -> Tensor:
        return candidate_scores(user_vectors(user_model, last, items, questions), items, questions)

    return score


def user_vectors(user_model: UserModel, last: int, items: ItemVectors, questions: Questions) -> Tensor:
    """`[Q, D]`: what the worker would publish of each question's user; zeros where there is nothing to say."""
    device = items.vectors_ID.device
    padded = questions.histories(last)
    rows_QN = torch.from_numpy(padded.items_QN).to(device)
    rows_QN = rows_QN.masked_fill(~items.usable_I[rows_QN.clamp(min=0)], NO_ROW)
    times_ms_QN, weights_QN = (torch.from_numpy(each).to(device) for each in (padded.times_ms_QN, padded.weights_QN))
    made: UserVectors = user_model(items.vectors_ID, Histories(rows_QN, times_ms_QN, weights_QN))
    return made.vectors_UD.masked_fill(~made.usable_U[:, None], 0.0)


def candidate_scores(users_QD: Tensor, items: ItemVectors, questions: Questions) -> Tensor:
    """`[Q, C]`: the candidates of each question by the vector of its user."""
    if len(questions.candidates_C) == len(items.usable_I):  # all: nothing to pick out, nor to copy
        return scores(users_QD, items.vectors_ID, items.priors_I).masked_fill(~items.usable_I, -torch.inf)
    candidates_C = torch.from_numpy(questions.candidates_C).to(users_QD.device)
    scores_QC = scores(users_QD, items.vectors_ID[candidates_C], items.priors_I[candidates_C])
    return scores_QC.masked_fill(~items.usable_I[candidates_C], -torch.inf)
