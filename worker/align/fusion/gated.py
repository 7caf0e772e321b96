"""A weighted mean of the tokens, with weights that are learned from what the tokens hold.

    B items   T tokens   W width of a token   G width of the gate

    z = Σ_t a_t h_t,   a = softmax_t(w · tanh(V h_t + c))

as attention pooling over a bag (Ilse et al. 2018). The weights say what took part, and how much.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from worker.align.fusion.slots import Slots, zero_masked
from worker.align.spec import GatedSpec, SpaceSpec


class Gated(nn.Module):
    """`fusion.kind = gated`."""

    def __init__(self, spec: GatedSpec, space: SpaceSpec) -> None:
        super().__init__()
        self.gate = nn.Linear(space.width, spec.hidden)
        self.score = nn.Linear(spec.hidden, 1, bias=False)

    def forward(self, tokens_BTW: Tensor, mask_BT: Tensor | None, slots: Sequence[Slots]) -> Tensor:
        tokens_BTW = zero_masked(tokens_BTW, mask_BT)
        scores_BT = self.score(torch.tanh(self.gate(tokens_BTW)))[:, :, 0]
        if mask_BT is not None:  # the lowest number, not -inf: a row without any token would become NaN
            scores_BT = scores_BT.masked_fill(~mask_BT, torch.finfo(scores_BT.dtype).min)
        weights_B1T = scores_BT.softmax(1)[:, None, :]
        return torch.bmm(weights_B1T, tokens_BTW)[:, 0]
