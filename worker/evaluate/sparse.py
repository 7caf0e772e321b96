"""Sparse matrices of counts, and the pairs of things that have something in common.

E entries, of a thing by a holder (an item by a user)   N pairs of neighbours
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.data.dataset import Floats, Ints

PAIRS_AT_ONCE = 8_000_000
"""Bounds the memory that pairs take before the best of them are known: about 64 bytes each."""
MOST_OF_HOLDER = 2_000
"""Entries of one holder that take part: of a holder of more, these are drawn evenly. Pairs grow with their square."""


def sparse_matrix(indices: Tensor, values: Tensor, shape: tuple[int, int]) -> Tensor:
    """The values at their indices, `[2, n]`; of several at one place the sum. Raises `RuntimeError` for one outside."""
    with warnings.catch_warnings():
        # torch 2.11 warns that checks are off unless asked for, those who ask for them included.
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled", UserWarning)
        return torch.sparse_coo_tensor(indices, values, shape, check_invariants=True)


@dataclass(frozen=True, slots=True)
class Nearest:
    """Items with their neighbours, item by item, the nearest first."""

    items_N: Ints
    others_N: Ints
    similarities_N: Floats


def nearest_in_common(
    users_E: Ints,
    items_E: Ints,
    weights_U: NDArray[np.floating],
    num_items: int,
    *,
    most: int,
    shrink: float,
    lengths_I: NDArray[np.floating] | None = None,
) -> Nearest:
    """Of each item the `most` others that it has users in common with and is nearest to, by shrunk cosine.

    Having users in common is worth the sum of their weights; the length of an item is the root of the number of its
    users, unless it is given. Looks only at pairs that have a user in common, some items
    at a time, so time and memory grow with the number of such pairs, and not with the square of that of items.
    """
    users_E, items_E = _thinned(users_E, items_E)
    by_user = np.argsort(users_E, kind="stable")
    items_by_user, users_sorted = items_E[by_user], users_E[by_user]
    num_users = len(weights_U)
    starts_U = np.searchsorted(users_sorted, np.arange(num_users + 1))
    by_item = np.argsort(items_E, kind="stable")
    items_sorted, users_by_item = items_E[by_item], users_E[by_item]
    count_U = np.diff(starts_U)
    length_I = np.sqrt(np.bincount(items_E, minlength=num_items)) if lengths_I is None else lengths_I
    cost_E = np.cumsum(count_U[users_by_item])  # pairs up to each entry, item by item
    pieces: list[tuple[Ints, Ints, Floats]] = []
    end_I = np.searchsorted(items_sorted, np.arange(num_items), side="right")
    cost_I = np.concatenate([[0], cost_E])[end_I]
    first = 0
    while first < num_items:
        before = cost_I[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(cost_I, before + PAIRS_AT_ONCE, side="right")))
        start, end = (end_I[first - 1] if first else 0), end_I[last - 1]
        users, items = users_by_item[start:end], items_sorted[start:end]
        pieces.append(_best_of(users, items, items_by_user, starts_U, weights_U, length_I, most, shrink))
        first = last
    columns = [np.concatenate(column) for column in zip(*pieces, strict=True)]
    return Nearest(columns[0], columns[1], columns[2].astype(np.float32))


def _best_of(
    users: Ints,
    items: Ints,
    items_by_user: Ints,
    starts_U: Ints,
    weights_U: NDArray[np.floating],
    length_I: NDArray[np.floating],
    most: int,
    shrink: float,
) -> tuple[Ints, Ints, Floats]:
    counts = starts_U[users + 1] - starts_U[users]
    total = int(counts.sum())
    offsets = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    others = items_by_user[np.repeat(starts_U[users], counts) + offsets]
    num_items = len(length_I)
    keys, place = np.unique(np.repeat(items, counts) * num_items + others, return_inverse=True)
    sums = np.bincount(place, np.repeat(weights_U[users], counts), minlength=len(keys))
    of, others = keys // num_items, keys % num_items
    similar = sums / (length_I[of] * length_I[others] + shrink)
    kept = of != others
    of, others, similar = of[kept], others[kept], similar[kept]
    order = np.lexsort((others, -similar, of))
    of, others, similar = of[order], others[order], similar[order]
    rank = np.arange(len(of)) - np.searchsorted(of, of)
    near = rank < most
    return of[near], others[near], similar[near].astype(np.float32)


def _thinned(users_E: Ints, items_E: Ints) -> tuple[Ints, Ints]:
    """The entries, of holders of too many a part that is spread evenly over them."""
    order = np.argsort(users_E, kind="stable")
    users, items = users_E[order], items_E[order]
    counts = np.bincount(users)
    rank = np.arange(len(users)) - np.searchsorted(users, users)
    of_each = counts[users]
    # Of n entries those where ⌊rank · most / n⌋ takes a new value: exactly `most` of them.
    step = rank * MOST_OF_HOLDER // of_each
    new = np.concatenate([[True], (users[1:] != users[:-1]) | (step[1:] != step[:-1])]) if len(users) else step > 0
    kept = (of_each <= MOST_OF_HOLDER) | new
    return users[kept], items[kept]
