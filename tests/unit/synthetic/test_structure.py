"""That there is something to be found in a generated world, and by what: the reason to train on it in tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from worker.data.importers.synthetic import Plan
from worker.data.load import assemble
from worker.data.split import split_by_time


class World:
    """A world, what users liked before the last 30 % of its events, and what they liked then."""

    def __init__(self, **options: Any) -> None:
        self.plan = Plan(num_items=600, num_users=150, num_events=12_000, **options)
        found = self.plan.imported()
        cold_ids = {item_id for item_ids in found.lists.values() for item_id in item_ids}
        self.data = assemble([each.item for each in found.items], found.events, {"like": 1.0}).dataset
        self.cold_I = np.array([item_id in cold_ids for item_id in self.data.item_ids])
        nobody = np.zeros(self.data.num_items, bool)
        self.likes = split_by_time(self.data.events, nobody, nobody).events
        self.first = int(len(self.likes) * 0.7)

    def content(self, *modalities: str) -> np.ndarray:
        """`[I, K]`: mean vectors of these modalities, side by side, each of unit length."""
        return np.concatenate([unit(self.data.features[name].mean_IK()) for name in modalities], axis=1)

    def truth(self) -> np.ndarray:
        latent = {item.item_id: item.latent_L for item in self.plan.catalogue.items(self.data.num_items)}
        return np.stack([latent[item_id] for item_id in self.data.item_ids])

    def histories(self, half_life: float) -> np.ndarray:
        """`[U, I]`: how much of an item is left in what a user liked; a like counts half after `half_life` more."""
        weights_UI = np.zeros((self.data.num_users, self.data.num_items))
        for user in range(self.data.num_users):
            liked = self.likes.items_E[: self.first][self.likes.users_E[: self.first] == user]
            weights_UI[user, liked] = 0.5 ** (np.arange(len(liked))[::-1] / half_life)
        return weights_UI

    def rank(self, vectors_IK: np.ndarray, *, cold: bool, half_life: float = 1e9) -> float:
        """Where the items liked later stand, among cold or among warm items, on average: 0 is last, 1 is first."""
        candidates = np.flatnonzero(self.cold_I == cold)
        vectors_IK = unit(vectors_IK)
        scores_UC = unit(self.histories(half_life) @ vectors_IK) @ vectors_IK[candidates].T
        place = {int(item): column for column, item in enumerate(candidates)}
        ranks = [
            np.mean(scores_UC[user] < scores_UC[user, place[item]])
            for user, item in zip(
                self.likes.users_E[self.first :].tolist(), self.likes.items_E[self.first :].tolist(), strict=True
            )
            if item in place
        ]
        return float(np.mean(ranks))


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


@pytest.fixture(scope="module")
def steady() -> World:
    """A world where tastes do not change."""
    return World(drift_days=100_000, seed=1)


def test_cold_items_are_found_by_their_content_and_best_by_all_of_it(steady: World) -> None:
    alone = [steady.rank(steady.content(name), cold=True) for name in ("text", "image", "audio")]
    together = steady.rank(steady.content("text", "image", "audio"), cold=True)
    truth = steady.rank(steady.truth(), cold=True)
    assert min(alone) > 0.65
    assert together > max(alone)
    assert truth > together


def test_what_users_do_together_says_more_of_warm_items_than_chance(steady: World) -> None:
    before = steady.histories(1e9)
    together = before.T @ before
    np.fill_diagonal(together, 0)
    assert steady.rank(together, cold=False) > 0.7


def test_where_tastes_drift_what_was_liked_last_says_most() -> None:
    drifting = World(drift_days=360, seed=1)
    content = drifting.content("text", "image", "audio")
    assert drifting.rank(content, cold=True, half_life=5) > drifting.rank(content, cold=True) + 0.1
