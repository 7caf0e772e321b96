"""Who an item's neighbours are: those liked by the same users; of an item that nobody knows, those of like content.

I items   E events   K elements of a content vector
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch.nn.functional import normalize

from worker.data.dataset import Bools, Features, Interactions, Ints
from worker.evaluate.sparse import nearest_in_common

SHRINK = 10.0  # average events in the denominator of a cosine: few events in common prove little
ITEMS_AT_ONCE = 512
MOST_AMONG = 50_000
"""Known items among which those of like content are looked for."""

Neighbors = Sequence[tuple[int, ...]]


def neighbors_of(
    events: Interactions, num_users: int, features: Mapping[str, Features], known_I: Bools, most: int
) -> Neighbors:
    """At most `most` for each item, nearest first. All of them are items with events, marked in `known_I`."""
    found = _by_events(events, num_users, len(known_I), most)
    lonely = np.array([item for item, each in enumerate(found) if not each], np.int64)
    if len(lonely) and known_I.any():
        by_content = _by_content(features, lonely, _most_liked(events, known_I), most)
        for item, each in zip(lonely.tolist(), by_content, strict=True):
            found[item] = each
    return found


def _by_events(events: Interactions, num_users: int, num_items: int, most: int) -> list[tuple[int, ...]]:
    """By shrunk cosine of who liked them; empty for an item without events.

    An event counts for one over the number of its user's: who likes everything says of no two items that they are
    alike, and would otherwise decide, as pairs grow by the square of the events.
    """
    if not len(events):
        return [()] * num_items
    worth_U = 1 / np.maximum(np.bincount(events.users_E, minlength=num_users), 1)
    worth_E = worth_U[events.users_E]
    nearest = nearest_in_common(
        events.users_E,
        events.items_E,
        worth_U,
        num_items,
        most=most,
        shrink=SHRINK * float(worth_E.mean()),
        lengths_I=np.sqrt(np.bincount(events.items_E, worth_E, minlength=num_items)),
    )
    ends_I = np.searchsorted(nearest.items_N, np.arange(num_items), side="right").tolist()
    others = nearest.others_N.tolist()
    return [tuple(others[start:end]) for start, end in pairwise([0, *ends_I])]


def _most_liked(events: Interactions, known_I: Bools) -> Ints:
    """The known items, of very many those with the most events."""
    known = np.flatnonzero(known_I)
    if len(known) <= MOST_AMONG:
        return known
    count_I = np.bincount(events.items_E, minlength=len(known_I))
    most_liked: Ints = np.sort(known[np.argsort(-count_I[known], kind="stable")[:MOST_AMONG]])
    return most_liked


def _by_content(features: Mapping[str, Features], items: Ints, among: Ints, most: int) -> list[tuple[int, ...]]:
    """By the cosines of their modalities, added up; empty for an item without any."""
    looked_at = np.union1d(items, among)
    means = [normalize(torch.from_numpy(each.where(looked_at).mean_IK()), dim=1) for each in features.values()]
    content_IK = torch.cat(means, 1) if means else torch.zeros(len(looked_at), 1)
    among_A = torch.from_numpy(among)
    among_AK = content_IK[torch.from_numpy(np.searchsorted(looked_at, among))]
    rows = torch.from_numpy(np.searchsorted(looked_at, items))
    found: list[tuple[int, ...]] = []
    for start in range(0, len(items), ITEMS_AT_ONCE):
        some_B = torch.from_numpy(items[start : start + ITEMS_AT_ONCE])
        cosine_BA = content_IK[rows[start : start + ITEMS_AT_ONCE]] @ among_AK.T
        cosine_BA = cosine_BA.masked_fill(some_B[:, None] == among_A, 0.0)
        values_BN, columns_BN = cosine_BA.topk(min(most, len(among_A)), dim=1)
        for values_N, columns_N in zip(values_BN, columns_BN, strict=True):
            found.append(tuple(among_A[columns_N[values_N > 0]].tolist()))
    return found
