"""The vector of a user, from the vectors of the items in the user's history.

    U users   N events of a history, in order of time   D dim of the space   R rows of a table of item vectors
    H heads   A width of a head

Both kinds are functions of the history and the table alone, and know no clock: a replay gives the same vectors.

    decayed sum   u = unit(Σ_i w_i 2^(-(T - t_i) / half_life_ms) 2^(-rank_i / half_life_events) v_i)
    attention     u = unit(W_o [Σ_i a_hi s_i v_i]_h),   a_h = softmax_i(q_h · tanh(K_h v_i) - softplus(λ_h) rank_i
                                                                        + log |w_i|)

w is the weight of the event's type and s its sign, t the event's time, T the newest of them, rank the number of newer
events. T cancels out of the direction, so a sum grows by its newest event without looking at the others again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, embedding_bag, softplus

from worker.align.spec import Attention, DecayedSum, UserSpec

SHORTEST = 1e-4
"""Length of a sum, relative to the sum of the lengths of its parts, below which they cancel out and the direction is
rounding noise."""
NO_ROW = -1
"""In place of a row: there is no event, or its item has no vector."""


class Histories(NamedTuple):
    """A batch of histories, each padded to the same N."""

    rows_UN: Tensor
    """int64: row of the item's vector in the table, or `NO_ROW`."""
    times_ms_UN: Tensor
    """int64: event times, rising along N; anything where there is no row."""
    weights_UN: Tensor
    """float32: weight of the event's type; anything where there is no row."""


class UserVectors(NamedTuple):
    vectors_UD: Tensor
    """float32, unit length; means nothing where not usable."""
    usable_U: Tensor
    """False for a user without any item vector, or whose events cancel out."""


class UserModel(nn.Module):
    """Pools histories. Has parameters only for `attention`."""

    def __init__(self, spec: UserSpec, dim: int) -> None:
        super().__init__()
        self.pool = AttentionPool(spec, dim) if isinstance(spec, Attention) else DecayedPool(spec)

    def forward(self, table_RD: Tensor, histories: Histories) -> UserVectors:
        """Vectors of the users. The table may be in any floating dtype; all arithmetic is float32."""
        rows_UN, times_ms_UN, weights_UN = histories
        mask_UN = rows_UN != NO_ROW
        pool = self._pooled_once if self.training else self._pooled
        pooled_UHD, signed_UHN = pool(table_RD, rows_UN.clamp(min=0), mask_UN, times_ms_UN, weights_UN)
        lengths_UH = torch.linalg.vector_norm(pooled_UHD, dim=2)
        usable_U = mask_UN.any(1) & (lengths_UH > SHORTEST * signed_UHN.abs().sum(2)).any(1)
        raw_UD = self.pool.output(pooled_UHD)
        return UserVectors(raw_UD / torch.linalg.vector_norm(raw_UD, dim=1, keepdim=True).clamp(min=1e-12), usable_U)

    def _pooled(
        self, table_RD: Tensor, rows_UN: Tensor, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sums `[U, H, D]`, and the weights `[U, H, N]` that they were made with."""
        vectors_UND = _blanked(table_RD.index_select(0, rows_UN.flatten()).float(), mask_UN)
        signed_UHN = self.pool.weights(self.pool.scores(vectors_UND), mask_UN, times_ms_UN, weights_UN)
        return torch.bmm(signed_UHN, vectors_UND), signed_UHN

    def _pooled_once(
        self, table_RD: Tensor, rows_UN: Tensor, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same in another order, for training: a small table that many events share is looked at once, not once
        per event, forwards and backwards."""
        scores_RH = self.pool.scores(table_RD)
        # Not `scores_RH[rows_UN]`: backwards, a GPU adds up the many events of one row one after the other.
        scores_UNH = None if scores_RH is None else embedding(rows_UN, scores_RH)
        signed_UHN = self.pool.weights(scores_UNH, mask_UN, times_ms_UN, weights_UN)
        pooled = [
            embedding_bag(rows_UN, table_RD, per_sample_weights=signed_UN, mode="sum")
            for signed_UN in signed_UHN.unbind(1)
        ]
        return torch.stack(pooled, 1), signed_UHN


def _blanked(vectors: Tensor, mask_UN: Tensor) -> Tensor:
    """Vectors of events, one after the other, as `[U, N, D]`, with zeros in place of those that the mask leaves out."""
    vectors_UND = vectors.view(*mask_UN.shape, -1)
    if vectors.device.type != "cpu":
        return vectors_UND.masked_fill(~mask_UN[:, :, None], 0.0)
    # On a CPU that takes longer than everything else here, however little there is to fill.
    vectors.index_fill_(0, (~mask_UN).flatten().nonzero()[:, 0], 0.0)
    return vectors_UND


class DecayedPool(nn.Module):
    """`user.kind = decayed_sum`."""

    def __init__(self, spec: DecayedSum) -> None:
        super().__init__()
        self._spec = spec

    def scores(self, vectors: Tensor) -> Tensor | None:
        """No part of the weight depends on the item's vector."""
        return None

    def weights(self, scores_UNH: Tensor | None, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor) -> Tensor:
        """`[U, 1, N]`"""
        newest_U1 = times_ms_UN.masked_fill(~mask_UN, torch.iinfo(torch.int64).min).amax(1, keepdim=True)
        ages_ms_UN = (newest_U1 - times_ms_UN).masked_fill(~mask_UN, 0)
        halvings_UN = ages_ms_UN.double() / self._spec.half_life_ms
        if self._spec.half_life_events is not None:
            halvings_UN = halvings_UN + _ranks(mask_UN) / self._spec.half_life_events
        decayed_UN = weights_UN * torch.exp2(-halvings_UN).float()
        return decayed_UN.masked_fill(~mask_UN, 0.0)[:, None]

    def output(self, pooled_U1D: Tensor) -> Tensor:
        return pooled_U1D[:, 0]


class AttentionPool(nn.Module):
    """`user.kind = attention`: learned queries over the events, each with a learned decay by rank."""

    def __init__(self, spec: Attention, dim: int) -> None:
        super().__init__()
        self._heads = spec.heads
        self.key = nn.Linear(dim, spec.heads * spec.hidden)
        self.query = nn.Parameter(torch.zeros(spec.heads, spec.hidden))
        self.decay = nn.Parameter(torch.zeros(spec.heads))
        self.merge = nn.Linear(spec.heads * dim, dim, bias=False)

    def scores(self, vectors: Tensor) -> Tensor | None:
        """The part of an item's weight that depends on its vector: vectors `[…, D]` to `[…, H]`."""
        keys: Tensor = torch.tanh(self.key(vectors))
        scores: Tensor = (keys.view(*vectors.shape[:-1], self._heads, -1) * self.query).sum(-1)
        return scores

    def weights(self, scores_UNH: Tensor | None, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor) -> Tensor:
        """`[U, H, N]`"""
        assert scores_UNH is not None
        faded_UNH = scores_UNH - softplus(self.decay) * _ranks(mask_UN).float()[:, :, None]
        scores_UHN = (faded_UNH + weights_UN.abs().log()[:, :, None]).transpose(1, 2)
        lowest = torch.finfo(scores_UHN.dtype).min  # not -inf: a row without any event would become NaN
        attention_UHN = scores_UHN.masked_fill(~mask_UN[:, None], lowest).softmax(2)
        return attention_UHN.mul(weights_UN.sign()[:, None]).masked_fill(~mask_UN[:, None], 0.0)

    def output(self, pooled_UHD: Tensor) -> Tensor:
        merged_UD: Tensor = self.merge(pooled_UHD.flatten(1))
        return merged_UD


def _ranks(mask_UN: Tensor) -> Tensor:
    """Number of newer events that have a vector."""
    return mask_UN.flip(1).cumsum(1).flip(1) - mask_UN.long()
