"""A training from a dataset to a space directory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from schemas import Feature, NewItem
from worker import __version__
from worker.align.device import device_name
from worker.align.space import TRAINING_FOLDER, Space, require_free, write_space
from worker.data import Dataset, Features, Loaded, Split
from worker.data.trained_on import trained_on, write_trained_on
from worker.errors import ConfigError
from worker.train.behavior import behavior_features
from worker.train.checkpoint import CHECKPOINT_FILE, Progress, load_checkpoint, save_checkpoint
from worker.train.neighbors import Neighbors, neighbors_of
from worker.train.references import add_references
from worker.train.report import draw_curves, write_report
from worker.train.settings import TrainSettings
from worker.train.start import space_spec, starting_weights
from worker.train.trainer import EpochReport, Trainer
from worker.train.validation import K


class Watcher(Protocol):
    """Who is told how it goes."""

    def epoch(self, number: int, num_steps: int) -> AbstractContextManager[Callable[[], object]]:
        """An epoch begins, and ends with the context. What it gives is called after every step."""
        ...

    def tell(self, report: EpochReport, is_best: bool) -> None:
        """An epoch has ended."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """What items have besides what was given: a modality and neighbours made of the events."""

    features: Mapping[str, Features]
    """All modalities, that of behaviour included."""
    neighbors: Neighbors | None
    """None: the space has no graph fusion."""


def train(
    dataset: Dataset, split: Split, settings: TrainSettings, out: Path, device: str, watcher: Watcher
) -> tuple[Space, Learned]:
    """Train, and write the space. Goes on where an interrupted training of the same data and settings stopped.

    Raises `SpaceError` if the directory holds something else, `ConfigError` for data or settings that give no space.
    """
    require_free(out)
    learned = learn_from_events(dataset, split, settings)
    spec = space_spec(learned.features, settings)
    if spec.graph is not None:
        learned = replace(learned, neighbors=_neighbors(dataset, split, learned, spec.graph.max_neighbors))
    weights = starting_weights(spec, learned.features, settings.seed)
    trainer = Trainer(spec, weights, learned.features, split, learned.neighbors, settings, device)
    if not trainer.num_questions:
        raise ConfigError(
            "--events: nothing to learn from: no user has two positive events with items that have vectors"
        )
    folder = out / TRAINING_FOLDER
    identity = _identity(dataset, split, settings)
    started = time.monotonic()
    progress = load_checkpoint(folder, trainer, identity)
    while not progress.is_over(settings.epochs, settings.patience):
        progress = _one_more(trainer, progress, watcher)
        save_checkpoint(folder, trainer, progress, identity)
    best = progress.best_epoch
    assert best is not None
    assert progress.best is not None
    space = write_space(
        out,
        spec,
        progress.best,
        training_data=_fingerprint(dataset, split),
        evaluation=_figures(best),
        notes=f"trained by align-worker {__version__}, seed {settings.seed}",
    )
    write_trained_on(folder, trained_on(dataset, split))
    add_references(out, dataset, learned.features, learned.neighbors, made_of_events=settings.behavior)
    write_report(
        folder,
        {
            "space_id": space.space_id,
            "data": _data_report(dataset, split, trainer),
            "settings": settings.model_dump(mode="json"),
            "machine": _machine(device),
            "seconds": round(time.monotonic() - started, 1),
            "best_epoch": best.epoch,
            "epochs": [each.as_dict() for each in progress.epochs],
        },
    )
    draw_curves(folder, progress.epochs, best.epoch)
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return space, learned


def _one_more(trainer: Trainer, progress: Progress, watcher: Watcher) -> Progress:
    number = len(progress.epochs) + 1
    started = time.monotonic()
    with watcher.epoch(number, trainer.num_steps) as stepped:
        report = trainer.epoch(number, stepped)
    report = replace(report, seconds=time.monotonic() - started)
    following = progress.after(report, trainer.weights())
    watcher.tell(report, is_best=following.best_epoch is report)
    return following


def learn_from_events(dataset: Dataset, split: Split, settings: TrainSettings) -> Learned:
    """The modality of behaviour, from the events of training alone."""
    if not dataset.features:
        raise ConfigError("--items: no item has features; make them from content with `align-worker encode`")
    features = dict(dataset.features)
    if settings.behavior in features:
        raise ConfigError(
            f"--behavior: the items have a modality {settings.behavior!r} already; leave it out of the files, or name "
            "another"
        )
    if settings.behavior_dim:
        found = behavior_features(
            split.events.where(split.train_E),
            dataset.num_users,
            dataset.num_items,
            dim=settings.behavior_dim,
            min_events=settings.behavior_min_events,
            shrink=settings.behavior_shrink,
        )
        if len(found.vectors_NK):
            features[settings.behavior] = found
    return Learned(dict(sorted(features.items())), None)


def item_parts(loaded: Loaded, learned: Learned, behavior: str) -> Iterator[NewItem]:
    """Partial messages, in order of the ids, that add to items what was learned from events."""
    dataset = loaded.dataset
    found = learned.features.get(behavior)
    for number, (item_id, version) in enumerate(zip(dataset.item_ids, loaded.versions, strict=True)):
        features = {}
        if found is not None and found.present_I[number]:
            rows_NK = found.vectors_NK[found.starts[number] : found.starts[number + 1]]
            features[behavior] = Feature.from_numpy(rows_NK[0], "f4", encoder=found.encoder)
        neighbors = () if learned.neighbors is None else learned.neighbors[number]
        if features or neighbors:
            yield NewItem(
                item_id=item_id,
                revision=version.revision,
                event_time_ms=version.event_time_ms,
                features=features,
                neighbors=tuple(dataset.item_ids[other] for other in neighbors),
                partial=True,
            )


def _neighbors(dataset: Dataset, split: Split, learned: Learned, most: int) -> Neighbors:
    """Those that the items name, where they name any; else those that the events and the content give."""
    if any(dataset.neighbors):
        return dataset.neighbors
    events = split.events.where(split.train_E)
    known_I = np.bincount(events.items_E, minlength=dataset.num_items) > 0
    return neighbors_of(events, dataset.num_users, learned.features, known_I, most)


def _fingerprint(dataset: Dataset, split: Split) -> str:
    digest = blake2b(dataset.fingerprint.encode(), digest_size=16)
    for mask in (split.train_E, split.cold_val_I, split.cold_test_I):
        digest.update(np.packbits(mask).data)
    return digest.hexdigest()


def _identity(dataset: Dataset, split: Split, settings: TrainSettings) -> str:
    return f"{__version__} {_fingerprint(dataset, split)} {settings.model_dump_json()}"


def _figures(best: EpochReport) -> dict[str, float]:
    """By the names that `space.json` has for them."""
    named = {}
    for name, value in best.figures._asdict().items():
        kind, _, measure = name.partition("_")
        if value is not None:
            named[f"validation/{kind}/{measure}@{K}"] = value
    return named


def _data_report(dataset: Dataset, split: Split, trainer: Trainer) -> dict[str, Any]:
    return {
        "fingerprint": dataset.fingerprint,
        "items": dataset.num_items,
        "users": dataset.num_users,
        "modalities": {name: int(each.present_I.sum()) for name, each in dataset.features.items()},
        "training_events": int(split.train_E.sum()),
        "questions": trainer.num_questions,
        "questions_of_an_epoch": trainer.num_asked,
        "questions_of_a_user_and_epoch_at_most": trainer.most_per_user,
        "users_to_choose_by": len(split.val_events),
        "withheld_to_choose_by": int(split.cold_val_I.sum()),
        "withheld_to_judge_by": int(split.cold_test_I.sum()),
    }


def _machine(device: str) -> dict[str, Any]:
    return {
        "device": device,
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
