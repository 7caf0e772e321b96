"""Two dense layers over one slot for each modality of the space.

B items   T tokens   M modalities of the space   W width of a token   H hidden

slot_m = mean of the tokens of m, or the learned f_m where the item has none
z      = W_2 gelu(W_1 [slot_1 … slot_M ; b_1 … b_M] + c_1) + c_2,   b_m = 1 where the item has m
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from worker.align.fusion.slots import Slots, masked_mean, presence, zero_masked
from worker.align.spec import ConcatMlpSpec, SpaceSpec


class ConcatMlp(nn.Module):
    """`fusion.kind = concat_mlp`."""

    def __init__(self, spec: ConcatMlpSpec, space: SpaceSpec) -> None:
        super().__init__()
        self._num_modalities = len(space.modalities)
        self.filling = nn.Parameter(torch.zeros(self._num_modalities, space.width))
        self.inner = nn.Linear(self._num_modalities * (space.width + 1), spec.hidden)
        self.outer = nn.Linear(spec.hidden, space.width)

    def forward(self, tokens_BTW: Tensor, mask_BT: Tensor | None, slots: Sequence[Slots]) -> Tensor:
        tokens_BTW = zero_masked(tokens_BTW, mask_BT)
        absent_B1 = torch.zeros_like(tokens_BTW[:, 0, :1])
        columns = [self.filling[modality].expand(tokens_BTW.shape[0], -1) for modality in range(self._num_modalities)]
        flags = [absent_B1] * self._num_modalities
        for part in slots:
            present_B1 = presence(part, mask_BT, tokens_BTW)
            mean_BW = masked_mean(part.of(tokens_BTW), None if mask_BT is None else part.of(mask_BT))
            columns[part.modality] = torch.where(present_B1 > 0, mean_BW, columns[part.modality])
            flags[part.modality] = present_B1
        fused_BW: Tensor = self.outer(gelu(self.inner(torch.cat([*columns, *flags], 1))))
        return fused_BW
