"""Catalogues of any size and what users did with them, made straight into the arrays that training reads.

An item belongs to a theme, which its features show, and a user has three of them; within a theme some items are chosen
far more often than others. Vectors are written to files a block at a time and mapped, so that a million items do not
have to fit into memory to be made.

    I items   E events   L latent dimensions   K elements of a feature
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from worker.data import Dataset, Features, Interactions, Split, split_by_time
from worker.data.dataset import Floats, Ints

LATENT_DIM = 16
THEMES_OF_USER = 3
OWN_PART = 0.5
"""Length of an item's own part, relative to its theme's."""
NOISE = 1.0
"""Length of the noise in a feature, relative to what it shows."""
ITEMS_OF_THEME = 100
BLOCK = 65_536
START_MS, SPAN_MS = 1_700_000_000_000, 90 * 86_400_000


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a world is."""

    items: int
    modalities: int = 2
    dim: int = 256
    events_per_item: float = 10.0
    events_per_user: float = 20.0
    """On average: most have fewer, some a hundred times as many."""
    seed: int = 0

    @property
    def events(self) -> int:
        return round(self.items * self.events_per_item)

    @property
    def users(self) -> int:
        return max(1, round(self.events / self.events_per_user))


def large_world(shape: Shape, folder: Path) -> tuple[Dataset, Split]:
    """The catalogue, its vectors in files in the folder, and its events, split by time; one item in twenty is withheld
    to choose by. The seed decides all of it."""
    random = np.random.default_rng(shape.seed)
    num_themes = max(4, shape.items // ITEMS_OF_THEME)
    themes_TL = _unit(random.standard_normal((num_themes, LATENT_DIM), dtype=np.float32))
    theme_I = np.sort(random.integers(num_themes, size=shape.items))
    features = {
        f"modality{number}": _feature(np.random.default_rng([shape.seed, number]), themes_TL, theme_I, number, shape,
                                      folder / f"modality{number}.npy")
        for number in range(shape.modalities)
    }  # fmt: skip
    events = _events(random, theme_I, num_themes, shape)
    neighbors: list[tuple[int, ...]] = [()] * shape.items
    dataset = Dataset(
        [f"item-{number:08d}" for number in range(shape.items)],
        [f"user-{number:08d}" for number in range(shape.users)],
        features, events, neighbors, f"large-world-{shape}",
    )  # fmt: skip
    number_I = np.arange(shape.items)
    return dataset, split_by_time(events, number_I % 20 == 7, np.zeros(shape.items, bool))


def _feature(
    random: np.random.Generator, themes_TL: Floats, theme_I: Ints, number: int, shape: Shape, path: Path
) -> Features:
    directions_LK = np.linalg.qr(random.standard_normal((shape.dim, LATENT_DIM)))[0].T.astype(np.float32)
    shows_L = (np.arange(LATENT_DIM) % shape.modalities != number).astype(np.float32) if shape.modalities > 1 else 1.0
    vectors_IK = np.lib.format.open_memmap(path, "w+", np.float32, (shape.items, shape.dim))
    for start in range(0, shape.items, BLOCK):
        theme_B = theme_I[start : start + BLOCK]
        own_BL = _unit(random.standard_normal((len(theme_B), LATENT_DIM), dtype=np.float32))
        latent_BL = _unit(themes_TL[theme_B] + OWN_PART * own_BL) * shows_L
        noise_BK = random.standard_normal((len(theme_B), shape.dim), dtype=np.float32) * np.float32(shape.dim**-0.5)
        vectors_IK[start : start + BLOCK] = latent_BL @ directions_LK + NOISE * noise_BK
    vectors_IK.flush()
    del vectors_IK
    return Features(f"generated-{shape.dim}", np.load(path, mmap_mode="c"), np.arange(shape.items + 1))


def _events(random: np.random.Generator, theme_I: Ints, num_themes: int, shape: Shape) -> Interactions:
    share_U = random.pareto(1.6, shape.users) + 0.2
    users_E = random.choice(shape.users, shape.events, p=share_U / share_U.sum())
    themes_UP = random.integers(num_themes, size=(shape.users, THEMES_OF_USER))
    theme_E = themes_UP[users_E, random.integers(THEMES_OF_USER, size=shape.events)]
    first_T = np.searchsorted(theme_I, np.arange(num_themes))
    size_T = np.searchsorted(theme_I, np.arange(num_themes), side="right") - first_T
    place_E = (random.random(shape.events) ** 2 * size_T[theme_E]).astype(np.int64)
    items_E = np.minimum(first_T[theme_E] + place_E, shape.items - 1)
    times_ms_E = START_MS + np.arange(shape.events) * (SPAN_MS // shape.events)
    return Interactions(users_E, items_E, times_ms_E, np.ones(shape.events, np.float32))


def _unit(vectors: Floats) -> Floats:
    unit: Floats = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    return unit
