"""Which tokens of an item belong to which modality."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor


class Slots(NamedTuple):
    """Where the tokens of one modality lie. The same for every item of a batch."""

    modality: int
    """Its number in the space, counted from 0 in alphabetical order."""
    first: int
    num: int

    def of(self, tokens_BTW: Tensor) -> Tensor:
        """`[B, num, W]`, or of a mask `[B, num]`."""
        return tokens_BTW[:, self.first : self.first + self.num]


def consecutive(parts: Iterable[tuple[int, int]]) -> tuple[Slots, ...]:
    """Slots one after the other, from the modality and the number of each."""
    slots, first = [], 0
    for modality, num in parts:
        slots.append(Slots(modality, first, num))
        first += num
    return tuple(slots)


def masked_mean(tokens_BTW: Tensor, mask_BT: Tensor | None) -> Tensor:
    """`[B, W]`: the mean over the tokens that there are, and 0 where there is none. Masked tokens are 0 already."""
    if mask_BT is None:
        return tokens_BTW.mean(1)
    counts_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1)
    return tokens_BTW.sum(1) / counts_B1.to(tokens_BTW.dtype)


def zero_masked(tokens_BTW: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Clear masked tokens, whatever they hold, NaN included."""
    return tokens_BTW if mask_BT is None else tokens_BTW.masked_fill(~mask_BT[:, :, None], 0.0)


def presence(slots: Slots, mask_BT: Tensor | None, tokens_BTW: Tensor) -> Tensor:
    """`[B, 1]`, 1 where an item has the modality, in the dtype of the tokens."""
    if mask_BT is None:
        return torch.ones_like(tokens_BTW[:, 0, :1])
    return slots.of(mask_BT).any(1, keepdim=True).to(tokens_BTW.dtype)
