"""What the questions of validation say of a model, by the vectors that it would publish.

I items   D dim of the space   G neighbours of an item
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from worker.align.model import AlignModel
from worker.align.spec import SpaceSpec
from worker.align.users import UserModel
from worker.data import Split
from worker.evaluate.questions import Questions, ask, cold_questions, warm_questions
from worker.evaluate.spaces import ItemVectors, vector_score
from worker.train.items import CatalogueItems, among_neighbors

K = 20
"""Length of the lists that validation looks at."""
ITEMS_AT_ONCE = 4_096


class Figures(NamedTuple):
    """Means over questions; None where there are none."""

    known_recall: float | None
    """Recall@20 of what came next, among all items."""
    known_ndcg: float | None
    new_recall: float | None
    """The same of withheld items that a user liked, among withheld items."""
    new_ndcg: float | None


class Validation:
    """Asks what a training is stopped by."""

    def __init__(self, spec: SpaceSpec, items: CatalogueItems, split: Split, neighbors_IG: Tensor | None) -> None:
        assert spec.user is not None
        self._last = spec.user.last
        self._dim = spec.dim
        self._items = items
        self._neighbors_IG = neighbors_IG
        self._known = warm_questions(split, "val")
        self._new = cold_questions(split, "val")

    @torch.no_grad()
    def figures(self, model: AlignModel) -> Figures:
        assert isinstance(model.user, UserModel)
        score = vector_score(model.user, self._last, self._published(model))

        def means(questions: Questions) -> tuple[float | None, float | None]:
            if not len(questions):
                return None, None
            ranking = ask(questions, score)
            return float(ranking.recall(K).mean()), float(ranking.ndcg(K).mean())

        return Figures(*means(self._known), *means(self._new))

    def _published(self, model: AlignModel) -> ItemVectors:
        present_IM, usable_I = self._items.present_IM, self._items.usable_I
        items = usable_I.nonzero()[:, 0]
        vectors_ID = torch.zeros(len(usable_I), self._dim, device=present_IM.device)
        priors_I = torch.zeros(len(usable_I), device=present_IM.device)
        for some in torch.split(items, ITEMS_AT_ONCE):
            outputs = model(*self._items.inputs(some, present_IM[some]))
            vectors_ID[some], priors_I[some] = outputs.vectors_BD, outputs.priors_B
        if self._neighbors_IG is not None:
            vectors_ID[items] = among_neighbors(model, vectors_ID[items], items, self._neighbors_IG)
        return ItemVectors(vectors_ID, usable_I, priors_I, alone={}, refused={})
