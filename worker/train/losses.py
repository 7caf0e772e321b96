"""What is made small.

    Q questions   C candidates   D dim of the space   P items that have both modalities of a pair
    L items that lack a modality

    next item    -log softmax_c(τ (u · v_c + prior_c) - log q_c) of the item that came next
    agreement    mean over pairs of modalities of ½ (CE(τ_a A Bᵀ, I) + CE(τ_a B Aᵀ, I))
    consistency  mean over items that lack a modality of 1 - cos(v, v'), v' of the same item with all it has

τ and τ_a are learned. q_c is how often candidate c is expected among the candidates, so that a sample ranks as the
whole catalogue would (logQ correction, Yi et al. 2019); it is left out where all items are candidates. The agreement is
that of CLIP (Radford et al. 2021), over the vectors of each modality alone. v' is made by the running mean of the
parameters, which is a better teacher than the parameters of the moment (Tarvainen and Valpola 2017), and is not changed
by it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity, cross_entropy

MAX_SHARPNESS = 100.0  # CLIP's bound: beyond it a few pairs decide everything


class LogitScale(nn.Module):
    """The learned factors before the softmaxes."""

    def __init__(self, next_item: float = 10.0, agreement: float = 1 / 0.07) -> None:
        super().__init__()
        self.log_next_item = nn.Parameter(torch.tensor(math.log(next_item)))
        self.log_agreement = nn.Parameter(torch.tensor(math.log(agreement)))

    @property
    def next_item(self) -> Tensor:
        """τ."""
        return self.log_next_item.exp().clamp(max=MAX_SHARPNESS)

    @property
    def agreement(self) -> Tensor:
        """τ_a."""
        return self.log_agreement.exp().clamp(max=MAX_SHARPNESS)


def asked_as_new(is_new_C: Tensor, target_Q: Tensor) -> tuple[Tensor, Tensor]:
    """Which questions are about an item that passes for new, `[Q, 1]`, and which candidates are out of these, `[Q, C]`.

    New items are ranked among themselves and by their vectors alone: nothing is known yet of how popular they are, and
    beside known items they would not be seen. Without such questions the vectors of known items improve at the cost of
    what content says of new ones.
    """
    asks_new_Q1 = is_new_C[target_Q, None]
    return asks_new_Q1, asks_new_Q1 & ~is_new_C


def next_item_loss(logits_QC: Tensor, out_QC: Tensor, target_Q: Tensor, log_expected_C: Tensor | None) -> Tensor:
    """`out_QC` marks candidates that are not ranked: those that the user knows, which are not recommended again, and
    those that are not asked about. `logits_QC` is overwritten: its size is what a step takes its time for."""
    if log_expected_C is not None:
        logits_QC -= log_expected_C
    return cross_entropy(logits_QC.masked_fill_(out_QC, -torch.inf), target_Q)


def agreement_loss(pairs: Iterable[tuple[Tensor, Tensor]], sharpness: Tensor) -> Tensor:
    """Of the unit vectors `[P, D]` of two modalities of the same items, for each pair. 0 where there is no pair."""
    losses = []
    for these_PD, those_PD in pairs:
        logits_PP = sharpness * these_PD @ those_PD.T
        target_P = torch.arange(len(logits_PP), device=logits_PP.device)
        losses.append((cross_entropy(logits_PP, target_P) + cross_entropy(logits_PP.T, target_P)) / 2)
    return torch.stack(losses).mean() if losses else sharpness.new_zeros(())


def consistency_loss(partial_LD: Tensor, whole_LD: Tensor) -> Tensor:
    """Of items that lack something, and the same items whole; at least one."""
    return (1 - cosine_similarity(partial_LD, whole_LD)).mean()
