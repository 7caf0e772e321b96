"""Closed-form maps between modalities find what they are made to find, and only where there is something to find."""

import numpy as np
import pytest

from worker.data import Features, Interactions, split_by_time
from worker.evaluate.cross_modal import FITS, closed_forms

NUM = 240
RANDOM = np.random.default_rng(1)
NOBODY = Interactions(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
COLD_VAL, COLD_TEST = np.arange(NUM) % 6 == 4, np.arange(NUM) % 6 == 5
SPLIT = split_by_time(NOBODY, COLD_VAL, COLD_TEST)


def features_of(vectors_NK: np.ndarray, present_I: np.ndarray | None = None) -> Features:
    present_I = np.ones(NUM, bool) if present_I is None else present_I
    starts = np.concatenate([[0], np.cumsum(present_I)])
    return Features("e", vectors_NK[present_I].astype(np.float32), starts)


HIDDEN = RANDOM.standard_normal((NUM, 6))
TEXT = HIDDEN @ RANDOM.standard_normal((6, 12)) + 0.1 * RANDOM.standard_normal((NUM, 12)) + 3
IMAGE = HIDDEN @ RANDOM.standard_normal((6, 9)) + 0.1 * RANDOM.standard_normal((NUM, 9))


def test_every_map_finds_one_modality_by_another_that_shares_its_causes() -> None:
    found = list(closed_forms({"text": features_of(TEXT), "image": features_of(IMAGE)}, SPLIT))
    assert {(each.name, each.found.query) for each in found} == {
        (name, query) for name in FITS for query in ("text", "image")
    }
    for each in found:
        assert each.found.num_items == COLD_TEST.sum()
        assert each.found.recall(1) > (0.3 if each.name == "Procrustes" else 0.7), each.name


def test_where_there_is_nothing_to_find_nothing_is_found() -> None:
    noise = features_of(RANDOM.standard_normal((NUM, 9)))
    for each in closed_forms({"text": features_of(TEXT), "image": noise}, SPLIT):
        assert each.found.recall(1) < 0.15


def test_the_items_asked_for_are_not_fitted_to() -> None:
    """Other vectors of theirs change nothing of what the map is."""
    other = IMAGE.copy()
    other[COLD_TEST] = other[COLD_TEST][::-1]
    first, second = (
        {each.name: each for each in closed_forms({"text": features_of(TEXT), "image": features_of(image)}, SPLIT)}
        for image in (IMAGE, other)
    )
    assert first["CCA"].penalty == second["CCA"].penalty
    assert second["CCA"].found.recall(1) < 0.2 < first["CCA"].found.recall(1)


@pytest.mark.parametrize("have_both", [0, 1])
def test_pairs_that_too_few_items_have_are_left_out(have_both: int) -> None:
    present_I = COLD_TEST & (np.cumsum(COLD_TEST) <= have_both)
    assert not list(closed_forms({"text": features_of(TEXT), "image": features_of(IMAGE, present_I)}, SPLIT))
