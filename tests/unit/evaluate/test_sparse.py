"""Neighbours by what they have in common, against all pairs written out."""

import numpy as np
import pytest

from worker.evaluate import sparse
from worker.evaluate.sparse import MOST_OF_HOLDER, nearest_in_common

RANDOM = np.random.default_rng(0)
USERS_E, ITEMS_E = np.unique(RANDOM.integers(0, [30, 20], (200, 2)), axis=0).T
WEIGHTS_U = RANDOM.random(30) + 0.1


def all_pairs(shrink: float) -> np.ndarray:
    has_UI = np.zeros((30, 20))
    has_UI[USERS_E, ITEMS_E] = 1
    length_I = np.sqrt(has_UI.sum(0))
    similar_II: np.ndarray = has_UI.T @ (has_UI * WEIGHTS_U[:, None]) / (np.outer(length_I, length_I) + shrink)
    np.fill_diagonal(similar_II, 0)
    return similar_II


@pytest.mark.parametrize("pairs_at_once", [1, 50, 10**9])
def test_the_nearest_are_those_of_all_pairs_however_many_are_looked_at_at_once(
    monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr(sparse, "PAIRS_AT_ONCE", pairs_at_once)
    found, expected_II = nearest_in_common(USERS_E, ITEMS_E, WEIGHTS_U, 20, most=4, shrink=2.0), all_pairs(2.0)
    for item in range(20):
        own = found.items_N == item
        best = np.sort(expected_II[item][expected_II[item] > 0])[::-1][:4]
        assert found.similarities_N[own] == pytest.approx(best)
        assert expected_II[item, found.others_N[own]] == pytest.approx(best)


def test_who_has_very_much_takes_part_with_an_even_share_of_it() -> None:
    many = np.arange(3 * MOST_OF_HOLDER)
    users, items = sparse._thinned(np.zeros(len(many), np.int64), many)
    assert len(users) == MOST_OF_HOLDER
    assert set(np.diff(items)) == {3}
    few = np.arange(5)
    assert (sparse._thinned(few, few)[1] == few).all()


def test_without_events_nobody_is_near() -> None:
    nothing = np.zeros(0, np.int64)
    assert not len(nearest_in_common(nothing, nothing, np.ones(3), 4, most=2, shrink=1.0).items_N)
