"""Self-attention over the tokens of one item and a learned summary token, whose row is the result.

    B items   T tokens   D width of a token   H heads   E = D / H
    C rows of the summary: 1 where it is the same for every item, else B

Pre-norm transformer layers (as in ItemSage, Baltescu et al. 2022). Only the summary's row of the last layer is read,
so only that row is computed. For one row the keys and values need not be formed either:

    q · (W_K n_t) = (W_Kᵀ q) · n_t              scores: one matrix-vector product with each token
    Σ_t a_t (W_V n_t) = W_V (Σ_t a_t n_t)       values: the tokens are averaged first, then mapped once

which is the same sum in another order and costs the same however many tokens there are. Norms have no scale and
shift, keys and values no bias: the linear maps that follow the norms have both, a bias of the keys adds the same to
every score of a row, and one of the values adds the same to every result, as the output map's bias does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, linear, pad, scaled_dot_product_attention

from worker.align.fusion.slots import Slots, zero_masked
from worker.align.spec import SelfAttentionSpec, SpaceSpec


class SelfAttention(nn.Module):
    """`fusion.kind = self_attention`."""

    def __init__(self, spec: SelfAttentionSpec, space: SpaceSpec) -> None:
        super().__init__()
        self.summary = nn.Parameter(torch.zeros(space.width))
        self._layers = [Layer(space.width, spec.heads, spec.hidden) for _ in range(spec.layers)]
        self.layers = nn.ModuleList(self._layers)

    def forward(self, tokens_BTD: Tensor, mask_BT: Tensor | None, slots: Sequence[Slots]) -> Tensor:
        summary_CD = self.summary[None]
        tokens_BTD = zero_masked(tokens_BTD, mask_BT)
        inner, last = self._layers[:-1], self._layers[-1]
        if inner:
            summary_CD, tokens_BTD = self._through(inner, tokens_BTD, mask_BT)
        return last.summary_row(summary_CD, tokens_BTD, mask_BT, shared=not inner)

    def _through(self, layers: list[Layer], tokens_BTD: Tensor, mask_BT: Tensor | None) -> tuple[Tensor, Tensor]:
        """Summary and tokens after layers that compute every row."""
        summary_B1D = self.summary.expand(tokens_BTD.shape[0], 1, -1)
        rows_BTD = torch.cat([summary_B1D, tokens_BTD], 1)
        if mask_BT is not None:
            mask_BT = pad(mask_BT, (1, 0), value=True)
        for layer in layers:
            rows_BTD = layer(rows_BTD, mask_BT)
        return rows_BTD[:, 0], rows_BTD[:, 1:]


class Layer(nn.Module):
    """One pre-norm transformer layer: attention, then feed-forward, each added to its input."""

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.dim, self.heads = dim, heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.merge = nn.Linear(dim, dim)
        self.widen = nn.Linear(dim, hidden)
        self.narrow = nn.Linear(hidden, dim)

    def forward(self, rows_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        """Every row attends to every row that the mask allows."""
        rows_BTD = rows_BTD + self.merge(self._attend(self._norm(rows_BTD), mask_BT))
        return rows_BTD + self._feed_forward(rows_BTD)

    def summary_row(self, summary_CD: Tensor, tokens_BTD: Tensor, mask_BT: Tensor | None, *, shared: bool) -> Tensor:
        """Row 0 of `forward(cat([summary, tokens]))`, and only that. `shared`: C is 1, else C is B."""
        own_CD, norm_BTD = self._norm(summary_CD), self._norm(tokens_BTD)
        keyed_CHD = self._keyed(own_CD)
        own_CH1 = keyed_CHD @ own_CD[:, :, None]
        scores_BHT = linear(norm_BTD, keyed_CHD[0]).transpose(1, 2) if shared else keyed_CHD @ norm_BTD.transpose(1, 2)
        if mask_BT is not None:
            scores_BHT = scores_BHT.masked_fill(~mask_BT[:, None, :], float("-inf"))
        own_BH1 = own_CH1.expand(tokens_BTD.shape[0], -1, -1)
        weights_BHT = torch.cat([own_BH1, scores_BHT], 2).softmax(2)
        pooled_BHD = torch.bmm(weights_BHT[:, :, 1:], norm_BTD)
        own_CHE = self.value(own_CD).unflatten(1, (self.heads, -1))
        mixed_BHE = self._valued(pooled_BHD) + weights_BHT[:, :, :1] * own_CHE
        row_BD: Tensor = summary_CD + self.merge(mixed_BHE.flatten(1))
        return row_BD + self._feed_forward(row_BD)

    def _keyed(self, norm_CD: Tensor) -> Tensor:
        """`[C, H, D]`: what a normalised token is multiplied with to give its scaled score, per head."""
        scaled_CHE = self.query(norm_CD).unflatten(1, (self.heads, -1)) * (self.dim // self.heads) ** -0.5
        key_HED = self.key.weight.view(self.heads, -1, self.dim)
        return torch.bmm(scaled_CHE.transpose(0, 1), key_HED).transpose(0, 1)

    def _valued(self, pooled_BHD: Tensor) -> Tensor:
        """`[B, H, E]`: the value map of each head, applied to what that head pooled."""
        value_HDE = self.value.weight.view(self.heads, -1, self.dim).transpose(1, 2)
        return torch.bmm(pooled_BHD.transpose(0, 1), value_HDE).transpose(0, 1)

    def _attend(self, norm_BTD: Tensor, mask_BT: Tensor | None) -> Tensor:
        query, key, value = (
            project(norm_BTD).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        mask_B11T = None if mask_BT is None else mask_BT[:, None, None, :]
        mixed_BHTE = scaled_dot_product_attention(query, key, value, attn_mask=mask_B11T)
        return mixed_BHTE.transpose(1, 2).flatten(2)

    def _norm(self, rows: Tensor) -> Tensor:
        return layer_norm(rows, (self.dim,))

    def _feed_forward(self, rows: Tensor) -> Tensor:
        changed: Tensor = self.narrow(gelu(self.widen(self._norm(rows))))
        return changed
