"""What there is to choose about a baseline is chosen on validation; the test only judges what came out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from worker.data import Dataset, Split
from worker.evaluate.baselines.known import Baseline, Setting, known_before
from worker.evaluate.questions import Score, ask, cold_questions, warm_questions

CHOSEN_BY = 20  # length of the lists that validation looks at


class Chosen(NamedTuple):
    """A baseline as it goes to the test."""

    score: Score
    setting: Setting


def chosen(baseline: Baseline, dataset: Dataset, split: Split, seed: int) -> Chosen:
    """Choose on validation, then learn again, from the validation events too."""
    best, setting, num_worse = -np.inf, dict[str, float | str](), 0
    for candidate, score in baseline.candidates(known_before(dataset, split, "val"), seed):
        value = validation(score, split)
        if value > best:
            best, setting, num_worse = value, dict(candidate), 0
        else:
            num_worse += 1
            if num_worse == baseline.patience:
                break
    return Chosen(baseline.fit(known_before(dataset, split, "test"), seed, setting), setting)


def validation(score: Score, split: Split) -> float:
    """The figure that is chosen by: NDCG of the warm and of the cold questions, added."""
    total = 0.0
    for questions in (warm_questions(split, "val"), cold_questions(split, "val")):
        if len(questions):
            total += float(ask(questions, score).ndcg(CHOSEN_BY).mean())
    return total
