"""What there is to choose about a baseline is chosen on validation; the test only judges what came out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from worker.data import Dataset, Split
from worker.evaluate.baselines.known import Baseline, Known, Setting, known_before
from worker.evaluate.questions import Score, ask, cold_questions, warm_questions

CHOSEN_BY = 20  # length of the lists that validation looks at


class Chosen(NamedTuple):
    """A baseline as it goes to the test."""

    score: Score
    setting: Setting
    num_candidates: int
    """How many were looked at."""
    is_cut: bool
    """Whether the time was over before all had been looked at, or enough of them had been worse."""


def chosen(
    baseline: Baseline,
    dataset: Dataset,
    split: Split,
    seed: int,
    within_s: float = math.inf,
    on_candidate: Callable[[int, float], object] = lambda count, left_s: None,
    clock: Callable[[], float] = time.monotonic,
    known: Known | None = None,
) -> Chosen:
    """Choose on validation, then learn again, from what is known before the test, or from what is given as `known`.

    After `within_s` no further candidate is looked at; the first always is. `on_candidate` is told how many there have
    been, and how many seconds are left. To learn again takes at most as long as to choose.
    """
    deadline = clock() + within_s
    best, setting, num_worse, count, is_cut = -np.inf, dict[str, float | str](), 0, 0, False
    for candidate, score in baseline.candidates(known_before(dataset, split, "val"), seed):
        count += 1
        value = validation(score, split)
        if value > best:
            best, setting, num_worse = value, dict(candidate), 0
        else:
            num_worse += 1
            if num_worse == baseline.patience:
                break
        left_s = deadline - clock()
        if left_s <= 0:
            is_cut = True
            break
        on_candidate(count, left_s)
    known = known_before(dataset, split, "test") if known is None else known
    return Chosen(baseline.fit(known, seed, setting), setting, count, is_cut)


def validation(score: Score, split: Split) -> float:
    """The figure that is chosen by: NDCG of the warm and of the cold questions, added."""
    total = 0.0
    for questions in (warm_questions(split, "val"), cold_questions(split, "val")):
        if len(questions):
            total += float(ask(questions, score).ndcg(CHOSEN_BY).mean())
    return total
