"""A catalogue and what users did with it, as arrays.

I items   U users   E events   N vectors of one modality   K elements of such a vector
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Features:
    """One modality of a catalogue. The vectors of item i are rows `starts[i]` to `starts[i + 1]`; none: it lacks it."""

    encoder: str
    vectors_NK: Floats
    starts: Ints
    """`[I + 1]`, rising from 0 to N."""

    @property
    def counts_I(self) -> Ints:
        """Vectors of each item."""
        return np.diff(self.starts)

    @property
    def present_I(self) -> Bools:
        return self.counts_I > 0

    @property
    def dim(self) -> int:
        """K."""
        return int(self.vectors_NK.shape[1])

    def where(self, items: Ints) -> Features:
        """Of the items with these indices, in this order."""
        counts = self.counts_I[items]
        starts: Ints = np.concatenate([[0], np.cumsum(counts)])
        rows_N = np.arange(starts[-1]) - np.repeat(starts[:-1] - self.starts[items], counts)
        return Features(self.encoder, self.vectors_NK[rows_N], starts)

    def mean_IK(self) -> Floats:
        """The mean vector of each item; zeros where it has none."""
        sums_IK = np.zeros((len(self.starts) - 1, self.dim), np.float32)
        if self.counts_I.max(initial=0) <= 1:
            sums_IK[self.present_I] = self.vectors_NK
            return sums_IK
        np.add.at(sums_IK, np.repeat(np.arange(len(sums_IK)), self.counts_I), self.vectors_NK)
        means_IK: Floats = np.divide(sums_IK, np.maximum(self.counts_I, 1)[:, None], dtype=np.float32)
        return means_IK


@dataclass(frozen=True, slots=True)
class Interactions:
    """Events as arrays of one length, each event once, in order of time; of equal times in order of their ids."""

    users_E: Ints
    """Index of the user."""
    items_E: Ints
    """Index of the item."""
    times_ms_E: Ints
    weights_E: Floats
    """Weight of the event as evidence of taste, from its type: positive, negative, never 0."""

    def __len__(self) -> int:
        return len(self.users_E)

    def where(self, chosen_E: Bools | Ints) -> Interactions:
        """Those marked, in the same order; or those with the given indices, in the order of these."""
        return Interactions(
            self.users_E[chosen_E], self.items_E[chosen_E], self.times_ms_E[chosen_E], self.weights_E[chosen_E]
        )


@dataclass(frozen=True, slots=True)
class Dataset:
    """A catalogue with its events."""

    item_ids: Sequence[str]
    user_ids: Sequence[str]
    features: Mapping[str, Features]
    """By modality, in alphabetical order."""
    events: Interactions
    neighbors: Sequence[tuple[int, ...]]
    """`[I]`: the items that each names as its neighbours, by index; those that the catalogue lacks are left out."""
    fingerprint: str
    """Hash of all of the above: equal for equal datasets, whatever files they were read from."""

    @property
    def num_items(self) -> int:
        return len(self.item_ids)

    @property
    def num_users(self) -> int:
        return len(self.user_ids)


def fingerprint_of(
    item_ids: Sequence[str],
    user_ids: Sequence[str],
    features: Mapping[str, Features],
    events: Interactions,
    neighbors: Sequence[tuple[int, ...]],
) -> str:
    """Compute `Dataset.fingerprint` for a dataset of these."""
    digest = blake2b(digest_size=16)

    def add(*parts: str | NDArray[Any]) -> None:
        for part in parts:
            data = memoryview(part.encode()) if isinstance(part, str) else np.ascontiguousarray(part).ravel().data
            digest.update(data.nbytes.to_bytes(8, "little"))  # or other parts could run together to the same bytes
            digest.update(data)

    add(*item_ids, "users", *user_ids)
    for name, feature in sorted(features.items()):
        add(name, feature.encoder, feature.starts, feature.vectors_NK)
    add("events", events.users_E, events.items_E, events.times_ms_E, events.weights_E)
    add("neighbors", *(np.array(found, np.int64) for found in neighbors))
    return digest.hexdigest()
