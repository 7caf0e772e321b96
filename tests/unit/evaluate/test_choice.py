"""What is chosen on validation, in how much time, and on how many threads."""

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.unit.evaluate.planted import planted
from worker.evaluate.baselines import Popularity, chosen
from worker.evaluate.evaluation import all_questions, judge_baseline
from worker.evaluate.threads import PARALLEL_FROM, threads_for

DATA, SPLIT = planted()


class Endless(Popularity):
    """Has always one more setting to look at, and each takes five seconds of its clock."""

    name = "endless"
    patience = None

    def __init__(self, most: Any = None) -> None:
        self.now, self.most, self.fitted = 0.0, most, list[Any]()

    def candidates(self, known: Any, seed: Any) -> Iterator[Any]:
        for number in itertools.count(1) if self.most is None else range(1, self.most + 1):
            self.now += 5.0
            yield {"number": number}, super().fit(known, seed, {})

    def fit(self, known: Any, seed: Any, setting: Any) -> Any:
        self.fitted.append(dict(setting))
        return super().fit(known, seed, setting)


@pytest.mark.parametrize(("within_s", "count"), [(0.0, 1), (4.0, 1), (11.0, 3), (100.0, 20)])
def test_when_the_time_is_over_nothing_more_is_looked_at_and_that_is_told(within_s: float, count: int) -> None:
    baseline = Endless()
    result = chosen(baseline, DATA, SPLIT, 0, within_s, clock=lambda: baseline.now)
    assert (result.num_candidates, result.is_cut) == (count, True)
    assert baseline.fitted == [{"number": 1}], "all are the same, and the first is kept"


def test_with_time_enough_everything_is_looked_at() -> None:
    baseline = Endless(most=4)
    told = []
    result = chosen(baseline, DATA, SPLIT, 0, 100.0, lambda *each: told.append(each), clock=lambda: baseline.now)
    assert (result.num_candidates, result.is_cut) == (4, False)
    assert told == [(1, 95.0), (2, 90.0), (3, 85.0), (4, 80.0)]


def test_a_baseline_that_was_cut_says_so() -> None:
    questions = all_questions(SPLIT, 0.0)
    assert judge_baseline(Endless(), DATA, SPLIT, [0], questions, within_s=0.0).cut == (
        "chosen among the first 1 candidates, for want of time"
    )
    assert judge_baseline(Popularity(), DATA, SPLIT, [0], questions).cut == ""


@pytest.mark.parametrize(("size", "threads"), [(PARALLEL_FROM - 1, 1), (PARALLEL_FROM, 2)])
def test_what_is_small_is_worked_on_by_one_thread(size: int, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(size):
            assert torch.get_num_threads() == threads
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_baselines_of_few_items_and_users_train_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Looking(Popularity):
        def fit(self, known: Any, seed: Any, setting: Any) -> Any:
            seen.append(torch.get_num_threads())
            return super().fit(known, seed, setting)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        judge_baseline(Looking(), DATA, SPLIT, [0], all_questions(SPLIT, 0.0))
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}
