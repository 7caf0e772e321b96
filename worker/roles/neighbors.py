"""Graph fusion as it is served: items attend to their neighbours in the table of vectors before this step.

B items, N neighbours of an item, R rows of the table, D dim of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import embedding

from worker.align import Space
from worker.align.device import device_failures
from worker.align.model import NeighborAttention
from worker.align.padding import PaddedSizes, rising_sizes
from worker.align.users import NO_ROW
from worker.align.weights import build_model
from worker.item_vectors.table import ItemTable


class Moved(NamedTuple):
    vectors_BD: NDArray[np.float32]
    is_moved_B: NDArray[np.bool_]
    """Whether the item has a neighbour with a vector; otherwise its vector is the one it came with."""


class NeighborFusion:
    """Used by the compute thread, which shares the table with the one that follows the item vectors."""

    def __init__(self, space: Space, table: ItemTable, sizes: PaddedSizes, device: str) -> None:
        """With a single padded size every batch has the same shape, and an item so the same bits whatever else is in
        it."""
        graph = build_model(space.spec, space.weights, device=device).graph
        assert space.spec.graph is not None
        assert isinstance(graph, NeighborAttention)
        self._graph = graph
        self._table = table
        self._sizes = sizes
        self._most = space.spec.graph.max_neighbors
        self._widths = PaddedSizes((self._most,)) if sizes.fixed else rising_sizes(self._most)
        self._device = device

    def __call__(self, vectors_BD: NDArray[np.float32], neighbors: Sequence[Sequence[str]]) -> Moved:
        """The vectors after graph fusion. `neighbors` names those of each item, as its messages do; the first
        `max_neighbors` that have a vector take part."""
        count = len(vectors_BD)
        padded_BD = np.zeros((self._sizes.at_least(count), vectors_BD.shape[1]), np.float32)
        padded_BD[:count] = vectors_BD
        with device_failures(), torch.inference_mode(), self._table.reading() as table_RD:
            rows_BN = torch.from_numpy(self._rows(neighbors, len(padded_BD))).to(table_RD.device)
            neighbors_BND = embedding(rows_BN.clamp(min=0), table_RD)  # copies rows, where indexing copies elements
            moved_BD = self._graph(torch.from_numpy(padded_BD).to(self._device), neighbors_BND, rows_BN != NO_ROW)
            return Moved(moved_BD.cpu().numpy()[:count], (rows_BN != NO_ROW).any(1).cpu().numpy()[:count])

    def _rows(self, neighbors: Sequence[Sequence[str]], num_rows: int) -> NDArray[np.int64]:
        """[B, N]: of the neighbours of each item the first that have a row; then `NO_ROW`."""
        known = [self._table.rows(names)[: self._most] for names in neighbors]
        rows_BN = np.full((num_rows, self._widths.at_least(max(map(len, known), default=1))), NO_ROW, np.int64)
        for item, rows in enumerate(known):
            rows_BN[item, : len(rows)] = rows
        return rows_BN
