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
from worker.evaluate.questions import Questions, Score, ask, cold_questions, warm_questions
from worker.evaluate.spaces import ItemVectors, vector_score
from worker.train.asked import most_asked
from worker.train.items import CatalogueItems
from worker.train.remembered import Vectors

K = 20
"""Length of the lists that validation looks at."""


Means = tuple[float | None, float | None]
"""Recall and NDCG."""


class Figures(NamedTuple):
    """Means over questions; None where there are none."""

    known_recall: float | None
    """Recall@20 of what came next, among all items."""
    known_ndcg: float | None
    content_recall: float | None
    """The same by content alone: no item has the modality made of events. None where that says nothing else."""
    content_ndcg: float | None
    new_recall: float | None
    """The same of withheld items that a user liked, among withheld items."""
    new_ndcg: float | None


class Validation:
    """Asks what a training is stopped by."""

    def __init__(
        self, spec: SpaceSpec, items: CatalogueItems, split: Split, behavior: str, neighbors_IG: Tensor | None
    ) -> None:
        """`behavior` is the name of the modality made of events."""
        assert spec.user is not None
        self._last = spec.user.last
        self._dim = spec.dim
        self._items = items
        self._neighbors_IG = neighbors_IG
        self._known = _some(warm_questions(split, "val"))
        self._new = _some(cold_questions(split, "val"))
        self._content_IM = items.present_IM.clone()
        if behavior in items.names:
            self._content_IM[:, items.names.index(behavior)] = False
        self._new_among_all = _some(cold_questions(split, "val", whole_catalogue=True))
        new_E = split.cold_val_I[split.events.items_E]
        self._new_share = float(new_E.mean()) if len(new_E) else 0.0
        self._asks_content = bool((self._content_IM != items.present_IM).any() and self._content_IM.any())

    @property
    def known(self) -> Questions:
        """What came next, among all items."""
        return self._known

    @property
    def asks(self) -> bool:
        """Whether there is anything to ask."""
        return bool(len(self._known) or len(self._new))

    @property
    def new(self) -> Questions:
        """Which withheld items a user liked, among withheld items."""
        return self._new

    @torch.no_grad()
    def scores(self, model: AlignModel) -> Score:
        """What the vectors that the model would publish say."""
        assert isinstance(model.user, UserModel)
        return vector_score(model.user, self._last, self._published(model, self._items.present_IM))

    def one_list(self, score: Score) -> float | None:
        """NDCG@20 of known items and of new ones in one list of all, each by its share of the events. None where
        nothing is new, or known."""
        known, new = _means(self._known, score)[1], _means(self._new_among_all, score)[1]
        if known is None or new is None:
            return None
        return (1 - self._new_share) * known + self._new_share * new

    @torch.no_grad()
    def priors(self, model: AlignModel) -> Tensor:
        """Of the items that have one."""
        published = self._published(model, self._items.present_IM)
        return published.priors_I[published.priors_I != 0]

    @torch.no_grad()
    def figures(self, model: AlignModel, made: Vectors | None = None) -> Figures:
        """`made`: what `vectors` gives for the same model, where that is known already."""
        if not self.asks:
            return Figures(*[None] * len(Figures._fields))
        assert isinstance(model.user, UserModel)
        everything = vector_score(model.user, self._last, _as_published(made or self.vectors(model)))
        by_content: Means = (None, None)
        if self._asks_content:
            content = vector_score(model.user, self._last, self._published(model, self._content_IM))
            by_content = _means(self._known, content)
        return Figures(*_means(self._known, everything), *by_content, *_means(self._new, everything))

    def vectors(self, model: AlignModel) -> Vectors:
        """Of all items with all that they have."""
        return self._vectors(model, self._items.present_IM)

    def _vectors(self, model: AlignModel, present_IM: Tensor) -> Vectors:
        return Vectors(model, self._items, present_IM, self._neighbors_IG, self._dim)

    def _published(self, model: AlignModel, present_IM: Tensor) -> ItemVectors:
        return _as_published(self._vectors(model, present_IM))


def _as_published(made: Vectors) -> ItemVectors:
    return ItemVectors(made.vectors_ID, made.usable_I, made.priors_I, alone={}, refused={})


def _some(questions: Questions) -> Questions:
    """Those that are asked: of very many in a large catalogue a sample, the same in every epoch."""
    return questions.sample(most_asked(len(questions.candidates_C)))


def _means(questions: Questions, score: Score) -> Means:
    if not len(questions):
        return None, None
    ranking = ask(questions, score)
    return float(ranking.recall(K).mean()), float(ranking.ndcg(K).mean())
