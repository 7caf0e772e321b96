"""A whole evaluation: everybody asked everything, and what came out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from worker.align import Space
from worker.align.space import record_evaluation
from worker.data import Dataset, Split
from worker.data.split import everything_to_learn_from
from worker.evaluate import BASELINE_NAMES
from worker.evaluate.baselines import baselines, known_before
from worker.evaluate.cross_modal import closed_forms
from worker.evaluate.evaluation import COMPARED, Alone, Model, all_questions, judge_baseline, judge_space
from worker.evaluate.questions import Questions
from worker.evaluate.report import Json, report, space_figures

MOST_BASELINE_SECONDS = 120.0


def baseline_seconds(num_events: int) -> float:
    """Time to choose a baseline's setting in, in proportion to the data: a minute for 50,000 events, two at most."""
    return min(MOST_BASELINE_SECONDS, 2 + num_events / 800)


@dataclass(frozen=True, slots=True)
class Options:
    """How to evaluate."""

    baselines: tuple[str, ...] = BASELINE_NAMES
    baseline_seeds: int = 3
    """Of those that a seed makes a difference to."""
    baseline_seconds: float | None = None
    """To choose one of the settings of a baseline; 0 for as long as it takes, None for what suits the data."""
    behavior: str = "behavior"
    """Modality that was made of events: no baseline takes it for content."""
    replay_share: float = 0.2
    given: Questions | None = None
    """Questions instead of those of the split. Baselines are chosen by the split and then learn from all events."""
    device: str = "auto"
    record: bool = False
    """Write each space's figures into its directory."""


class Progress(Protocol):
    """Is told how far the evaluation has come."""

    def step(self, number: int, total: int, what: str) -> None: ...

    def candidate(self, count: int, left_s: float) -> None:
        """Of the present step: how many settings were tried, and how many seconds there may be more of them."""
        ...


def evaluate(
    spaces: Mapping[Path, Space], dataset: Dataset, split: Split, options: Options, progress: Progress
) -> Json:
    """Ask everybody everything; the report."""
    questions = all_questions(split, options.replay_share) if options.given is None else {"warm": options.given}
    known = None if options.given is None else known_before(dataset, everything_to_learn_from(split), "test")
    compared = baselines(options.baselines, dataset.features.keys() - {options.behavior})
    grouped = groups(spaces)
    given = options.baseline_seconds
    within_s = baseline_seconds(len(split.events)) if given is None else given or math.inf
    total, done = len(compared) + len(spaces), 0
    models, alone = [], dict[str, list[Alone]]()
    for baseline in compared:
        done += 1
        progress.step(done, total, f"baseline {baseline.name}")
        models.append(
            judge_baseline(
                baseline,
                dataset,
                split,
                range(options.baseline_seeds),
                questions,
                within_s,
                progress.candidate,
                known,
            )
        )
    for name, paths in grouped.items():
        answers = []
        for path in paths:
            done += 1
            progress.step(done, total, f"space {path}")
            answers.append(judge_space(spaces[path], dataset, split, questions, options.device))
            if options.record:
                record_evaluation(path, space_figures(answers[-1].rankings))
        rankings = {kind: [each.rankings[kind] for each in answers] for kind in COMPARED if kind in questions}
        models.append(
            Model(name, True, [{}] * len(paths), rankings, sum(each.seconds for each in answers) / len(paths))
        )
        alone[name] = [each.alone for each in answers]
    content = {name: each for name, each in dataset.features.items() if name != options.behavior}
    maps = list(closed_forms(content, split)) if options.baselines else []
    return {"data": {"fingerprint": dataset.fingerprint}, **report(questions, models, alone, maps)}


def groups(spaces: Mapping[Path, Space]) -> dict[str, list[Path]]:
    """The spaces of the same shape together: they differ in their seeds."""
    found: dict[bytes, list[Path]] = {}
    for path, space in spaces.items():
        found.setdefault(space.spec.canonical(), []).append(path)
    return {
        str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else ""): paths for paths in found.values()
    }
