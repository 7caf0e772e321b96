"""The same list for everybody."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from worker.evaluate.baselines.known import Known, Setting
from worker.evaluate.questions import Questions, Score


class Popularity:
    """Items by the number of events they had."""

    name = "popularity"
    seeded = False
    patience = None

    def limit(self, known: Known) -> str:
        return ""

    def candidates(self, known: Known, seed: int) -> Iterator[tuple[Setting, Score]]:
        yield {}, self.fit(known, seed, {})

    def fit(self, known: Known, seed: int, setting: Setting) -> Score:
        count_I = known.count_I

        def score(questions: Questions) -> Tensor:
            return torch.from_numpy(count_I[questions.candidates_C]).float().repeat(len(questions), 1)

        return score
