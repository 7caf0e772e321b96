"""A generated catalogue whose structure is known: items of a theme look alike in every modality.

Each theme has a direction in each modality's space, unrelated between modalities as the spaces of real encoders are.
An item's feature is its theme's direction plus noise; some items lack some modalities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas import Feature, NewItem

THEMES = (
    "alpine hiking", "baking bread", "city cycling", "deep sea", "electric guitars", "film noir", "garden birds",
    "hand pottery", "ice hockey", "jazz piano", "kite surfing", "lunar landings",
)  # fmt: skip
MODALITIES: Mapping[str, int] = {"text": 384, "image": 256, "audio": 128}
NOISE = 1.0  # length of an item's own part, relative to the theme's


@dataclass(frozen=True, slots=True)
class SyntheticItem:
    """An item and the truth about it."""

    item_id: str
    theme: int
    title: str
    features: Mapping[str, Feature]

    def message(self, revision: int, event_time_ms: int) -> NewItem:
        return NewItem(
            item_id=self.item_id, revision=revision, event_time_ms=event_time_ms, features=dict(self.features)
        )


class Catalogue:
    """An endless, seeded sequence of items."""

    def __init__(self, seed: int, modalities: Mapping[str, int] = MODALITIES, missing_share: float = 0.2) -> None:
        self._random = np.random.default_rng(seed)
        self._modalities = modalities
        self._missing_share = missing_share
        self._themes = {
            name: _unit(self._random.standard_normal((len(THEMES), dim))) for name, dim in modalities.items()
        }

    def items(self, num_items: int) -> Iterator[SyntheticItem]:
        for number in range(num_items):
            theme = int(self._random.integers(len(THEMES)))
            yield SyntheticItem(f"item-{number:06d}", theme, f"{THEMES[theme]} #{number}", self._features(theme))

    def _features(self, theme: int) -> dict[str, Feature]:
        names = list(self._modalities)
        present = [name for name in names if self._random.random() >= self._missing_share]
        present = present or [names[int(self._random.integers(len(names)))]]
        return {name: self._feature(name, theme) for name in present}

    def _feature(self, name: str, theme: int) -> Feature:
        dim = self._modalities[name]
        vector = self._themes[name][theme] + NOISE * _unit(self._random.standard_normal(dim))
        return Feature(encoder=f"synthetic-{name}", dtype="f2", shape=(dim,), data=vector.astype("<f2").tobytes())


def _unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
