"""Who an item's neighbours are: those liked by the same users; of an item that nobody knows, those of like content.

I items   E events   K elements of a content vector
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from worker.data.dataset import Bools, Features, Interactions, Ints
from worker.evaluate.sparse import sparse_matrix

SHRINK = 10.0  # average events in the denominator of a cosine: few events in common prove little
ITEMS_AT_ONCE = 512

Neighbors = Sequence[tuple[int, ...]]


def neighbors_of(
    events: Interactions, num_users: int, features: Mapping[str, Features], known_I: Bools, most: int
) -> Neighbors:
    """At most `most` for each item, nearest first. All of them are items with events, marked in `known_I`."""
    found = _by_events(events, num_users, len(known_I), most)
    lonely = np.array([item for item, each in enumerate(found) if not each], np.int64)
    if len(lonely) and known_I.any():
        by_content = _by_content(features, lonely, np.flatnonzero(known_I), most)
        for item, each in zip(lonely.tolist(), by_content, strict=True):
            found[item] = each
    return found


def _by_events(events: Interactions, num_users: int, num_items: int, most: int) -> list[tuple[int, ...]]:
    """By shrunk cosine of who liked them; empty for an item without events.

    An event counts for one over the number of its user's: who likes everything says of no two items that they are
    alike, and would otherwise decide, as pairs grow by the square of the events.
    """
    indices = torch.from_numpy(np.stack([events.items_E, events.users_E]))
    count_U = np.bincount(events.users_E, minlength=num_users)
    worth_E = torch.from_numpy(1 / np.maximum(count_U[events.users_E], 1)).float()
    likes_IU = sparse_matrix(indices, worth_E.sqrt(), (num_items, num_users)).coalesce()
    count_I = torch.zeros(num_items).index_add(0, torch.from_numpy(events.items_E), worth_E)
    shrink = SHRINK * float(worth_E.mean()) if len(worth_E) else SHRINK
    found: list[tuple[int, ...]] = []
    for start in range(0, num_items, ITEMS_AT_ONCE):
        some_B = torch.arange(start, min(start + ITEMS_AT_ONCE, num_items))
        some_BU = likes_IU.index_select(0, some_B).to_dense()
        common_BI = torch.sparse.mm(likes_IU, some_BU.T).T
        cosine_BI = common_BI / ((count_I[some_B, None] * count_I).sqrt() + shrink)
        found += _nearest(cosine_BI, some_B, most)
    return found


def _by_content(features: Mapping[str, Features], items: Ints, among: Ints, most: int) -> list[tuple[int, ...]]:
    """By the cosines of their modalities, added up; empty for an item without any."""
    means = [normalize(torch.from_numpy(each.mean_IK()), dim=1) for each in features.values()]
    content_IK = torch.cat(means, 1) if means else torch.zeros(max(items.max(), among.max()) + 1, 1)
    among_A = torch.from_numpy(among)
    found: list[tuple[int, ...]] = []
    for start in range(0, len(items), ITEMS_AT_ONCE):
        some_B = torch.from_numpy(items[start : start + ITEMS_AT_ONCE])
        cosine_BA = content_IK[some_B] @ content_IK[among_A].T
        cosine_BA = cosine_BA.masked_fill(some_B[:, None] == among_A, 0.0)
        values_BN, columns_BN = cosine_BA.topk(min(most, len(among_A)), dim=1)
        for values_N, columns_N in zip(values_BN, columns_BN, strict=True):
            found.append(tuple(among_A[columns_N[values_N > 0]].tolist()))
    return found


def _nearest(similarity_BI: Tensor, items_B: Tensor, most: int) -> list[tuple[int, ...]]:
    similarity_BI[torch.arange(len(items_B)), items_B] = 0.0
    values_BN, others_BN = similarity_BI.topk(min(most, similarity_BI.shape[1]), dim=1)
    return [tuple(others_N[values_N > 0].tolist()) for values_N, others_N in zip(values_BN, others_BN, strict=True)]
