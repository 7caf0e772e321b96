"""Results of the model, and their form on the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from worker.align.collate import TORCH_DTYPES
from worker.align.collated import Collated
from worker.align.features import FeatureLike, Features

Array = NDArray[np.float32]
VectorType = Literal["f2", "f4"]

NUM_FUSED = 3
"""Outputs of the model before those of single modalities: vectors, lengths, priors."""
NO_MODALITY = "features: the item has no modality of the space"

UNIT_TOLERANCE: Mapping[str, float] = {"f2": 5e-4, "f4": 2e-6}
"""How far the length of a published row may be from 1.

Rows are normalised in float32. Rounding to half moves every element by at most 2^-11 of itself, and so the length by
at most 4.9e-4.
"""


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of a sequence of items, in order."""

    vectors: Array
    """`[B, D]`, unit length; zeros in a bad row."""
    modalities: list[tuple[str, ...]]
    """For each item those that took part, in alphabetical order."""
    bad_rows: Mapping[int, str]
    """Items without a vector, and why: no modality, or a result that is not finite."""
    priors: Array
    """`[B]`: what to add to a dot product with the vector; 0 in a bad row, and where the space has none."""
    modality_vectors: Mapping[str, Array] | None = None
    """By modality `[B, D]`: the vector of that modality alone, unit length; zeros where an item does not have it."""

    def rows(self, dtype: VectorType) -> list[bytes]:
        """Each vector as little-endian elements."""
        return pack_rows(self.vectors, dtype)

    def modality_rows(self, dtype: VectorType) -> list[dict[str, bytes]]:
        """For each item the vector of each modality that took part. Needs `modality_vectors`."""
        if self.modality_vectors is None:
            raise ValueError("the runtime was made without modality_vectors")
        packed = {name: pack_rows(vectors, dtype) for name, vectors in self.modality_vectors.items()}
        return [{name: packed[name][row] for name in names} for row, names in enumerate(self.modalities)]


def from_outputs(batch: Collated, outputs: Sequence[Array], items: Sequence[Features]) -> Embeddings:
    """Results for a batch: vectors, lengths and priors of the items, then vectors and lengths of each part
    of the layout alone."""
    vectors_BD, priors_B, usable_B = outputs[0], outputs[2], _usable(batch, outputs)
    bad_rows = {} if usable_B.all() else {row: _why(items[row]) for row in np.flatnonzero(~usable_B).tolist()}
    if not batch.layout.dense:
        bad_rows |= {row: NO_MODALITY for row, names in enumerate(batch.modalities) if not names}
    if bad_rows:
        vectors_BD[list(bad_rows)] = priors_B[list(bad_rows)] = 0.0
    if len(outputs) == NUM_FUSED:
        return Embeddings(vectors_BD, batch.modalities, bad_rows, priors_B)
    alone = {part.name: outputs[NUM_FUSED + 2 * index] for index, part in enumerate(batch.layout.parts)}
    for name, alone_BD in alone.items():
        alone_BD[[row for row, names in enumerate(batch.modalities) if name not in names or row in bad_rows]] = 0.0
    return Embeddings(vectors_BD, batch.modalities, bad_rows, priors_B, alone)


def _usable(batch: Collated, outputs: Sequence[Array]) -> NDArray[np.bool_]:
    """Rows of which every vector means something, those of single modalities included."""
    usable_B = _finite_and_long(outputs[1]) & np.isfinite(outputs[2]) & np.isfinite(outputs[0]).all(1)
    for part, lengths_B in zip(batch.layout.parts, outputs[NUM_FUSED + 1 :: 2], strict=False):
        absent_B = np.array([part.name not in names for names in batch.modalities])
        usable_B &= _finite_and_long(lengths_B) | absent_B
    return usable_B


def _finite_and_long(lengths_B: Array) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = np.isfinite(lengths_B) & (lengths_B > 0)
    return usable


def without_vectors(count: int, dim: int, modality_vectors: bool) -> Embeddings:
    """Items none of which has a modality."""
    bad_rows = dict.fromkeys(range(count), NO_MODALITY)
    vectors_BD, priors_B = np.zeros((count, dim), np.float32), np.zeros(count, np.float32)
    return Embeddings(vectors_BD, [()] * count, bad_rows, priors_B, {} if modality_vectors else None)


def replaced(embedded: Embeddings, alone: Mapping[int, Embeddings]) -> Embeddings:
    """The same with what single rows gave when each was computed alone, by row."""
    rows = list(alone)
    embedded.vectors[rows] = [each.vectors[0] for each in alone.values()]
    embedded.priors[rows] = [each.priors[0] for each in alone.values()]
    for row, each in alone.items():
        for name, vectors in (each.modality_vectors or {}).items():
            if embedded.modality_vectors is not None:
                embedded.modality_vectors[name][row] = vectors[0]
    bad_rows = {
        row: why
        for row in sorted(embedded.bad_rows)
        if (why := alone[row].bad_rows.get(0) if row in alone else embedded.bad_rows[row]) is not None
    }
    return replace(embedded, bad_rows=bad_rows)


def concatenated(pieces: Sequence[Embeddings]) -> Embeddings:
    """Consecutive pieces as one."""
    if len(pieces) == 1:
        return pieces[0]
    starts = np.cumsum([0, *(len(piece.modalities) for piece in pieces)]).tolist()
    return Embeddings(
        np.concatenate([piece.vectors for piece in pieces]),
        [names for piece in pieces for names in piece.modalities],
        {start + row: why for start, piece in zip(starts, pieces, strict=False) for row, why in piece.bad_rows.items()},
        np.concatenate([piece.priors for piece in pieces]),
        _concatenated_alone(pieces),
    )


def _concatenated_alone(pieces: Sequence[Embeddings]) -> dict[str, Array] | None:
    """Zeros where no item of a piece has the modality, and the piece therefore no vectors for it."""
    alone = [piece.modality_vectors for piece in pieces if piece.modality_vectors is not None]
    if len(alone) < len(pieces):
        return None
    return {
        name: np.concatenate(
            [vectors.get(name, np.zeros_like(piece.vectors)) for vectors, piece in zip(alone, pieces, strict=True)]
        )
        for name in sorted({name for vectors in alone for name in vectors})
    }


def _why(item: Features) -> str:
    """Which feature keeps an item from having a finite vector."""
    for name, feature in item.items():
        if not np.isfinite(_values(feature)).all():
            return f"features.{name}.data: holds NaN or infinite values"
    return f"features: the values of {', '.join(item)} are finite, but too large for a finite vector"


def _values(feature: FeatureLike) -> Array:
    elements = torch.frombuffer(bytearray(feature.data), dtype=TORCH_DTYPES[feature.dtype])
    scale = feature.scale if feature.dtype == "i1" and feature.scale is not None else 1.0
    values: Array = elements.float().numpy() * np.float32(scale)
    return values


def unpack_rows(rows: Sequence[bytes], dim: int, dtype: VectorType) -> Array:
    """`[B, D]`: what `pack_rows` has packed, rounded as it is."""
    packed = bytearray().join(rows)
    if not packed:
        return np.zeros((0, dim), np.float32)
    elements = torch.frombuffer(packed, dtype=TORCH_DTYPES[dtype]).view(-1, dim)  # converts ten times as fast as numpy
    values: Array = elements.float().numpy()
    return values


def pack_rows(vectors_BD: Array, dtype: VectorType) -> list[bytes]:
    """One conversion and one copy for all rows, then a slice for each."""
    if dtype == "f2":
        packed = torch.from_numpy(vectors_BD).half().numpy().astype("<f2", copy=False)
    else:
        packed = vectors_BD.astype("<f4", copy=False)
    data = packed.tobytes()
    width = packed.shape[1] * packed.itemsize
    return [data[start : start + width] for start in range(0, len(data), width)]
