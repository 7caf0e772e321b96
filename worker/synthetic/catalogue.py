"""Items of themes, seen through modalities that each show a part of what the items are like.

An item's latent vector is the direction of its theme and something of its own. A modality has a space of its own, as
a real encoder has, in which each latent dimension has a direction, and is blind to some of the dimensions: with K
modalities, each to another K-th of them. A feature is what the modality sees of the item, plus noise. Some items lack
some modalities.

    L latent dimensions   T themes   B items of a block   D dimensions of a modality
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
LATENT_DIM = 16
OWN_PART = 0.5  # length of an item's own part, relative to the theme's
NOISE = 1.0  # length of the noise in a feature, relative to a latent vector's
POPULARITY_SIGMA = 1.0  # of the logarithm
BLOCK = 256  # items drawn together

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class SyntheticItem:
    """An item and the truth about it."""

    item_id: str
    theme: int
    title: str
    features: Mapping[str, Feature]
    latent_L: Floats
    """Position in the space of tastes, of unit length."""
    popularity: float
    """How often it is shown to users, relative to others."""

    def message(self, revision: int, event_time_ms: int) -> NewItem:
        return NewItem(
            item_id=self.item_id, revision=revision, event_time_ms=event_time_ms, features=dict(self.features)
        )


class Catalogue:
    """An endless sequence of items. The seed decides all of them, however many are asked for."""

    def __init__(
        self,
        seed: int,
        modalities: Mapping[str, int] = MODALITIES,
        missing_share: float = 0.2,
        max_vectors: Mapping[str, int] | None = None,
        clutter_share: float = 0.0,
    ) -> None:
        """With `max_vectors`, a modality has one to that many vectors per item, each with noise of its own.

        Of several vectors, `clutter_share` have nothing to do with the item: they lie near one direction, the same
        for all items, as captions and logos do.
        """
        self._seed = seed
        self._modalities = modalities
        self._missing_share = missing_share
        self._max_vectors = max_vectors or {}
        self._clutter_share = clutter_share
        random = np.random.default_rng(seed)
        self.themes_TL = _orthonormal(random, LATENT_DIM, LATENT_DIM)[: len(THEMES)]
        """The direction of each theme."""
        # One direction more than there are latent dimensions: that of the clutter.
        self._directions = {name: _orthonormal(random, LATENT_DIM + 1, dim) for name, dim in modalities.items()}

    def sees(self, modality: str) -> NDArray[np.bool_]:
        """Which latent dimensions a modality shows. One alone shows all."""
        number, count = list(self._modalities).index(modality), len(self._modalities)
        seen_L: NDArray[np.bool_] = np.arange(LATENT_DIM) % count != number
        return seen_L if count > 1 else np.ones(LATENT_DIM, bool)

    def items(self, num_items: int, start: int = 0) -> Iterator[SyntheticItem]:
        """Items number `start` and on."""
        for block in range(start // BLOCK, -(-(start + num_items) // BLOCK)):
            first = block * BLOCK
            for number, item in enumerate(self._block(first), start=first):
                if start <= number < start + num_items:
                    yield item

    def _block(self, first: int) -> Iterator[SyntheticItem]:
        random = np.random.default_rng([self._seed, first])
        themes_B = random.integers(len(THEMES), size=BLOCK)
        latent_BL = unit(self.themes_TL[themes_B] + OWN_PART * unit(random.standard_normal((BLOCK, LATENT_DIM))))
        popularity_B = np.exp(POPULARITY_SIGMA * random.standard_normal(BLOCK))
        features = {name: self._features(name, latent_BL, random) for name in self._modalities}
        present = self._present(random)
        for row, theme in enumerate(themes_B.tolist()):
            yield SyntheticItem(
                f"item-{first + row:06d}",
                theme,
                f"{THEMES[theme]} #{first + row}",
                {name: features[name][row] for name in self._modalities if present[name][row]},
                latent_BL[row],
                float(popularity_B[row]),
            )

    def _present(self, random: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """Which items have which modality; all have one."""
        names = list(self._modalities)
        present_BM = random.random((BLOCK, len(names))) >= self._missing_share
        rescued = np.flatnonzero(~present_BM.any(axis=1))
        present_BM[rescued, random.integers(len(names), size=len(rescued))] = True
        return {name: present_BM[:, column] for column, name in enumerate(names)}

    def _features(self, name: str, latent_BL: Floats, random: np.random.Generator) -> list[Feature]:
        dim, directions = self._modalities[name], self._directions[name]
        most = self._max_vectors.get(name, 1)
        counts_B = random.integers(1, most + 1, size=BLOCK)
        starts = np.concatenate([[0], np.cumsum(counts_B)])
        seen_VL = np.repeat(latent_BL * self.sees(name), counts_B, axis=0)
        clutter_V = random.random(len(seen_VL)) < self._clutter_share
        clutter_V[starts[:-1]] = False  # each item has one vector that is about it
        signal_VD = np.where(clutter_V[:, None], directions[LATENT_DIM], seen_VL @ directions[:LATENT_DIM])
        vectors_VD = (signal_VD + NOISE * unit(random.standard_normal((len(seen_VL), dim)))).astype("<f2")
        features = []
        for start, count in zip(starts[:-1].tolist(), counts_B.tolist(), strict=True):
            shape = (dim,) if most == 1 else (count, dim)
            data = vectors_VD[start : start + count].tobytes()
            features.append(Feature(encoder=f"synthetic-{name}", dtype="f2", shape=shape, data=data))
        return features


def unit(vectors: Floats) -> Floats:
    """Vector of unit length."""
    scaled: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return scaled


def _orthonormal(random: np.random.Generator, count: int, dim: int) -> Floats:
    """`[count, dim]`: random directions at right angles to each other; where there is no room for that, just random."""
    if count > dim:
        return unit(random.standard_normal((count, dim)))
    directions: Floats = np.linalg.qr(random.standard_normal((dim, count)))[0].T
    return directions
