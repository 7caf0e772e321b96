"""Trainings that differ in their fusion alone: run, judged by the test, and remembered.

U users asked about
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from worker.align import AlignRuntime, Space
from worker.data import Dataset, Split
from worker.data.dataset import fingerprint_of
from worker.evaluate.questions import Score, ask, cold_questions, warm_questions
from worker.evaluate.spaces import embed_items, space_score
from worker.train.run import train
from worker.train.settings import TrainSettings
from worker.train.trainer import EpochReport

K = 20
MEASURES = ("warm R@20", "N@20", "cold R@20", "cold N@20")


class Training(NamedTuple):
    """One of those to run."""

    kind: str
    variant: str
    """Which of the datasets."""
    settings: TrainSettings


@dataclass(frozen=True)
class Outcome:
    """What one came to."""

    kind: str
    variant: str
    seed: int
    trained_on: str
    """A digest of data, split and settings."""
    selection_metric: float
    """Of validation, of the epoch that was kept."""
    best_epoch: int
    num_epochs: int
    seconds: float
    """Per epoch."""
    cpu_seconds: float
    """The same of this process, which other work on the machine changes least."""
    device: str
    by_user: Mapping[str, Sequence[float]]
    """The test, by measure."""


class Watcher:
    """Remembers the epoch that is kept, and how long each took."""

    def __init__(self) -> None:
        self.best: EpochReport | None = None
        self.cpu_s: list[float] = []
        self.seconds: list[float] = []
        self._begun = 0.0

    def epoch(self, number: int, num_steps: int) -> AbstractContextManager[Any]:
        self._begun = time.process_time()
        return nullcontext(lambda: None)

    def begin(self, what: str) -> None:
        self.best, self.cpu_s, self.seconds = None, [], []

    def tell(self, report: EpochReport, is_best: bool) -> None:
        self.cpu_s.append(time.process_time() - self._begun)
        self.seconds.append(report.seconds)
        if is_best:
            self.best = report


class Trainings:
    """Runs them on one device, several at once if asked to. `results` is a file that remembers what was run."""

    def __init__(
        self, datasets: Mapping[str, Dataset], split: Split, device: str, threads: int, results: Path | None
    ) -> None:
        self._datasets, self._split, self._device, self._threads = datasets, split, device, threads
        self._results = results
        self._digests = {variant: digest_of(dataset, split) for variant, dataset in datasets.items()}

    def run(self, trainings: Sequence[Training], jobs: int) -> Iterator[Outcome]:
        """As they come to their ends; first those that were run before."""
        known = {each.trained_on: each for each in self._remembered()}
        missing = []
        for training in trainings:
            if (found := known.get(self._identity(training))) is not None:
                yield found
            else:
                missing.append(training)
        for outcome in self._each(missing, jobs) if missing else ():
            if self._results is not None:
                self._results.parent.mkdir(parents=True, exist_ok=True)
                with self._results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(outcome)) + "\n")
            yield outcome

    def _each(self, trainings: Sequence[Training], jobs: int) -> Iterator[Outcome]:
        given = self._datasets, self._split, self._device, self._threads
        identified = [(training, self._identity(training)) for training in trainings]
        if jobs == 1:
            _begin(*given)
            yield from (_one(*each) for each in identified)
            return
        # Not forked: a process that has used CUDA cannot be.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, _begin, given) as pool:
            for future in as_completed([pool.submit(_one, *each) for each in identified]):
                yield future.result()

    def _identity(self, training: Training) -> str:
        text = f"{self._digests[training.variant]} {training.settings.model_dump_json()}"
        return blake2b(text.encode(), digest_size=16).hexdigest()

    def _remembered(self) -> Iterable[Outcome]:
        if self._results is None or not self._results.exists():
            return
        for line in self._results.read_text(encoding="utf-8").splitlines():
            yield Outcome(**json.loads(line))


def digest_of(dataset: Dataset, split: Split) -> str:
    found = fingerprint_of(dataset.item_ids, dataset.user_ids, dataset.features, dataset.events, dataset.neighbors)
    digest = blake2b(found.encode(), digest_size=16)
    for mask in (split.train_E, split.cold_val_I, split.cold_test_I):
        digest.update(np.packbits(mask).data)
    return digest.hexdigest()


_given: tuple[Mapping[str, Dataset], Split, str, int] | None = None


def _begin(datasets: Mapping[str, Dataset], split: Split, device: str, threads: int) -> None:
    global _given  # in each process once, instead of with every training
    _given = datasets, split, device, threads


def _one(training: Training, identity: str) -> Outcome:
    assert _given is not None
    datasets, split, device, threads = _given
    dataset = datasets[training.variant]
    torch.set_num_threads(threads)  # the code that serves has set its own
    watcher = Watcher()
    with tempfile.TemporaryDirectory() as directory:
        space, learned = train(dataset, split, training.settings, Path(directory) / "space", device, watcher).judged
    whole = replace(dataset, features=learned.features, neighbors=learned.neighbors or dataset.neighbors)
    assert watcher.best is not None
    return Outcome(
        kind=training.kind,
        variant=training.variant,
        seed=training.settings.seed,
        trained_on=identity,
        selection_metric=watcher.best.selection_metric,
        best_epoch=watcher.best.epoch,
        num_epochs=len(watcher.seconds),
        seconds=float(np.mean(watcher.seconds)),
        cpu_seconds=float(np.mean(watcher.cpu_s)),
        device=device,
        by_user={name: values.tolist() for name, values in judged(space, whole, split).items()},
    )


def judged(space: Space, dataset: Dataset, split: Split) -> dict[str, NDArray[np.float64]]:
    """The test, user by user, by vectors that the code that serves made on a CPU."""
    items = embed_items(AlignRuntime(space, device="cpu", dtype="float32", threads=1), dataset)
    return by_user(split, space_score(space, items))


def by_user(split: Split, score: Score) -> dict[str, NDArray[np.float64]]:
    found = []
    for questions in (warm_questions(split, "test"), cold_questions(split, "test")):
        ranking = ask(questions, score)
        found += [ranking.recall(K), ranking.ndcg(K)]
    return dict(zip(MEASURES, found, strict=True))
