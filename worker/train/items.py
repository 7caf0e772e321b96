"""The features of a catalogue on a device, and batches of them in the form that the model takes.

I items   B items of a batch   M modalities of the space   N vectors of one modality   K elements of such a vector
T slots for tokens   R items of a table, rising   G neighbours of an item
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from worker.align.collated import Layout, ModalityLayout
from worker.align.model import AlignModel
from worker.align.spec import SpaceSpec
from worker.align.users import NO_ROW
from worker.data.dataset import Features

Inputs = tuple[Layout, tuple[Tensor, ...]]
"""What `AlignModel.tokens` takes."""


class CatalogueItems:
    """Items by number. What a worker would read from messages, without reading them again at every step."""

    def __init__(self, spec: SpaceSpec, features: Mapping[str, Features], num_items: int, device: str = "cpu") -> None:
        self.names = tuple(spec.modalities)
        self.device = device
        self._vectors = {}
        self._starts = {}
        self._num_slots = {}
        present = []
        for name in self.names:
            each = features.get(name)
            counts_I = torch.zeros(num_items, dtype=torch.int64) if each is None else torch.from_numpy(each.counts_I)
            present.append(counts_I > 0)
            if each is None:
                continue
            self._vectors[name] = torch.from_numpy(each.vectors_NK).to(device)
            self._starts[name] = torch.from_numpy(each.starts).to(device)
            self._num_slots[name] = int(counts_I.max())
        self.present_IM = torch.stack(present, 1).to(device)
        self.usable_I = self.present_IM.any(1)
        """Whether there can be a vector."""

    def inputs(self, items_B: Tensor, present_BM: Tensor) -> Inputs:
        """The items with those of their modalities that are marked. At least one item must have one."""
        parts, tensors, positions = [], [], []
        first_vector = 1
        for column, name in enumerate(self.names):
            rows_B = present_BM[:, column].nonzero()[:, 0]
            if not len(rows_B):
                continue
            starts = self._starts[name]
            first_B = starts[items_B[rows_B]]
            counts_B = starts[items_B[rows_B] + 1] - first_B
            num_slots = self._num_slots[name]
            row_N, slot_N = rows_B, torch.zeros_like(rows_B)
            if num_slots > 1:
                row_N = rows_B.repeat_interleave(counts_B)
                slot_N = _count_up(counts_B)
                first_B = first_B.repeat_interleave(counts_B)
            positions_BS = torch.zeros(len(items_B), num_slots, dtype=torch.int64, device=self.device)
            positions_BS[row_N, slot_N] = torch.arange(first_vector, first_vector + len(row_N), device=self.device)
            first_vector += len(row_N)
            parts.append(ModalityLayout(name, ("f4",), num_slots))
            tensors.append(self._vectors[name][first_B + slot_N].view(-1))
            positions.append(positions_BS)
        return Layout(tuple(parts), False), (*tensors, torch.cat(positions, 1))

    def mean_vectors(self, name: str) -> Tensor:
        """`[I, K]`: the mean of each item's vectors of one modality; zeros where it lacks it."""
        vectors_NK, starts = self._vectors[name], self._starts[name]
        counts_I = starts.diff()
        sums_IK = vectors_NK.new_zeros(len(counts_I), vectors_NK.shape[1])
        items_N = torch.arange(len(counts_I), device=self.device).repeat_interleave(counts_I)
        return sums_IK.index_add(0, items_N, vectors_NK) / counts_I.clamp(min=1)[:, None]


def dropped(present_BM: Tensor, chances_M: Tensor, generator: torch.Generator) -> Tensor:
    """Marks with some taken away, each with the chance of its modality, but never the last one of an item."""
    draws_BM = torch.rand(present_BM.shape, generator=generator).to(present_BM.device)
    kept_BM = present_BM & (draws_BM >= chances_M)
    luckiest_B1 = (draws_BM - chances_M).masked_fill(~present_BM, -2.0).argmax(1, keepdim=True)
    rescued_BM = torch.zeros_like(present_BM).scatter(1, luckiest_B1, True) & present_BM
    return torch.where(kept_BM.any(1, keepdim=True), kept_BM, rescued_BM)


def among_neighbors(model: AlignModel, vectors_RD: Tensor, table_R: Tensor, neighbors_IG: Tensor) -> Tensor:
    """The vectors of a table after graph fusion. Neighbours that are not in the table do not count."""
    items_RG = neighbors_IG[table_R]
    rows_RG = torch.where(items_RG >= 0, index_of(table_R, items_RG.clamp(min=0)), NO_ROW)
    moved_RD: Tensor = model.graph(vectors_RD, vectors_RD[rows_RG.clamp(min=0)], rows_RG != NO_ROW)
    return moved_RD


def index_of(rising: Tensor, values: Tensor) -> Tensor:
    """Where each value is in a rising list; -1 where it is not."""
    found = torch.searchsorted(rising, values).clamp(max=len(rising) - 1)
    return torch.where(rising[found] == values, found, -1)


def _count_up(counts_B: Tensor) -> Tensor:
    """0 … counts[0] - 1, 0 … counts[1] - 1, and so on."""
    ends_B = counts_B.cumsum(0)
    total = int(ends_B[-1]) if len(ends_B) else 0
    return torch.arange(total, device=counts_B.device) - (ends_B - counts_B).repeat_interleave(counts_B)
