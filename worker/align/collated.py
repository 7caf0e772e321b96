"""The tensors of a batch, and how they are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from worker.align.features import ElementType


class ModalityLayout(NamedTuple):
    """One modality of a layout."""

    name: str
    dtypes: tuple[ElementType, ...]
    """Element types that occur, each with its own tensors."""
    num_slots: int
    """Tokens that an item has room for."""


class Layout(NamedTuple):
    """The form of a computation. Batches of one layout differ only in their numbers of rows.

    The tensors, in order: for each part and each of its dtypes the vectors as they came, flat, in their own element
    type (half, single, bfloat16 or int8), and after `i1` the scale of each vector in float32; in a sparse layout last
    the positions, int64 `[B, T]`: which vector, counted from 1 over all parts, fills each slot of each item, 0 for
    none.
    """

    parts: tuple[ModalityLayout, ...]
    dense: bool
    """Every item has one vector of every part, in order: no positions, no mask."""


@dataclass(frozen=True, slots=True)
class Collated:
    """A batch ready for the model."""

    layout: Layout
    tensors: tuple[Tensor, ...]
    size: int
    """Rows that the model computes, B: the items and the padding after them."""
    modalities: list[tuple[str, ...]]
    """For each item, without padding, the modalities it has, in alphabetical order."""
