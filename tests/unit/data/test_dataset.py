from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.data.builders import interactions, rows_of
from worker.data import Features


def features(vectors_of_items: list[list[list[float]]]) -> Features:
    rows = [vector for vectors in vectors_of_items for vector in vectors]
    starts = np.cumsum([0, *map(len, vectors_of_items)])
    return Features("e", np.array(rows, np.float32).reshape(len(rows), 2), starts)


vectors = st.lists(st.lists(st.integers(-100, 100).map(float), min_size=2, max_size=2), max_size=4)


@given(st.lists(vectors, min_size=1, max_size=6))
def test_the_mean_of_each_item_is_that_of_its_own_vectors(vectors_of_items: Any) -> None:
    means_IK = features(vectors_of_items).mean_IK()
    assert means_IK.dtype == np.float32
    for mean_K, own in zip(means_IK, vectors_of_items, strict=True):
        np.testing.assert_allclose(mean_K, np.mean(own, axis=0) if own else [0, 0], rtol=1e-6)


def test_what_is_missing_is_seen() -> None:
    found = features([[[1, 2]], [], [[3, 4], [5, 6]]])
    assert found.counts_I.tolist() == [1, 0, 2]
    assert found.present_I.tolist() == [True, False, True]
    assert found.dim == 2


def test_events_are_chosen_by_mask_and_by_index() -> None:
    events = interactions([(0, 1, 1, 1.0), (1, 2, 2, -1.0), (2, 0, 3, 2.0)])
    assert rows_of(events.where(events.weights_E > 0)) == [(0, 1, 1, 1.0), (2, 0, 3, 2.0)]
    assert rows_of(events.where(np.array([2, 0]))) == [(2, 0, 3, 2.0), (0, 1, 1, 1.0)]
    assert len(events.where(np.zeros(3, bool))) == 0


def test_some_items_have_the_vectors_that_they_had() -> None:
    found = features([[[1, 2]], [], [[3, 4], [5, 6]], [[7, 8]]]).where(np.array([2, 1, 0]))
    assert found.starts.tolist() == [0, 2, 2, 3]
    assert found.vectors_NK.tolist() == [[3, 4], [5, 6], [1, 2]]
