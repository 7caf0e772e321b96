"""A training from a dataset to a space directory."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from schemas import Feature, NewItem
from worker import __version__
from worker.align.device import device_name
from worker.align.space import TRAINING_FOLDER, Space, require_free, write_space
from worker.align.spec import SpaceSpec
from worker.data import Dataset, Features, Loaded, Split
from worker.data.split import everything_to_learn_from
from worker.data.trained_on import trained_on, write_trained_on
from worker.errors import ConfigError, SpaceError
from worker.train.behavior import behavior_features
from worker.train.checkpoint import CHECKPOINT_FILE, Progress, load_checkpoint, save_checkpoint
from worker.train.content import Block, chosen_block
from worker.train.finish import Finish, Finished, chosen_finish, figures_of, finished
from worker.train.like import Like
from worker.train.maps import Kind, Map, Maps, fitted, refitted
from worker.train.neighbors import Neighbors, neighbors_of
from worker.train.references import add_references
from worker.train.report import draw_curves, write_report
from worker.train.settings import RecipeName, TrainSettings
from worker.train.start import space_spec, starting_weights
from worker.train.together import ALONE, Together
from worker.train.trainer import EpochReport, Trainer
from worker.train.validation import Figures, K
from worker.train.verdict import verdict


class Watcher(Protocol):
    """Who is told how it goes."""

    def epoch(self, number: int, num_steps: int) -> AbstractContextManager[Callable[[], object]]:
        """An epoch begins, and ends with the context. What it gives is called after every step."""
        ...

    def tell(self, report: EpochReport, is_best: bool) -> None:
        """An epoch has ended."""
        ...

    def begin(self, what: str) -> None:
        """The epochs that follow are for this."""
        ...


JUDGED_FOLDER = "judged"
"""Beside a space that was fitted to everything: the one that its figures are of."""
PARTS_FILE = "parts.msgpack"
"""Beside that: the parts of its items, as `--items-out` writes those of the space that is shipped."""
FINAL_FOLDER = "final"
"""Of the checkpoint of the final fit."""
CLEARLY = 0.02
"""By how much another recipe must be better than the first, after its first epochs: they say something, not all."""


@dataclass(frozen=True, slots=True)
class Learned:
    """What items have besides what was given: a modality and neighbours made of the events."""

    features: Mapping[str, Features]
    """All modalities, that of behaviour included."""
    neighbors: Neighbors | None
    """None: the space has no graph fusion."""


class Fit(NamedTuple):
    """A space, and what it takes of its items."""

    space: Space
    learned: Learned


class Trained(NamedTuple):
    """What a training gives."""

    shipped: Fit
    judged: Fit
    """The one that the figures are of, which has not learned what it was asked. Without a final fit the same."""
    told: Sequence[str]
    """What was chosen, and whether it is worth it: a line each."""


def train(
    dataset: Dataset,
    split: Split,
    settings: TrainSettings,
    out: Path,
    device: str,
    watcher: Watcher,
    like: Like | None = None,
    together: Together = ALONE,
    checkpoints: Path | None = None,
) -> Trained:
    """Train, and write the space. Goes on where an interrupted training of the same data and settings stopped.

    `like`: an older space, whose shape and start it has, and whose coordinates it is brought to. Of several processes
    each writes a space, to a directory of its own; the checkpoints, which the first of them writes, are common to all.

    Raises `SpaceError` if the directory holds something else, `ConfigError` for data or settings that give no space.
    """
    require_free(out)
    folder = out / TRAINING_FOLDER
    kept_in = checkpoints or folder
    started = time.monotonic()
    content = {name: each for name, each in dataset.features.items() if name != settings.behavior}
    if like is None:
        block = together.agreed(
            chosen_block(content, split, settings.content_dim, settings.content_share, settings.content_whitening)
        )
    else:
        settings, block = like.settings(settings), like.block
    identity = _identity(dataset, split, settings) + ("" if like is None else f" like {like.space.space_id}")
    learned = learn_from_events(dataset, split, settings)  # the same for all recipes
    if like is not None:
        like.require_anchors(learned.features, dataset.item_ids)
    try:  # what cannot be kept is not begun
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpaceError(f"{out} cannot be written: {error.strerror or error}") from None
    recipe, probes = _chosen_recipe(
        dataset, split, learned, settings, block, device, kept_in, identity, watcher, together
    )
    chosen = settings.of(recipe)
    is_told = like is not None and not like.has_learned
    begun = begin(dataset, split, learned, chosen, block, device, like, together, is_told=is_told)
    watcher.begin(f"training, recipe {recipe}, content block {_block_text(block)}")
    kept = kept_in if len(settings.recipes) == 1 else _probe_folder(kept_in, recipe)
    progress = _run(begun.trainer, kept, f"{identity} {recipe}", watcher, settings.epochs, settings.patience, together)
    best = progress.best_epoch
    assert best is not None
    assert progress.best is not None
    finish = chosen_finish(begun.spec, progress.best, begun.trainer.validation, device)
    done = finished(begun.spec, progress.best, finish, begun.trainer.validation, device)
    names = sorted(content)
    maps = fitted(begun.learned.features, names, split.warm_I, split.cold_val_I, begun.spec.dim)
    done = _turned(_with_maps(done, maps.maps), like, dataset, begun.learned)
    figures = figures_of(done, begun.trainer.validation, device)
    judgement = verdict(dataset, split, begun.trainer.validation, done, names, device)
    told = [*_told(recipe, probes, block, finish, maps), *judgement.told(), *(() if like is None else like.told())]
    notes = f"trained by align-worker {__version__}, seed {settings.seed}"
    final_report: dict[str, Any] | None = None
    if settings.final_fit is not False:
        judged_at = folder / JUDGED_FOLDER
        judged = Fit(_written(judged_at, done, dataset, split, figures, notes), begun.learned)
        whole, choices = (
            everything_to_learn_from(split),
            _Choices(chosen, block, best.epoch, finish, maps.kind, names, like),
        )
        final, final_learned, final_report = _final(
            dataset, whole, choices, device, kept_in, identity, watcher, together
        )
        notes = f"{notes}; fitted to everything, figures of the fit before"
        shipped = Fit(_written(out, final, dataset, whole, figures, notes), final_learned)
    else:
        judged = shipped = Fit(_written(out, done, dataset, split, figures, notes), begun.learned)
    if not together.is_first:  # the first writes what is kept beside the space
        return Trained(shipped, judged, told)
    add_references(out, dataset, shipped.learned.features, shipped.learned.neighbors, made_of_events=settings.behavior)
    write_report(
        folder,
        {
            "space_id": shipped.space.space_id,
            "figures_are_of": judged.space.space_id,
            "data": _data_report(dataset, split, begun.trainer),
            "settings": settings.model_dump(mode="json"),
            "machine": _machine(device),
            "seconds": round(time.monotonic() - started, 1),
            "chosen": {
                "recipe": recipe,
                "probes": probes,
                "content_block": block._asdict(),
                "epochs": best.epoch,
                **finish.as_dict(),
                "maps": maps.kind and maps.kind.text(),
                "maps_found": maps.found,
                "maps_chance": maps.chance,
            },
            "verdict": judgement.as_dict(),
            "final_fit": final_report,
            "best_epoch": best.epoch,
            "epochs": [each.as_dict() for each in progress.epochs],
        },
    )
    draw_curves(folder, progress.epochs, best.epoch)
    _remove_checkpoints(kept_in)
    return Trained(shipped, judged, told)


class _Choices(NamedTuple):
    """All that was chosen, to do it once more."""

    settings: TrainSettings
    block: Block
    epochs: int
    finish: Finish
    maps: Kind | None
    content: Sequence[str]
    like: Like | None


class _Begun(NamedTuple):
    spec: SpaceSpec
    learned: Learned
    trainer: Trainer


def begin(
    dataset: Dataset,
    split: Split,
    learned: Learned,
    settings: TrainSettings,
    block: Block,
    device: str,
    like: Like | None = None,
    together: Together = ALONE,
    *,
    is_told: bool = True,
) -> _Begun:
    """A training before its first step. `is_told`: it may start from what the older space has learned."""
    spec = space_spec(learned.features, settings, block)
    if like is not None:
        spec = like.spec(spec)
    if spec.graph is not None:
        learned = replace(learned, neighbors=_neighbors(dataset, split, learned, spec.graph.max_neighbors))
    weights: Mapping[str, Tensor] = starting_weights(spec, learned.features, settings.seed, block)
    if like is not None:
        weights = like.start(spec, weights, learned.features, dataset.item_ids, content_alone=not is_told)
    trainer = Trainer(spec, weights, learned.features, split, learned.neighbors, settings, device, together)
    if not trainer.num_questions:
        raise ConfigError(
            "--events: nothing to learn from: no user has two positive events with items that have vectors"
        )
    return _Begun(spec, learned, trainer)


def _run(
    trainer: Trainer, folder: Path, identity: str, watcher: Watcher, epochs: int, patience: int | None,
    together: Together,
) -> Progress:  # fmt: skip
    """Epochs until there are so many, or, with a patience, until they get no better."""
    progress = load_checkpoint(folder, trainer, identity)
    together.wait()
    while not (len(progress.epochs) >= epochs if patience is None else progress.is_over(epochs, patience)):
        progress = _one_more(trainer, progress, watcher, together)
        if together.is_first:
            save_checkpoint(folder, trainer, progress, identity)
        together.wait()
    return progress


def _chosen_recipe(
    dataset: Dataset, split: Split, learned: Learned, settings: TrainSettings, block: Block, device: str, folder: Path,
    identity: str, watcher: Watcher, together: Together,
) -> tuple[RecipeName, dict[str, float]]:  # fmt: skip
    """The recipe that goes on, and what each that was tried was worth after its first epochs."""
    if len(settings.recipes) == 1:
        return settings.recipes[0], {}
    started, values = time.monotonic(), dict[RecipeName, float]()
    for recipe in settings.recipes:
        is_late = together.agreed(settings.seconds is not None and time.monotonic() - started > settings.seconds)
        if values and is_late:
            break
        watcher.begin(f"the first {settings.probe_epochs} epochs of recipe {recipe}")
        begun = begin(dataset, split, learned, settings.of(recipe), block, device, together=together)
        kept, most = _probe_folder(folder, recipe), min(settings.probe_epochs, settings.epochs)
        progress = _run(begun.trainer, kept, f"{identity} {recipe}", watcher, most, None, together)
        values[recipe] = max(each.selection_metric for each in progress.epochs[:most])
    best = first = next(iter(values))
    for recipe, value in values.items():
        # The metric of a training that is asked nothing is a loss, and below 0.
        if value > values[first] + CLEARLY * abs(values[first]) and value > values[best]:
            best = recipe
    return best, {str(recipe): value for recipe, value in values.items()}


def _final(
    dataset: Dataset, whole: Split, choices: _Choices, device: str, folder: Path, identity: str, watcher: Watcher,
    together: Together,
) -> tuple[Finished, Learned, dict[str, Any]]:  # fmt: skip
    """The same once more on everything there is: nothing of it can be asked any more."""
    started, settings, epochs = time.monotonic(), choices.settings, choices.epochs
    watcher.begin(f"the final fit, {epochs} epochs on everything")
    learned = learn_from_events(dataset, whole, settings)
    begun = begin(dataset, whole, learned, settings, choices.block, device, choices.like, together)
    _run(begun.trainer, folder / FINAL_FOLDER, f"{identity} final {epochs}", watcher, epochs, None, together)
    done = finished(begun.spec, begun.trainer.weights(), choices.finish, begun.trainer.validation, device)
    everyone_I = np.ones(dataset.num_items, bool)
    done = _with_maps(done, refitted(choices.maps, begun.learned.features, choices.content, everyone_I, begun.spec.dim))
    done = _turned(done, choices.like, dataset, begun.learned)
    report = {
        "epochs": epochs,
        "training_events": int(whole.train_E.sum()),
        "questions_of_an_epoch": begun.trainer.num_asked,
        "seconds": round(time.monotonic() - started, 1),
    }
    return done, begun.learned, report


def _with_maps(done: Finished, maps: Mapping[str, Map]) -> Finished:
    weights = dict(done.weights)
    for name, (weight_DK, bias_D) in maps.items():
        weights[f"search_{name}.weight"], weights[f"search_{name}.bias"] = weight_DK, bias_D
    return replace(done, weights=weights)


def _turned(done: Finished, like: Like | None, dataset: Dataset, learned: Learned) -> Finished:
    return done if like is None else like.turned(done, learned.features, dataset.item_ids)


def _written(path: Path, done: Finished, dataset: Dataset, split: Split, figures: Figures, notes: str) -> Space:
    record = path / TRAINING_FOLDER
    record.mkdir(parents=True, exist_ok=True)
    write_trained_on(record, trained_on(dataset, split))
    return write_space(
        path,
        done.spec,
        done.weights,
        training_data=_fingerprint(dataset, split),
        evaluation=_figures(figures),
        notes=notes,
    )


def _told(recipe: str, probes: Mapping[str, float], block: Block, finish: Finish, maps: Maps) -> Iterator[str]:
    if probes:
        worth = ", ".join(f"{name} {value:.4f}" for name, value in probes.items())
        yield f"recipe {recipe}: after the first epochs, validation said {worth}"
    if maps.kind is not None and maps.found is not None and maps.chance:
        yield (
            f"one modality by another: {maps.kind.text()}; {maps.found / maps.chance:.1f} times chance among the first "
            "ten, of items it was not fitted to"
        )
    if finish.new_factor not in (None, 1.0):
        yield f"content weighs {finish.new_factor:g} times as much in items that nobody knows"


def _block_text(block: Block) -> str:
    return f"{block.share:g} of each modality, whitening {block.whitening:g}"


def _probe_folder(folder: Path, recipe: str) -> Path:
    return folder / f"recipe-{recipe}"


def _remove_checkpoints(folder: Path) -> None:
    for each in (folder, folder / FINAL_FOLDER, *(_probe_folder(folder, name) for name in get_args(RecipeName))):
        (each / CHECKPOINT_FILE).unlink(missing_ok=True)
        if each != folder and each.is_dir() and not any(each.iterdir()):
            each.rmdir()


def _one_more(trainer: Trainer, progress: Progress, watcher: Watcher, together: Together) -> Progress:
    number = len(progress.epochs) + 1
    started = time.monotonic()
    with watcher.epoch(number, trainer.num_steps) as stepped:
        report = trainer.epoch(number, stepped)
    report = together.agreed(replace(report, seconds=time.monotonic() - started))
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


def _figures(figures: Figures) -> dict[str, float]:
    """By the names that `space.json` has for them."""
    named = {}
    for name, value in figures._asdict().items():
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
