"""Whether what was trained is worth it, by validation: beside EASE, item-kNN and the means of content."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from worker.align.weights import build_model
from worker.data import Dataset, Split
from worker.evaluate.baselines import Baseline, ContentMean, Ease, ItemKnn, known_before
from worker.evaluate.metrics import Values, difference
from worker.evaluate.questions import Questions, ask
from worker.train.finish import Finished
from worker.train.validation import K, Validation

MOST_ITEMS = 8_000
"""With events, for methods that compare all pairs of them: these take a minute with so many, and grow by the cube."""
KINDS = {"known": "what came next", "new": "new items"}


@dataclass(frozen=True, slots=True)
class Compared:
    """The space and the baseline that is best at one kind of question."""

    kind: str
    space: float
    """NDCG@20"""
    baseline: str
    best: float
    gained: float
    standard_error: float

    @property
    def line(self) -> str:
        word = "better than" if self.gained > 0 else "no better than" if not self.gained else "worse than"
        return (
            f"{KINDS[self.kind]}, by validation: {word} {self.baseline}, NDCG@{K} {self.space:.4f} beside "
            f"{self.best:.4f} ({self.gained:+.4f} ±{self.standard_error:.4f})"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    compared: Sequence[Compared]
    left_out: str
    """What was not looked at, and why; empty if nothing was left out."""

    def as_dict(self) -> dict[str, Any]:
        return {"compared": [asdict(each) for each in self.compared], "left_out": self.left_out or None}

    def told(self) -> Iterator[str]:
        for each in self.compared:
            yield each.line
            if each.gained < 0:
                yield f"for {KINDS[each.kind]}, {each.baseline} is the better choice here, as far as validation tells"
        if self.left_out:
            yield self.left_out


def verdict(
    dataset: Dataset, split: Split, validation: Validation, done: Finished, content: Sequence[str], device: str
) -> Verdict:
    """The space beside the baselines that take seconds, each with what is best about it by the same questions: that
    errs against the space."""
    score = validation.scores(build_model(done.spec, done.weights, device=device))
    asked = {kind: each for kind, each in (("known", validation.known), ("new", validation.new)) if len(each)}
    best: dict[str, tuple[str, Values]] = {}
    left_out = ""
    known = known_before(dataset, split, "val")
    baselines: list[Baseline] = [ContentMean([name]) for name in content]
    if len(content) > 1:
        baselines.append(ContentMean(content))
    if int((known.count_I > 0).sum()) <= MOST_ITEMS:
        baselines += [Ease(), ItemKnn()]
    else:
        left_out = "EASE and item-kNN were not looked at here, for want of time; `align-worker evaluate` can"
    for baseline in baselines:
        for _, baseline_score in baseline.candidates(known, 0):
            for kind, questions in asked.items():
                values_Q = ask(questions, baseline_score).ndcg(K)
                if kind not in best or values_Q.mean() > best[kind][1].mean():
                    best[kind] = baseline.name, values_Q
    return Verdict(
        [
            _compared(kind, questions, ask(questions, score).ndcg(K), *best[kind])
            for kind, questions in asked.items()
            if kind in best
        ],
        left_out,
    )


def _compared(kind: str, questions: Questions, ours_Q: Values, name: str, theirs_Q: Values) -> Compared:
    gained = difference(ours_Q, theirs_Q, questions.users_Q)
    error = 0.0 if np.isnan(gained.standard_error) else gained.standard_error
    return Compared(kind, float(ours_Q.mean()), name, float(theirs_Q.mean()), gained.mean, error)
