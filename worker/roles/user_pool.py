"""Micro-batches of users to vectors: histories to rows of the item table, and through the user model.

U users, N events of a history, D dim of the space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from worker.align.device import device_failures
from worker.align.padding import PaddedSizes, rising_sizes
from worker.align.result import pack_rows
from worker.align.users import NO_ROW, Histories, UserModel
from worker.item_vectors.table import ItemTable
from worker.records import Change, Recompute, User
from worker.stages.fuse import NO_VECTOR, Result, Vector
from worker.state.users import UserState

_UNUSED = float("nan")
"""In place of a weight, until it is seen where there are any."""


class UserPool:
    """The user model as the fuse stage of the users role sees it."""

    def __init__(
        self,
        model: UserModel,
        table: ItemTable,
        event_weights: Mapping[str, float],
        last: int,
        sizes: PaddedSizes,
        vector_dtype: Literal["f2", "f4"],
        device: str,
    ) -> None:
        """`last` is the longest history. With a single padded size every batch has the shape `[size, last]`, and so
        the same bits whatever else is in it."""
        self._model = model
        self._table = table
        self._weights = event_weights
        self._sizes = sizes
        self._lengths = PaddedSizes((last,)) if sizes.fixed else rising_sizes(last)
        self._dtype = vector_dtype
        self._device = device

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        states = [entry.state for entry in entries if isinstance(entry, User | Recompute)]
        return self.pooled(states)  # type: ignore[arg-type]  # what this half remembers are users

    def pooled(self, states: Sequence[UserState]) -> list[Result]:
        """One result per user, in order."""
        with device_failures(), torch.inference_mode(), self._table.reading() as table_RD:
            rows_UN, times_ms_UN, weights_UN = self._histories(states)
            histories = [torch.from_numpy(each).to(self._device) for each in (rows_UN, times_ms_UN, weights_UN)]
            made = self._model(table_RD, Histories(*histories))
            vectors_UD, usable_U = made.vectors_UD.cpu().numpy()[: len(states)], made.usable_U.tolist()
        finite_U = np.isfinite(vectors_UD).all(1).tolist()
        counts_U = (rows_UN != NO_ROW).sum(1).tolist()
        rows = pack_rows(vectors_UD, self._dtype)
        return [
            None if not finite else Vector(row, num_events=count) if usable else NO_VECTOR
            for usable, finite, count, row in zip(usable_U, finite_U, counts_U, rows, strict=False)
        ]

    def padded_size(self, num_entries: int) -> int:
        return self._sizes.at_least(num_entries)

    def probe(self) -> None:
        """Pool a user without events. Raises what the model raises."""
        self.pooled([UserState(0, [])])

    def _histories(
        self, states: Sequence[UserState]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        shape = (
            self._sizes.at_least(len(states)),
            self._lengths.at_least(max((len(state.events) for state in states), default=1)),
        )
        rows_UN = np.full(shape, NO_ROW, np.int64)
        times_ms_UN = np.zeros(shape, np.int64)
        weights_UN = np.ones(shape, np.float32)
        counts_U = np.zeros(shape[0], np.int64)
        counts_U[: len(states)] = [len(state.events) for state in states]
        if counts_U.any():
            # Row by row as the events come: one assignment for all users costs what one for each of a few would.
            filled_UN = np.arange(shape[1]) < counts_U[:, None]
            times, _, items, types = zip(*chain.from_iterable([state.events for state in states]), strict=True)
            times_ms_UN[filled_UN] = times
            rows_UN[filled_UN] = self._table.row_of_each(items)
            weights_UN[filled_UN] = [self._weights.get(each, _UNUSED) for each in types]
            # An event of a type that the space has ceased to use counts as if it had never been.
            unused_UN = np.isnan(weights_UN)
            if unused_UN.any():
                rows_UN[unused_UN], weights_UN[unused_UN] = NO_ROW, 1.0
        return rows_UN, times_ms_UN, weights_UN
