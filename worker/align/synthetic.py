"""Random items of a space, to warm a model up, time it and check it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worker.align.features import ElementType
from worker.align.spec import SpaceSpec


@dataclass(frozen=True, slots=True)
class SyntheticFeature:
    """One random feature."""

    encoder: str
    dtype: ElementType
    shape: tuple[int, ...]
    data: bytes
    scale: float | None = None


def synthetic_items(
    spec: SpaceSpec, count: int, *, seed: int = 0, modalities: Sequence[str] | None = None
) -> list[dict[str, SyntheticFeature]]:
    """Items with one half-precision vector of each modality, or of those named."""
    random = np.random.default_rng(seed)
    items: list[dict[str, SyntheticFeature]] = [{} for _ in range(count)]
    for name in spec.modalities if modalities is None else modalities:
        modality = spec.modalities[name]
        vectors = random.standard_normal((count, modality.dim), np.float32).astype("<f2")
        for item, vector in zip(items, vectors, strict=True):
            item[name] = SyntheticFeature(modality.encoder or "synthetic", "f2", vector.shape, vector.tobytes())
    return items
