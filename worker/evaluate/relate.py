"""Whether vectors of two spaces can stand beside each other: measured, not believed.

I items   D dim of both spaces   Q queries
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worker.align import AlignRuntime, Space
from worker.align.weights import build_user_model
from worker.data import Dataset
from worker.errors import SpaceError
from worker.evaluate.questions import Questions, Score, ask
from worker.evaluate.spaces import ItemVectors, candidate_scores, embed_items, user_vectors

NEIGHBORS = 10
RECALL_AT = 20
MOST_QUERIES = 1_000
"""Items whose neighbours are looked at: of more, so many evenly from all."""
LEAST_RECALL = 0.95
"""Of what a space finds by itself, what is found across the two."""
LEAST_OVERLAP = 0.6
"""Of the neighbours in a space, those that are found across, where there are no events to ask by."""


class Related(NamedTuple):
    """By name what was found, and what speaks against comparing vectors of the two."""

    figures: Mapping[str, float]
    against: tuple[str, ...]


def relate(old: Space, new: Space, old_items: Dataset, new_items: Dataset, questions: Questions | None) -> Related:
    """The items are the same, each with the features that its space takes. `questions` are asked of users of both
    spaces, if there are any. Raises `SpaceError` for spaces whose vectors cannot be compared at all."""
    if old.spec.dim != new.spec.dim:
        raise SpaceError(f"vectors of the two spaces have {old.spec.dim} and {new.spec.dim} elements")
    made = [
        embed_items(AlignRuntime(space, device="cpu", dtype="float32"), items)
        for space, items in ((old, old_items), (new, new_items))
    ]
    there_I = made[0].usable_I & made[1].usable_I
    if int(there_I.sum()) <= NEIGHBORS:
        raise SpaceError(f"--items: {int(there_I.sum())} items have a vector in both spaces, and it takes more than "
                         f"{NEIGHBORS}")  # fmt: skip
    old_ID, new_ID = (each.vectors_ID[there_I] for each in made)
    figures = {
        "items": float(there_I.sum()),
        "cosine": float((old_ID * new_ID).sum(1).mean()),
        "overlap@10/new among old": _overlap(new_ID, old_ID),
        "overlap@10/old among new": _overlap(old_ID, new_ID),
    }
    if questions is None or not len(questions) or old.spec.user is None or new.spec.user is None:
        return Related(figures, _too_far(figures))
    for name, users, items in (
        ("old", (old, made[0]), made[0]),
        ("new", (new, made[1]), made[1]),
        ("new users, old items", (new, made[1]), made[0]),
        ("old users, new items", (old, made[0]), made[1]),
    ):
        figures[f"recall@20/{name}"] = float(ask(questions, _across(*users, items)).recall(RECALL_AT).mean())
    return Related(figures, _lost(figures))


def _across(space: Space, own: ItemVectors, others: ItemVectors) -> Score:
    """Users of a space, among items of either."""
    model = build_user_model(space.spec, space.weights)
    assert space.spec.user is not None
    last = space.spec.user.last

    def score(questions: Questions) -> Tensor:
        return candidate_scores(user_vectors(model, last, own, questions), others, questions)

    return score


def _overlap(asked_ID: Tensor, among_ID: Tensor) -> float:
    """Of the nearest ten of an item in its own space, how many are among its nearest ten in the other, on average."""
    num_items = len(asked_ID)
    queries_Q = torch.from_numpy(np.unique(np.linspace(0, num_items - 1, MOST_QUERIES).astype(np.int64)))
    found = []
    for vectors_ID in (asked_ID, among_ID):
        scores_QI = asked_ID[queries_Q] @ vectors_ID.T
        scores_QI[torch.arange(len(queries_Q)), queries_Q] = -torch.inf
        found.append(scores_QI.topk(NEIGHBORS, dim=1).indices)
    return float((found[0][:, :, None] == found[1][:, None]).any(2).float().mean())


def _too_far(figures: Mapping[str, float]) -> tuple[str, ...]:
    least = min(value for name, value in figures.items() if name.startswith("overlap"))
    if least >= LEAST_OVERLAP:
        return ()
    return (f"of the ten nearest items {least:.0%} are found across the spaces; it takes {LEAST_OVERLAP:.0%}",)


def _lost(figures: Mapping[str, float]) -> tuple[str, ...]:
    found = []
    for across, alone in (("new users, old items", "new"), ("old users, new items", "old")):
        pure, mixed = figures[f"recall@20/{alone}"], figures[f"recall@20/{across}"]
        if mixed < LEAST_RECALL * pure:
            found.append(
                f"{across}: Recall@20 is {mixed:.4f}, {mixed / pure:.2f} of what the {alone} space finds by itself; it "
                f"takes {LEAST_RECALL}"
            )
    return tuple(found)
