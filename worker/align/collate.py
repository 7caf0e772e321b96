"""Features of many items to a few tensors, with one copy of the bytes.

    N vectors of one modality   K elements of such a vector   T slots for tokens
    B rows of the batch, padding included

Runs under the interpreter lock, so the work per item is a few attribute look-ups; the bytes of one modality and
element type are joined at once. Converting, scaling and placing them is left to the model, which runs without the
lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.align.collated import Collated, Layout, ModalityLayout
from worker.align.features import ELEMENT_BYTES, ElementType, FeatureLike, Features
from worker.align.padding import PaddedSizes
from worker.align.spec import SpaceSpec

TORCH_DTYPES = {"f2": torch.float16, "f4": torch.float32, "bf2": torch.bfloat16, "i1": torch.int8}

Integers = NDArray[np.int64]


class _Modality(NamedTuple):
    name: str
    dim: int
    max_vectors: int


class _Group(NamedTuple):
    """The features of one modality and one element type, and the items they belong to."""

    items: list[int]
    features: list[FeatureLike]


class _Packed(NamedTuple):
    """All vectors of one modality: the n-th is number `slot_of_vector[n]` of item `item_of_vector[n]`."""

    part: ModalityLayout
    tensors: list[Tensor]
    num_rows: int
    """Vectors and the padding after them."""
    item_of_vector: Integers
    slot_of_vector: Integers


class Collator:
    """Collates items of one space. The features must have passed the space's `Contract`."""

    def __init__(self, spec: SpaceSpec, sizes: PaddedSizes) -> None:
        self._sizes = sizes
        self._modalities = [_Modality(name, part.dim, part.max_vectors) for name, part in spec.modalities.items()]

    def collate(self, items: Sequence[Features]) -> Collated | None:
        """The batch, or None if no item has any modality.

        With a single padded size every shape is fixed: all modalities take part, each with room for its most vectors.
        Otherwise a modality that no item has is left out. Raises ValueError for a feature that does not hold the
        bytes that its shape and type ask for, or more vectors than the space takes.
        """
        return self._dense(items) or self._sparse(items)

    def _dense(self, items: Sequence[Features]) -> Collated | None:
        """The batch if each modality that occurs has one vector of one type in every item; else None."""
        columns: list[tuple[_Modality, ElementType, list[FeatureLike]]] = []
        for modality in self._modalities:
            name = modality.name
            column = [feature for item in items if (feature := item.get(name)) is not None]
            if not column and not self._sizes.fixed:
                continue
            if len(column) != len(items) or (self._sizes.fixed and modality.max_vectors > 1):
                return None
            dtypes = {feature.dtype for feature in column}
            if len(dtypes) > 1 or {feature.shape for feature in column} != {(modality.dim,)}:
                return None
            columns.append((modality, dtypes.pop(), column))
        if not columns:
            return None
        size = self._sizes.at_least(len(items))
        tensors: list[Tensor] = []
        for modality, dtype, column in columns:
            tensors += _tensors(modality, dtype, column, None, size - len(items))
        parts = tuple(ModalityLayout(modality.name, (dtype,), 1) for modality, dtype, _ in columns)
        names = tuple(part.name for part in parts)
        return Collated(Layout(parts, True), tuple(tensors), size, [names] * len(items))

    def _sparse(self, items: Sequence[Features]) -> Collated | None:
        """The batch, whatever its items have."""
        size = self._sizes.at_least(len(items))
        flags = [0] * len(items)
        packed: list[_Packed] = []
        for index, modality in enumerate(self._modalities):
            groups = _group(modality.name, items, flags, 1 << index)
            if groups or self._sizes.fixed:
                packed.append(self._pack(modality, groups, size))
        if not any(flags):
            return None
        tensors = [tensor for modality in packed for tensor in modality.tensors]
        layout = Layout(tuple(modality.part for modality in packed), False)
        return Collated(layout, (*tensors, _positions(size, packed)), size, self._names_of(flags))

    def _pack(self, modality: _Modality, groups: dict[ElementType, _Group], size: int) -> _Packed:
        dtypes = tuple(sorted(groups))
        counts = {dtype: _counts(modality, groups[dtype].features) for dtype in dtypes}
        counts_N = np.concatenate([*counts.values(), np.empty(0, np.int64)])
        total = int(counts_N.sum())
        num_slots = modality.max_vectors if self._sizes.fixed else _slots(int(counts_N.max()), modality.max_vectors)
        num_rows = size * num_slots if self._sizes.fixed else self._sizes.at_least(total)
        tensors: list[Tensor] = []
        for dtype in dtypes:
            padding = num_rows - total if dtype == dtypes[-1] else 0
            tensors += _tensors(modality, dtype, groups[dtype].features, counts[dtype], padding)
        items = [item for dtype in dtypes for item in groups[dtype].items]
        item_of_vector = np.repeat(np.array(items, np.int64), counts_N)
        slot_of_vector = np.arange(total) - np.repeat(np.cumsum(counts_N) - counts_N, counts_N)
        part = ModalityLayout(modality.name, dtypes, num_slots)
        return _Packed(part, tensors, num_rows if dtypes else 0, item_of_vector, slot_of_vector)

    def _names_of(self, flags: list[int]) -> list[tuple[str, ...]]:
        """The modalities of each item. Bit i of a flag stands for the i-th modality of the space."""
        names = {
            flag: tuple(part.name for index, part in enumerate(self._modalities) if flag >> index & 1)
            for flag in set(flags)
        }
        return [names[flag] for flag in flags]


def _group(name: str, items: Sequence[Features], flags: list[int], flag: int) -> dict[ElementType, _Group]:
    """The features of one modality by element type. Sets `flag` for each item that has it."""
    groups: dict[ElementType, _Group] = {}
    for index, item in enumerate(items):
        feature = item.get(name)
        if feature is None:
            continue
        flags[index] |= flag
        group = groups.get(feature.dtype)
        if group is None:
            group = groups[feature.dtype] = _Group([], [])
        group.items.append(index)
        group.features.append(feature)
    return groups


def _counts(modality: _Modality, features: Sequence[FeatureLike]) -> Integers:
    """Vectors of each feature."""
    if {feature.shape for feature in features} == {(modality.dim,)}:
        return np.ones(len(features), np.int64)
    counts = [1 if len(feature.shape) == 1 else feature.shape[0] for feature in features]
    if not 1 <= min(counts) <= max(counts) <= modality.max_vectors:
        raise ValueError(
            f"features.{modality.name}: an item has {max(counts)} vectors of at most {modality.max_vectors}"
        )
    return np.array(counts, np.int64)


def _slots(most: int, limit: int) -> int:
    """Slots for items with up to `most` vectors: a power of two, to keep the number of layouts small."""
    return min(1 << (most - 1).bit_length(), limit)


def _tensors(
    modality: _Modality,
    dtype: ElementType,
    features: Sequence[FeatureLike],
    counts_N: Integers | None,
    padding: int,
) -> list[Tensor]:
    """The vectors of one group, flat, and for `i1` their scales. `counts_N` None: one vector each."""
    row_bytes = modality.dim * ELEMENT_BYTES[dtype]
    data = [feature.data for feature in features]
    if counts_N is None or len(counts_N) == counts_N.sum():
        fits = set(map(len, data)) == {row_bytes}
    else:
        fits = list(map(len, data)) == (counts_N * row_bytes).tolist()
    if not fits:
        raise ValueError(f"features.{modality.name}.data: not the bytes that shape and dtype {dtype} ask for")
    data.append(bytes(padding * row_bytes))
    vectors = torch.frombuffer(bytearray().join(data), dtype=TORCH_DTYPES[dtype])
    return [vectors, _scales(features, counts_N, padding)] if dtype == "i1" else [vectors]


def _scales(features: Sequence[FeatureLike], counts_N: Integers | None, padding: int) -> Tensor:
    scales_N = np.array([1.0 if feature.scale is None else feature.scale for feature in features], np.float32)
    if counts_N is not None:
        scales_N = np.repeat(scales_N, counts_N)
    return torch.from_numpy(np.concatenate([scales_N, np.zeros(padding, np.float32)]))


def _positions(size: int, packed: Sequence[_Packed]) -> Tensor:
    """int64 `[B, T]`: the vector, counted from 1 over all modalities, that fills each slot; 0 where none does."""
    positions_BT = np.zeros((size, sum(modality.part.num_slots for modality in packed)), np.int64)
    first_vector, first_slot = 1, 0
    for modality in packed:
        vectors_N = first_vector + np.arange(len(modality.item_of_vector))
        positions_BT[modality.item_of_vector, first_slot + modality.slot_of_vector] = vectors_N
        first_vector += modality.num_rows
        first_slot += modality.part.num_slots
    return torch.from_numpy(positions_BT)
