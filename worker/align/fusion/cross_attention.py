"""One modality asks, the others answer.

    B items   T tokens   Q tokens that ask   W width of a token   H heads   E = W / H

    x = the tokens of the asking modality; for an item that lacks it, and where none is named, a learned query
    x += W_O attention(W_Q norm(x), over a learned null token and every token of the other modalities)
    x += feed_forward(norm x)
    z = mean of the x

The null token is there to be attended to: among the tokens of one modality with one vector the softmax would be 1
whatever it holds, and the attention no more than a linear map. Norms have no scale and shift, because the linear maps
that follow have both.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, pad, scaled_dot_product_attention

from worker.align.fusion.slots import Slots, masked_mean, zero_masked
from worker.align.spec import CrossAttentionSpec, SpaceSpec


class CrossAttention(nn.Module):
    """`fusion.kind = cross_attention`."""

    def __init__(self, spec: CrossAttentionSpec, space: SpaceSpec) -> None:
        super().__init__()
        width = space.width
        self._heads = spec.heads
        self._asking = None if spec.query is None else list(space.modalities).index(spec.query)
        self.asker = nn.Parameter(torch.zeros(width))
        self.null = nn.Parameter(torch.zeros(width))
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width)
        self.widen = nn.Linear(width, spec.hidden)
        self.narrow = nn.Linear(spec.hidden, width)

    def forward(self, tokens_BTW: Tensor, mask_BT: Tensor | None, slots: Sequence[Slots]) -> Tensor:
        tokens_BTW = zero_masked(tokens_BTW, mask_BT)
        asking = next((part for part in slots if part.modality == self._asking), None)
        rows_BQW, asked_BQ = self._asking_rows(tokens_BTW, mask_BT, asking)
        others = [part for part in slots if part is not asking]
        rows_BQW = rows_BQW + self.merge(self._attend(rows_BQW, tokens_BTW, mask_BT, others))
        rows_BQW = rows_BQW + self.narrow(gelu(self.widen(self._norm(rows_BQW))))
        return masked_mean(zero_masked(rows_BQW, asked_BQ), asked_BQ)

    def _asking_rows(
        self, tokens_BTW: Tensor, mask_BT: Tensor | None, asking: Slots | None
    ) -> tuple[Tensor, Tensor | None]:
        """Rows that ask, `[B, Q, W]`, and which of them there are: the learned one in place of those an item lacks."""
        if asking is None:
            return self.asker.expand(tokens_BTW.shape[0], 1, -1), None
        rows_BQW = asking.of(tokens_BTW)
        if mask_BT is None:
            return rows_BQW, None
        asked_BQ = asking.of(mask_BT)
        lacks_B1 = ~asked_BQ.any(1, keepdim=True)
        first_BQ = pad(lacks_B1, (0, asking.num - 1), value=False)
        return torch.where(first_BQ[:, :, None], self.asker, rows_BQW), asked_BQ | first_BQ

    def _attend(self, rows_BQW: Tensor, tokens_BTW: Tensor, mask_BT: Tensor | None, others: Sequence[Slots]) -> Tensor:
        null_B1W = self.null.expand(tokens_BTW.shape[0], 1, -1)
        answers_BSW = self._norm(torch.cat([null_B1W, *(part.of(tokens_BTW) for part in others)], 1))
        mask_B11S = None
        if mask_BT is not None:
            mask_BS = torch.cat([torch.ones_like(mask_BT[:, :1]), *(part.of(mask_BT) for part in others)], 1)
            mask_B11S = mask_BS[:, None, None, :]
        query, key, value = (
            projected.unflatten(2, (self._heads, -1)).transpose(1, 2)
            for projected in (self.query(self._norm(rows_BQW)), self.key(answers_BSW), self.value(answers_BSW))
        )
        mixed_BHQE = scaled_dot_product_attention(query, key, value, attn_mask=mask_B11S)
        return mixed_BHQE.transpose(1, 2).flatten(2)

    def _norm(self, rows: Tensor) -> Tensor:
        return layer_norm(rows, (rows.shape[-1],))
