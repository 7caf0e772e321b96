"""Rankings against definitions worked out by hand or the long way."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from worker.evaluate import metrics
from worker.evaluate.metrics import Ranking, difference, estimate, ranks_of


def ranking(*ranks_of_questions: list[int]) -> Ranking:
    counts = [len(ranks) for ranks in ranks_of_questions]
    return Ranking(np.array([rank for ranks in ranks_of_questions for rank in ranks]), np.cumsum([0, *counts]))


def plain_ranks(scores: list[float], relevant: set[int]) -> list[int]:
    order = sorted(range(len(scores)), key=lambda item: (-scores[item], item in relevant))
    return sorted(order.index(item) for item in relevant)


@st.composite
def questions(draw: Any) -> Any:
    width = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.integers(-3, 3), min_size=width, max_size=width), min_size=1, max_size=5))
    relevant = [draw(st.sets(st.integers(0, width - 1), min_size=1)) for _ in rows]
    return rows, relevant


@given(questions(), st.integers(1, 40))
def test_ranks_are_places_in_the_sorted_list_with_ties_against_the_model(case: Any, compared_at_once: Any) -> None:
    rows, relevant = case
    pairs = [(row, item) for row, items in enumerate(relevant) for item in sorted(items)]
    rows_P, columns_P = torch.tensor(pairs).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "COMPARED_AT_ONCE", compared_at_once)
        ranks_P = ranks_of(torch.tensor(rows, dtype=torch.float32), rows_P, columns_P)
    for row, items in enumerate(relevant):
        assert sorted(ranks_P[rows_P == row].tolist()) == plain_ranks(rows[row], items)


def test_equal_scores_for_all_earn_nothing() -> None:
    assert ranks_of(torch.zeros(1, 30), torch.tensor([0]), torch.tensor([7])).item() == 29


def test_what_is_out_of_the_ranking_is_passed_by() -> None:
    scores = torch.tensor([[-torch.inf, 2.0, 1.0]])
    assert ranks_of(scores, torch.tensor([0]), torch.tensor([2])).item() == 1


def test_a_relevant_item_without_a_score_comes_after_everything() -> None:
    scores = torch.tensor([[3.0, -torch.inf, 1.0]])
    assert ranks_of(scores, torch.tensor([0]), torch.tensor([1])).item() >= 2


def test_nan_has_no_place() -> None:
    with pytest.raises(ValueError, match="NaN"):
        ranks_of(torch.tensor([[1.0, math.nan]]), torch.tensor([0]), torch.tensor([0]))


def test_recall_is_the_share_of_the_relevant_items_that_were_found() -> None:
    assert ranking([0], [5], [1, 3, 40, 41]).recall(5).tolist() == [1.0, 0.0, 0.5]


def test_ndcg_by_hand() -> None:
    found = ranking([0], [2], [1, 3], [9]).ndcg(4)
    both = (1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3))
    assert found.tolist() == pytest.approx([1.0, 0.5, both, 0.0])


def test_ndcg_of_the_best_list_is_one_even_when_more_is_relevant_than_fits() -> None:
    assert ranking([0, 1, 2, 3, 4]).ndcg(3).tolist() == pytest.approx([1.0])


def test_no_question_no_figure() -> None:
    nothing = Ranking(np.zeros(0, np.int64), np.zeros(1, np.int64))
    result = estimate(nothing.recall(20), np.zeros(0, np.int64))
    assert result.count == 0
    assert math.isnan(result.mean)


def test_standard_error_of_one_question_each_is_the_usual_one() -> None:
    values = np.array([0.0, 1.0, 1.0, 0.5])
    result = estimate(values, np.arange(4))
    assert result.mean == pytest.approx(0.625)
    assert result.standard_error == pytest.approx(values.std(ddof=1) / 2)


def test_asking_everybody_twice_tells_nothing_new() -> None:
    values, users = np.array([0.0, 1.0, 1.0, 0.5]), np.arange(4)
    once, twice = estimate(values, users), estimate(np.repeat(values, 2), np.repeat(users, 2))
    assert twice.standard_error == pytest.approx(once.standard_error)


def test_a_difference_is_taken_question_by_question() -> None:
    these, those = np.array([0.1, 0.9, 0.5]), np.array([0.0, 0.8, 0.4])
    result = difference(these, those, np.arange(3))
    assert result.mean == pytest.approx(0.1)
    assert result.standard_error == pytest.approx(0.0, abs=1e-9)
