"""Vectors of all items, made before and read again: what histories are made of where the catalogue is large.

    I items   D dim of the space   G neighbours of an item

Most items of a step are there for the histories alone. To make their vectors anew in every step takes most of a step's
time, and changes them little from one step to the next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worker.align.model import AlignModel
from worker.align.users import NO_ROW
from worker.train.items import CatalogueItems

ITEMS_AT_ONCE = 4_096


class Vectors:
    """What a model makes of the items with the modalities that are marked; zeros for one without any."""

    def __init__(
        self, model: AlignModel, items: CatalogueItems, present_IM: Tensor, neighbors_IG: Tensor | None, dim: int
    ) -> None:
        self._items, self._present_IM, self._neighbors_IG = items, present_IM, neighbors_IG
        self.usable_I = present_IM.any(1)
        self._usable = self.usable_I.nonzero()[:, 0]
        self._next = 0
        self.plain_ID = torch.zeros(len(present_IM), dim, device=present_IM.device)
        """Before graph fusion."""
        self.priors_I = torch.zeros(len(present_IM), device=present_IM.device)
        for some in torch.split(self._usable, ITEMS_AT_ONCE):
            self._make(model, some)
        self.vectors_ID = self.plain_ID if neighbors_IG is None else self.plain_ID.clone()
        if neighbors_IG is not None:
            for some in torch.split(self._usable, ITEMS_AT_ONCE):
                self._move(model, some)

    def refresh(self, model: AlignModel, count: int) -> None:
        """Make so many of them anew, those whose turn it is."""
        count = min(count, len(self._usable))
        places = torch.arange(self._next, self._next + count, device=self._usable.device) % len(self._usable)
        self._next = (self._next + count) % len(self._usable)
        for some in torch.split(self._usable[places], ITEMS_AT_ONCE):
            self._make(model, some)
            if self._neighbors_IG is not None:
                self._move(model, some)

    @torch.no_grad()
    def _make(self, model: AlignModel, some: Tensor) -> None:
        outputs = model(*self._items.inputs(some, self._present_IM[some]))
        self.plain_ID[some], self.priors_I[some] = outputs.vectors_BD, outputs.priors_B

    @torch.no_grad()
    def _move(self, model: AlignModel, some: Tensor) -> None:
        self.vectors_ID[some] = self.among_neighbors(model, self.plain_ID[some], some)

    def among_neighbors(self, model: AlignModel, vectors_BD: Tensor, items_B: Tensor) -> Tensor:
        """Vectors of these items after graph fusion with what is remembered of their neighbours."""
        assert self._neighbors_IG is not None
        others_BG = self._neighbors_IG[items_B]
        others_BG = others_BG.masked_fill(~self.usable_I[others_BG.clamp(min=0)], NO_ROW)
        moved_BD: Tensor = model.graph(vectors_BD, self.plain_ID[others_BG.clamp(min=0)], others_BG != NO_ROW)
        return moved_BD
