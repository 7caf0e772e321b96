"""Questions to an index that a sink fills: the port, and answers made of what it finds.

Among millions of items an index is asked, and not the topics. It finds the nearest by cosine; where a prior counts, the
best of several times as many are sorted again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from schemas import AttributeValue
from worker.errors import ConfigError
from worker.recommend.answers import Answer, Question, Search, activity_of, require_user, told_of
from worker.recommend.conditions import Condition
from worker.recommend.published import Activity, LeftOut, PublishedItems, PublishedUser
from worker.recommend.search import Hit

AGAIN, LEAST_AGAIN = 10, 100
"""Times as many as are wanted, and at least, that are sorted again where a prior counts."""


class Neighbor(NamedTuple):
    item_id: str
    cosine: float
    prior: float
    modalities: tuple[str, ...]
    attributes: Mapping[str, AttributeValue]


class Index(Protocol):
    """Vectors of items, and perhaps users, of one space."""

    space_id: str

    def item(self, item_id: str) -> NDArray[np.float32] | None: ...

    def user(self, user_id: str) -> PublishedUser | None: ...

    @property
    def has_users(self) -> bool: ...

    def nearest(
        self, vector: NDArray[np.float32], count: int, where: Sequence[Condition], without: Collection[str]
    ) -> Sequence[Neighbor]:
        """The items nearest by cosine, of those that the conditions hold for, the nearest first."""
        ...

    def close(self) -> None: ...


class Asked(NamedTuple):
    """A question, and which items are no answer to it."""

    question: Question
    without: frozenset[str] = frozenset()


def like_item(item_id: str, index: Index) -> Asked:
    vector = index.item(item_id)
    if vector is None:
        raise ConfigError(f"--like {item_id!r}: the index has no vector of this item in space {index.space_id}")
    return Asked(Question("like", item_id, vector), frozenset({item_id}))


def of_user(user_id: str, user: PublishedUser | None, activity: Mapping[str, Activity] | None, space_id: str) -> Asked:
    user, mine = require_user(user_id, user, space_id), activity_of(user_id, activity)
    seen = frozenset(mine.items) if mine else frozenset()
    return Asked(Question("user", user_id, user.vector, told=told_of(user, mine)), seen)


def answer(
    asked: Sequence[Asked], index: Index, how: Search, where: Sequence[Condition]
) -> tuple[list[Answer], PublishedItems]:
    """The answers, and the items that are in one of them."""
    found = [_found(each, index, how, where) for each in asked]
    items: dict[str, Neighbor] = {}
    for neighbors in found:
        items.update((each.item_id, each) for each, _ in neighbors)
    rows = {item_id: number for number, item_id in enumerate(items)}
    answers = [
        Answer(
            each.question,
            how.score_of(each.question),
            [Hit(rows[neighbor.item_id], score) for neighbor, score in neighbors],
        )
        for each, neighbors in zip(asked, found, strict=True)
    ]
    published = PublishedItems(
        space_id=index.space_id,
        item_ids=list(items),
        vectors_ID=torch.empty(0),
        priors_I=torch.tensor([each.prior for each in items.values()]),
        modalities=[each.modalities for each in items.values()],
        alone={},
        left_out=LeftOut(),
        rows=rows,
        attributes=[each.attributes for each in items.values()],
    )
    return answers, published


def _found(asked: Asked, index: Index, how: Search, where: Sequence[Condition]) -> list[tuple[Neighbor, float]]:
    """The best, with their scores; of equal ones the smaller id first."""
    has_prior = how.score_of(asked.question) == "cosine+prior"
    count = max(LEAST_AGAIN, AGAIN * how.count) if has_prior else how.count
    neighbors = index.nearest(asked.question.vector, count, where, asked.without)
    scored = [(each, each.cosine + (each.prior if has_prior else 0.0)) for each in neighbors]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0].item_id))[: how.count]
