"""Small worlds to learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.evaluate.planted import planted
from worker.align import Space
from worker.data import Dataset, Split
from worker.train.run import Learned, Trained, train
from worker.train.settings import TrainSettings
from worker.train.trainer import EpochReport

WEIGHTS = {"like": 1.0}
SMALL: dict[str, Any] = {
    "event_weights": WEIGHTS,
    "width": 16,
    "hidden": 16,
    "learned_dim": 8,
    "behavior_dim": 8,
    "batch": 64,
    "averaging": 0.5,
    "recipes": "plain",
    "final_fit": False,
}
DATA, SPLIT = planted()


class Quiet:
    """Watches and says nothing."""

    def __init__(self) -> None:
        self.epochs: list[EpochReport] = []
        self.num_steps = 0
        self.begun: list[str] = []

    @contextmanager
    def epoch(self, number: int, num_steps: int) -> Iterator[Callable[[], object]]:
        yield self.step

    def step(self) -> None:
        self.num_steps += 1

    def begin(self, what: str) -> None:
        self.begun.append(what)

    def tell(self, report: EpochReport, is_best: bool) -> None:
        self.epochs.append(report)


def settings(**changes: Any) -> TrainSettings:
    return TrainSettings.model_validate({**SMALL, **changes})


def trained(
    out: Path, dataset: Dataset = DATA, split: Split = SPLIT, watcher: Any = None, **changes: Any
) -> tuple[Space, Learned]:
    return trained_all(out, dataset, split, watcher, **changes).shipped


def trained_all(
    out: Path, dataset: Dataset = DATA, split: Split = SPLIT, watcher: Any = None, **changes: Any
) -> Trained:
    return train(dataset, split, settings(**changes), out, "cpu", watcher or Quiet())
