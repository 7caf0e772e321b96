"""What a block of vectors adds up to. Blocks add up to longer ones; no vector is kept.

I items   D dim of the space   B axes that are cut into bins   Q bins of an axis   P patterns
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.vector_health.references import References

Floats = NDArray[np.float64]

NUM_PAIRS = 96
"""Of a block: enough to see a rank halved."""
_ONES = 1_024
_STRETCH = 8.0  # of unit vectors no element is further from 0 than 1


class Sums(NamedTuple):
    """Of some items."""

    num_items: int
    num_known: int
    """Those of patterns that the references have; all, where there are none. The sums of vectors are of these."""
    counts_P: Floats
    """By pattern."""
    sum_D: Floats
    num_pairs: int
    pair_squares: float
    """Of the products of pairs of vectors, taken from the references' mean."""
    bins_BQ: Floats
    """Items by bin of each axis."""
    with_modality: Counter[str]
    """Items by modality that they have."""

    @property
    def mean_D(self) -> Floats:
        return self.sum_D / max(1, self.num_known)


class Summing:
    """How vectors are added up for one space."""

    def __init__(self, references: References | None, dim: int) -> None:
        self._index: dict[tuple[str, ...], int] = {}
        self._num_axes = 0
        self._mean_D = np.zeros(dim, np.float32)
        self._references = references
        self._ones_I = np.ones(_ONES, np.float32)
        if references is not None:
            self._index = {names: place for place, names in enumerate(references.patterns)}
            self._mean_D = references.mean_D.astype(np.float32)
            self._num_axes, num_edges = references.edges_BQ.shape
            self._num_bins = num_edges + 1
            # Each axis is moved to a stretch of its own, so that one search finds the bins of all.
            self._offsets_B1 = (np.arange(self._num_axes, dtype=np.float32) * _STRETCH)[:, None]
            self._edges = (references.edges_BQ.astype(np.float32) + self._offsets_B1).ravel()
            self._axes_BD = np.ascontiguousarray(references.axes_AD[: self._num_axes], np.float32)

    def __call__(self, vectors_ID: NDArray[np.float32], patterns: Sequence[tuple[str, ...]]) -> Sums:
        num_items = len(vectors_ID)
        counts = Counter(patterns)
        with_modality = Counter[str]()
        for names, count in counts.items():
            for name in names:
                with_modality[name] += count
        counts_P = np.zeros(len(self._index))
        if self._references is not None:
            for names, count in counts.items():
                if (place := self._index.get(names)) is not None:
                    counts_P[place] = count
            if counts_P.sum() < num_items:
                vectors_ID = vectors_ID[[names in self._index for names in patterns]]
        pairs = min(NUM_PAIRS, len(vectors_ID) // 2)
        centred_ID = vectors_ID[: 2 * pairs] - self._mean_D
        products_I = np.einsum("id,id->i", centred_ID[:pairs], centred_ID[pairs:])
        return Sums(
            num_items,
            len(vectors_ID),
            counts_P,
            (self._ones_I[: len(vectors_ID)] @ vectors_ID).astype(np.float64)
            if len(vectors_ID) <= len(self._ones_I)
            else vectors_ID.sum(0, np.float64),
            pairs,
            float(products_I @ products_I),
            self._binned(vectors_ID),
            with_modality,
        )

    def _binned(self, vectors_ID: NDArray[np.float32]) -> Floats:
        if not self._num_axes:
            return np.zeros((0, 0))
        along_BI = self._axes_BD @ vectors_ID.T
        along_BI.sort(1)
        along_BI += self._offsets_B1
        below = np.searchsorted(along_BI.ravel(), self._edges, "right").reshape(self._num_axes, -1)
        counts_BQ = np.empty((self._num_axes, self._num_bins))
        counts_BQ[:, :-1] = below - np.arange(self._num_axes)[:, None] * len(vectors_ID)
        counts_BQ[:, -1] = len(vectors_ID)
        counts_BQ[:, 1:] -= counts_BQ[:, :-1].copy()
        return counts_BQ


def sums_of(
    references: References | None, vectors_ID: NDArray[np.float32], patterns: Sequence[tuple[str, ...]]
) -> Sums:
    """What these vectors add up to, each with the modalities of its item."""
    return Summing(references, vectors_ID.shape[1])(vectors_ID, patterns)


def sums_together(blocks: Sequence[Sums]) -> Sums:
    """Of at least one block."""
    first, *rest = blocks
    total = first
    for each in rest:
        total = Sums(
            total.num_items + each.num_items,
            total.num_known + each.num_known,
            total.counts_P + each.counts_P,
            total.sum_D + each.sum_D,
            total.num_pairs + each.num_pairs,
            total.pair_squares + each.pair_squares,
            total.bins_BQ + each.bins_BQ,
            total.with_modality + each.with_modality,
        )
    return total
