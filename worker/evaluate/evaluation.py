"""The whole evaluation: baselines and spaces put to the same questions, and what is asked of a space alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from worker.align import AlignRuntime, Space
from worker.data import Dataset, Split
from worker.data.trained_on import Overlap, TrainedOn, overlap
from worker.evaluate.baselines import Baseline, Known, Popularity, Setting, chosen, known_before
from worker.evaluate.baselines.factors import DIM
from worker.evaluate.metrics import Ranking
from worker.evaluate.questions import (
    DAY_MS,
    Questions,
    Score,
    ask,
    cold_questions,
    replay_questions,
    warm_questions,
)
from worker.evaluate.retrieval import Retrieval, retrievals
from worker.evaluate.spaces import embed_items, space_score
from worker.evaluate.threads import threads_for

BEHIND = (0, 1, 3, 10, 30)
"""By how many events a user vector lags in the freshness curve."""
COMPARED = ("warm", "cold", "cold_among_all")
"""Kinds of questions that every model is asked."""


@dataclass(frozen=True, slots=True)
class Model:
    """One method's answers: once, or once for each seed."""

    name: str
    is_space: bool
    settings: Sequence[Setting]
    """For each seed, what was chosen on validation."""
    rankings: Mapping[str, Sequence[Ranking]]
    """By kind of question, for each seed."""
    seconds: float
    """To choose, to learn and to answer, per seed."""
    cut: str = ""
    """What was left out for want of time or memory; empty if nothing was."""


@dataclass(frozen=True, slots=True)
class Alone:
    """What one space is asked beyond what the baselines are."""

    space_id: str
    refused: Mapping[str, int]
    """Items without a vector, by reason."""
    ablations: Mapping[str, Mapping[str, Ranking]]
    """By what is left of the modalities, then by kind of question."""
    freshness: Mapping[int, Ranking]
    """By how many events the user vectors lag."""
    retrievals: Sequence[Retrieval]
    replay: Mapping[str, Ranking]
    """`streaming` and `daily`: user vectors as new as the last event, or as the last midnight, UTC."""


@dataclass(frozen=True, slots=True)
class SpaceAnswers:
    """One space's answers."""

    rankings: Mapping[str, Ranking]
    """By kind of question that every model is asked."""
    alone: Alone
    seconds: float


def all_questions(split: Split, replayed_share: float) -> dict[str, Questions]:
    """By kind; those without any are left out.

    Beyond `COMPARED` there are `fresh`, warm questions whose histories are long enough to lose the newest events, and
    `streaming` and `daily` of the replay: the same questions, with all the history or that of days gone by.
    """
    warm = warm_questions(split, "test")
    kinds = {
        "warm": warm,
        "cold": cold_questions(split, "test"),
        "cold_among_all": cold_questions(split, "test", whole_catalogue=True),
        "fresh": warm.where(np.flatnonzero(warm.lengths_Q > max(BEHIND))),
    }
    if split.order == "time":  # else histories are in no order of time that could be replayed
        kinds["streaming"] = replay_questions(split, replayed_share)
        kinds["daily"] = replay_questions(split, replayed_share, DAY_MS)
    return {kind: questions for kind, questions in kinds.items() if len(questions)}


def answers_seen(found: TrainedOn, dataset: Dataset, questions: Mapping[str, Questions]) -> Overlap:
    """Of the answers that every model is asked for, those that a training has seen. What the history has already is
    known to anybody, and a user whom the data do not know to no training of them."""
    users, items = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for each in (questions[kind] for kind in ("warm", "cold") if kind in questions):
        rows_P = np.repeat(np.arange(len(each)), np.diff(each.starts))
        items_P = each.candidates_C[each.relevant_P]
        rows, known_items = each.history_pairs()
        is_new_P = ~np.isin(rows_P * dataset.num_items + items_P, rows * dataset.num_items + known_items)
        is_new_P &= each.users_Q[rows_P] < dataset.num_users
        users.append(each.users_Q[rows_P][is_new_P])
        items.append(items_P[is_new_P])
    return overlap(found, dataset, np.concatenate(users), np.concatenate(items))


def judge_baseline(
    baseline: Baseline,
    dataset: Dataset,
    split: Split,
    seeds: Sequence[int],
    questions: Mapping[str, Questions],
    within_s: float = math.inf,
    on_candidate: Callable[[int, float], object] = lambda count, left_s: None,
    known: Known | None = None,
) -> Model:
    """Choose, learn and answer, for each seed; once if the seed makes no difference. `within_s` is for all that is
    chosen, in equal parts for each seed. `known` may be learned from in the end: by default, what is known before the
    test."""
    known = known_before(dataset, split, "test") if known is None else known
    started, used = time.perf_counter(), seeds if baseline.seeded else seeds[:1]
    with threads_for(_size(baseline, dataset)):
        results = [
            chosen(baseline, dataset, split, seed, within_s / len(used), on_candidate, known=known) for seed in used
        ]
        by_popularity = Popularity().fit(known, 0, {})
        rankings = {
            kind: [ask(questions[kind], or_popularity(each.score, by_popularity)) for each in results]
            for kind in COMPARED
            if kind in questions
        }
    seconds = (time.perf_counter() - started) / len(used)
    limits = [f"chosen among the first {min(tried)} candidates, for want of time"] if (
        tried := [each.num_candidates for each in results if each.is_cut]
    ) else []  # fmt: skip
    limits += [limit] if (limit := baseline.limit(known)) else []
    cut = "; ".join(limits)
    return Model(baseline.name, False, [each.setting for each in results], rankings, seconds, cut)


def _size(baseline: Baseline, dataset: Dataset) -> int:
    """Elements of the largest thing that a baseline works on."""
    if baseline.seeded:
        return (dataset.num_users + dataset.num_items) * DIM
    return dataset.num_items**2


def judge_space(
    space: Space, dataset: Dataset, split: Split, questions: Mapping[str, Questions], device: str = "auto"
) -> SpaceAnswers:
    """Put one space to everything."""
    started = time.perf_counter()
    runtime = AlignRuntime(space, device=device, dtype="float32", modality_vectors=True)
    items = embed_items(runtime, dataset)
    score = space_score(space, items)
    with_fallback = or_popularity(score, Popularity().fit(known_before(dataset, split, "test"), 0, {}))
    alone = Alone(
        space_id=space.space_id,
        refused=items.refused,
        ablations=dict(_ablations(runtime, dataset, questions)),
        freshness={lag: ask(questions["fresh"].behind(lag), score) for lag in BEHIND if "fresh" in questions},
        retrievals=list(retrievals(items.alone, split.cold_test_I)),
        replay={kind: ask(questions[kind], with_fallback) for kind in ("streaming", "daily") if kind in questions},
    )
    rankings = {kind: ask(questions[kind], score) for kind in COMPARED if kind in questions}
    return SpaceAnswers(rankings, alone, time.perf_counter() - started)


def _ablations(
    runtime: AlignRuntime, dataset: Dataset, questions: Mapping[str, Questions]
) -> Iterator[tuple[str, dict[str, Ranking]]]:
    """Each modality left out, then each alone: of the items to rank and of those in the histories."""
    names = {name for name in runtime.space.spec.modalities if name in dataset.features}
    if len(names) < 2:
        return
    kept = {f"without {name}": names - {name} for name in sorted(names)}
    kept |= {f"{name} only": {name} for name in sorted(names)}
    for left, modalities in kept.items():
        score = space_score(runtime.space, embed_items(runtime, dataset, modalities))
        yield left, {kind: ask(questions[kind], score) for kind in ("warm", "cold") if kind in questions}


def or_popularity(score: Score, by_popularity: Score) -> Score:
    """What a recommender does for users of whom it knows nothing yet."""

    def either(questions: Questions) -> Tensor:
        scores_QC = score(questions)
        unknown = np.flatnonzero(questions.lengths_Q == 0)
        if len(unknown):
            scores_QC[torch.from_numpy(unknown)] = by_popularity(questions.where(unknown))
        return scores_QC

    return either
