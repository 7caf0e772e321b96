"""The vectors of all items, as rows of one tensor on the device, so that users are pooled, and neighbours attended to,
by gathering rows.

R rows, D dim of the space. The table grows by doubling; a row that is given up is used again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.align.users import NO_ROW
from worker.item_vectors.order import NO_REVISION, Version, is_newer

TableDtype = Literal["float16", "bfloat16", "float32"]
DTYPES: Mapping[TableDtype, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
}
_FIRST_ROWS = 1_024
NUM_ASTRAY = 100


class ItemUpdate(NamedTuple):
    """An update of an item, from one record of the item vectors."""

    item_id: str
    source_offset: int | None
    """Offset of the item message it was made of; None where another writer made it."""
    vector: NDArray[np.float32] | None
    """[D]; None: the item is gone."""
    partition: int = 0
    revision: int = NO_REVISION
    made_at_ms: int = 0
    """These as in `Version`."""


class _Known(NamedTuple):
    row: int
    """`NO_ROW`: the item is gone."""
    source_offset: int | None
    partition: int
    revision: int
    made_at_ms: int


class Astray(NamedTuple):
    """A key that has come in two partitions."""

    item_id: str
    partition: int
    """Partition in which it had come before,"""
    other: int
    """and where it has come now."""


class ItemTable:
    """Written by the thread that follows the item vectors, read by the compute thread. Ids are looked up anywhere."""

    def __init__(self, dim: int, dtype: TableDtype, device: str) -> None:
        self._table_RD = torch.zeros((_FIRST_ROWS, dim), dtype=DTYPES[dtype], device=device)
        self._known: dict[str, _Known] = {}
        self._free: list[int] = []
        self._num_used = 0
        self._lock = threading.Lock()
        self.num_items = 0
        self.num_astray = 0
        """Updates of an item from another partition than the one before."""
        self.astray: deque[Astray] = deque(maxlen=NUM_ASTRAY)
        """The newest of them."""

    def __contains__(self, item_id: object) -> bool:
        known = self._known.get(item_id)  # type: ignore[call-overload]
        return known is not None and known.row != NO_ROW

    def row(self, item_id: str) -> int:
        """The row of an item, or `NO_ROW`. Good while `reading`."""
        return self.row_of_each([item_id])[0]

    def row_of_each(self, item_ids: Iterable[str]) -> list[int]:
        """The row of each item, or `NO_ROW`. Good while `reading`."""
        return [NO_ROW if known is None else known.row for known in map(self._known.get, item_ids)]

    def without_row(self, item_ids: Iterable[str]) -> list[str]:
        """Those among the items that have none."""
        get = self._known.get
        return [item_id for item_id in item_ids if (known := get(item_id)) is None or known.row == NO_ROW]

    def rows(self, item_ids: Iterable[str]) -> list[int]:
        """The rows of those that have one. Good while `reading`."""
        get = self._known.get
        return [known.row for item_id in item_ids if (known := get(item_id)) is not None and known.row != NO_ROW]

    def source_offset(self, item_id: str) -> int | None:
        """Offset of the item message that the row was made of; None where there is no row."""
        known = self._known.get(item_id)
        return None if known is None or known.row == NO_ROW else known.source_offset

    @contextmanager
    def reading(self) -> Iterator[Tensor]:
        """The table [R, D]; rows keep their meaning until the end of the block."""
        with self._lock:
            yield self._table_RD

    def apply(self, updates: Sequence[ItemUpdate]) -> tuple[list[str], list[str]]:
        """Take updates over, in the order of the log; returns the items that are new, and those that have changed or
        gone.

        What comes after something newer of the same item is passed over.
        """
        rows: dict[int, NDArray[np.float32]] = {}
        new: dict[str, None] = {}
        changed: dict[str, None] = {}
        with self._lock:
            for update in updates:
                known = self._known.get(update.item_id)
                version = Version(update.source_offset, update.partition, update.revision, update.made_at_ms)
                if known is not None:
                    if update.partition != known.partition:
                        self.num_astray += 1
                        self.astray.append(Astray(update.item_id, known.partition, update.partition))
                    elif update.source_offset is None:
                        version = version._replace(source_offset=known.source_offset)
                    if not is_newer(version, Version(*known[1:])):
                        continue
                row = NO_ROW if known is None else known.row
                if update.vector is None:
                    if row != NO_ROW:
                        self._free.append(row)
                        rows.pop(row, None)
                        self.num_items -= 1
                        if update.item_id not in new:
                            changed[update.item_id] = None
                    new.pop(update.item_id, None)
                    row = NO_ROW
                else:
                    if row == NO_ROW:
                        row = self._new_row()
                        self.num_items += 1
                        new[update.item_id] = None
                    elif update.item_id not in new:
                        changed[update.item_id] = None
                    rows[row] = update.vector
                self._known[update.item_id] = _Known(row, *version)
            if rows:
                self._write(rows)
        return list(new), list(changed)

    def num_bytes(self) -> int:
        """Size of the tensor on the device."""
        return self._table_RD.numel() * self._table_RD.element_size()

    def _new_row(self) -> int:
        if self._free:
            return self._free.pop()
        self._num_used += 1
        return self._num_used - 1

    def _write(self, rows: Mapping[int, NDArray[np.float32]]) -> None:
        table_RD = self._table_RD
        if self._num_used > len(table_RD):
            num_rows = len(table_RD)
            while num_rows < self._num_used:
                num_rows *= 2
            grown_RD = torch.zeros((num_rows, table_RD.shape[1]), dtype=table_RD.dtype, device=table_RD.device)
            grown_RD[: len(table_RD)] = table_RD
            self._table_RD = table_RD = grown_RD
        index_B = torch.tensor(list(rows), device=table_RD.device)
        values_BD = torch.from_numpy(np.stack(list(rows.values())))
        table_RD.index_copy_(0, index_B, values_BD.to(table_RD.device, table_RD.dtype))
