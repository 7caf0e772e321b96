"""The best items for a query, among all: nothing is approximated.

Q queries   I items   D dim of the space   K length of a list   C items looked at together   S those worth sorting
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from worker.align.scoring import scores

QUERIES_AT_ONCE = 64
ITEMS_AT_ONCE = 1 << 17


class Hit(NamedTuple):
    item: int
    """Row of the item."""
    score: float


def search(
    queries_QD: Tensor,
    vectors_ID: Tensor,
    count: int,
    *,
    priors_I: Tensor | None = None,
    among_I: Tensor | None = None,
    without: Sequence[Collection[int]] | None = None,
) -> list[list[Hit]]:
    """The `count` items with the highest scores for each query, best first; of equal scores the earlier item first.

    `among_I` marks the items that may be found; `without` names, for each query, items that it must not find. There
    are fewer hits where there are fewer items.
    """
    hits: list[list[Hit]] = []
    for start in range(0, len(queries_QD), QUERIES_AT_ONCE):
        some_QD = queries_QD[start : start + QUERIES_AT_ONCE]
        out_Q = without[start : start + QUERIES_AT_ONCE] if without is not None else [()] * len(some_QD)
        hits += _search(some_QD, vectors_ID, count, priors_I, among_I, out_Q)
    return hits


def _search(
    queries_QD: Tensor,
    vectors_ID: Tensor,
    count: int,
    priors_I: Tensor | None,
    among_I: Tensor | None,
    without: Sequence[Collection[int]],
) -> list[list[Hit]]:
    device = vectors_ID.device
    best_QK = torch.empty((len(queries_QD), 0), device=device)
    items_QK = torch.empty((len(queries_QD), 0), dtype=torch.int64, device=device)
    out_Q = [torch.tensor(sorted(items), dtype=torch.int64, device=device) for items in without]
    for start in range(0, len(vectors_ID), ITEMS_AT_ONCE):
        end = min(start + ITEMS_AT_ONCE, len(vectors_ID))
        scores_QC = scores(queries_QD, vectors_ID[start:end], None if priors_I is None else priors_I[start:end])
        if among_I is not None:
            scores_QC.masked_fill_(~among_I[start:end], -torch.inf)
        for row, out in enumerate(out_Q):
            scores_QC[row, out[(out >= start) & (out < end)] - start] = -torch.inf
        # Only what is among the best of some query is sorted, ties of the last of them included. Stable, with earlier
        # items to the left: the same list comes out however the items are divided.
        least_Q1 = scores_QC.topk(min(count, end - start), dim=1).values[:, -1:]
        kept_S = (scores_QC >= least_Q1).any(0).nonzero()[:, 0]
        both_QS = torch.cat([best_QK, scores_QC[:, kept_S]], 1)
        best_QK, order_QK = (each[:, :count] for each in both_QS.sort(dim=1, descending=True, stable=True))
        numbers_QS = (kept_S + start).expand(len(queries_QD), -1)
        items_QK = torch.cat([items_QK, numbers_QS], 1).gather(1, order_QK)
    return [
        [Hit(item, score) for item, score in zip(items, best, strict=True) if score != -torch.inf]
        for items, best in zip(items_QK.tolist(), best_QK.tolist(), strict=True)
    ]
