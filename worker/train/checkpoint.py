"""A training that can go on after an interruption: one file, replaced after every epoch. Nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from worker.errors import ConfigError
from worker.json_text import read_json
from worker.train.trainer import EpochReport, Trainer, Weights

CHECKPOINT_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a training has come."""

    epochs: tuple[EpochReport, ...] = ()
    best: Weights | None = None
    """The parameters of the epoch with the greatest selection metric. None before the first."""

    @property
    def best_epoch(self) -> EpochReport | None:
        """The first of those with the greatest."""
        return max(self.epochs, key=lambda each: each.selection_metric, default=None)

    def after(self, report: EpochReport, weights: Weights) -> Progress:
        """With one more epoch, which ended with these parameters."""
        better = self.best_epoch is None or report.selection_metric > self.best_epoch.selection_metric
        return Progress((*self.epochs, report), weights if better else self.best)

    def is_over(self, epochs: int, patience: int) -> bool:
        if self.best_epoch is None:
            return False
        return len(self.epochs) >= epochs or len(self.epochs) - self.best_epoch.epoch >= patience


def save_checkpoint(folder: Path, trainer: Trainer, progress: Progress, identity: str) -> None:
    """Replace the checkpoint. `identity` stands for the data and the settings."""
    tensors: dict[str, Tensor] = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    tensors |= {f"mean.{name}": tensor for name, tensor in trainer.ema_model.state_dict().items()}
    tensors |= {f"sharpness.{name}": tensor for name, tensor in trainer.sharpness.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (progress.best or {}).items()}
    for number, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in state.items()}
    known = {"identity": identity, "epochs": json.dumps([report.as_dict() for report in progress.epochs])}
    unfinished = folder / f"{CHECKPOINT_FILE}.part"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished.write_bytes(save({name: each.contiguous().cpu() for name, each in tensors.items()}, known))
    unfinished.replace(folder / CHECKPOINT_FILE)


def load_checkpoint(folder: Path, trainer: Trainer, identity: str) -> Progress:
    """Set the trainer to where its checkpoint is; without one, nothing is changed and nothing has been done.

    Raises `ConfigError` if the checkpoint is of other data or settings, or damaged.
    """
    path = folder / CHECKPOINT_FILE
    if not path.exists():
        return Progress()
    try:
        with safe_open(path, "pt") as file:
            known: Mapping[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; remove {folder} to begin anew") from error
    if known.get("identity") != identity:
        raise ConfigError(
            f"{path} is of a training with other data or settings; name another directory, or remove {folder}"
        )
    trainer.model.load_state_dict(_under("model.", tensors))
    trainer.ema_model.load_state_dict(_under("mean.", tensors))
    trainer.sharpness.load_state_dict(_under("sharpness.", tensors))
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under("optimizer.", tensors).items():
        number, _, field = name.partition(".")
        state.setdefault(int(number), {})[field] = tensor
    trainer.optimizer.load_state_dict({**trainer.optimizer.state_dict(), "state": state})
    reports = tuple(map(EpochReport.from_dict, read_json(known["epochs"])))
    return Progress(reports, _under("best.", tensors))


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
