"""The vector of a user, from the vectors of the items in the user's history.

    U users   N events of a history, in order of time   D dim of the space   R rows of a table of item vectors
    A width of the attention

Both kinds are functions of the history and the table alone, and know no clock: a replay gives the same vectors.

    decayed sum   u = unit(Σ_i w_i 2^(-(T - t_i) / half_life_ms) 2^(-rank_i / half_life_events) v_i)
    attention     u = unit(W_o Σ_i a_i s_i v_i),   a = softmax_i(q · tanh(K v_i) - softplus(λ) rank_i + log |w_i|)

w is the weight of the event's type and s its sign, t the event's time, T the newest of them, rank the number of newer
events. T cancels out of the direction, so a sum grows by its newest event without looking at the others again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

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
        vectors_UND = table_RD[rows_UN.clamp(min=0)].float().masked_fill(~mask_UN[:, :, None], 0.0)
        signed_UN = self.pool.weights(vectors_UND, mask_UN, times_ms_UN, weights_UN)
        pooled_UD = torch.bmm(signed_UN[:, None, :], vectors_UND)[:, 0]
        lengths_U = torch.linalg.vector_norm(pooled_UD, dim=1)
        usable_U = mask_UN.any(1) & (lengths_U > SHORTEST * signed_UN.abs().sum(1))
        raw_UD = self.pool.output(pooled_UD)
        return UserVectors(raw_UD / torch.linalg.vector_norm(raw_UD, dim=1, keepdim=True).clamp(min=1e-12), usable_U)


class DecayedPool(nn.Module):
    """`user.kind = decayed_sum`."""

    def __init__(self, spec: DecayedSum) -> None:
        super().__init__()
        self._spec = spec

    def weights(self, vectors_UND: Tensor, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor) -> Tensor:
        newest_U1 = times_ms_UN.masked_fill(~mask_UN, torch.iinfo(torch.int64).min).amax(1, keepdim=True)
        ages_ms_UN = (newest_U1 - times_ms_UN).masked_fill(~mask_UN, 0)
        halvings_UN = ages_ms_UN.double() / self._spec.half_life_ms
        if self._spec.half_life_events is not None:
            halvings_UN = halvings_UN + _ranks(mask_UN) / self._spec.half_life_events
        decayed_UN = weights_UN * torch.exp2(-halvings_UN).float()
        return decayed_UN.masked_fill(~mask_UN, 0.0)

    def output(self, pooled_UD: Tensor) -> Tensor:
        return pooled_UD


class AttentionPool(nn.Module):
    """`user.kind = attention`: a learned query over the events, with a learned decay by rank."""

    def __init__(self, spec: Attention, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, spec.hidden)
        self.query = nn.Parameter(torch.zeros(spec.hidden))
        self.decay = nn.Parameter(torch.zeros(()))
        self.merge = nn.Linear(dim, dim, bias=False)

    def weights(self, vectors_UND: Tensor, mask_UN: Tensor, times_ms_UN: Tensor, weights_UN: Tensor) -> Tensor:
        scores_UN = torch.tanh(self.key(vectors_UND)) @ self.query
        scores_UN = scores_UN - softplus(self.decay) * _ranks(mask_UN).float() + weights_UN.abs().log()
        lowest = torch.finfo(scores_UN.dtype).min  # not -inf: a row without any event would become NaN
        attention_UN = scores_UN.masked_fill(~mask_UN, lowest).softmax(1)
        return (attention_UN * weights_UN.sign()).masked_fill(~mask_UN, 0.0)

    def output(self, pooled_UD: Tensor) -> Tensor:
        merged_UD: Tensor = self.merge(pooled_UD)
        return merged_UD


def _ranks(mask_UN: Tensor) -> Tensor:
    """Number of newer events that have a vector."""
    return mask_UN.flip(1).cumsum(1).flip(1) - mask_UN.long()
