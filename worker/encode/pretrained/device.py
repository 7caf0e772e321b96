"""Where the models run, and in what arithmetic."""

from __future__ import annotations

from typing import NamedTuple

import torch

from worker.align.device import DTYPES, resolve_device
from worker.errors import ConfigError


class Placement(NamedTuple):
    device: str
    dtype: torch.dtype

    @property
    def is_cpu(self) -> bool:
        return self.device == "cpu"


def placement(device: str = "auto", dtype: str = "auto") -> Placement:
    """`auto` computes in float32 on a CPU, and in bfloat16 on a GPU. Raises `ConfigError` for what cannot be had."""
    resolved = resolve_device(device)
    if dtype == "auto":
        return Placement(resolved, torch.float32 if resolved == "cpu" else torch.bfloat16)
    for name, value in DTYPES.items():
        if name == dtype:
            return Placement(resolved, value)
    raise ConfigError(f"dtype: {dtype!r} is unknown; it is auto, {', '.join(DTYPES)}")
