"""What users' behaviour says of an item, as a modality that new items lack.

    U users   I items   E events   F factors

The matrix of who liked what, each entry divided by the root of the user's and of the item's number of events, is
factored; an item's vector is its F factors, scaled by the roots of their singular values and by (n - 1) / (n - 1 + s)
for an item with n events, and one element more: the logarithm of n, standardised, from which a prior can be read.

The shrinkage s is there because an event is in the factors that are to predict it: what one user's event says of an
item with no other is that user, which a model would learn to rely on and never see again.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch

from worker.data.dataset import Features, Floats, Interactions
from worker.evaluate.sparse import sparse_matrix

SEED = 0  # of the factoring; not that of the training, so that spaces of several seeds take the same features
OVERSAMPLING, POWER_ITERATIONS = 16, 4  # of the randomised factoring (Halko et al. 2011)


def behavior_features(
    events: Interactions, num_users: int, num_items: int, *, dim: int, min_events: int, shrink: float
) -> Features:
    """The modality, with `dim` factors, from the events that may be learned from.

    Items with fewer than `min_events` lack it. Equal arguments give equal vectors, on one kind of processor. Its
    encoder's name is a hash of them, as vectors of two factorings cannot be compared.
    """
    count_I = np.bincount(events.items_E, minlength=num_items)
    present_I = count_I >= min_events
    vectors_NK = np.zeros((0, dim + 1), np.float32)
    if present_I.any():
        others_N1 = count_I[present_I, None] - 1.0
        worth_N1 = others_N1 / np.maximum(others_N1 + shrink, 1.0)
        factors_NF = _factors(events, num_users, num_items, dim)[present_I] * (worth_N1 if shrink else 1.0)
        logarithm_N = np.log(count_I[present_I])
        spread = float(logarithm_N.std())
        standard_N = (logarithm_N - logarithm_N.mean()) / spread if spread > 0 else np.zeros(len(logarithm_N))
        vectors_NK = np.column_stack([factors_NF, standard_N]).astype(np.float32)
    starts = np.concatenate([[0], np.cumsum(present_I)]).astype(np.int64)
    return Features(f"behavior-{_fingerprint(events, (dim, min_events, shrink))}", vectors_NK, starts)


def _factors(events: Interactions, num_users: int, num_items: int, dim: int) -> Floats:
    """`[I, F]`, with a mean square of 1 over items that have any; zeros beyond the rank."""
    count_U = np.bincount(events.users_E, minlength=num_users)
    count_I = np.bincount(events.items_E, minlength=num_items)
    values_E = 1 / np.sqrt(count_U[events.users_E] * count_I[events.items_E])
    indices = torch.from_numpy(np.stack([events.items_E, events.users_E]))
    matrix_IU = sparse_matrix(indices, torch.from_numpy(values_E), (num_items, num_users)).coalesce()
    rank = min(dim, num_users, num_items)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        left_IF, values_F, _ = torch.svd_lowrank(
            matrix_IU, min(rank + OVERSAMPLING, num_users, num_items), niter=POWER_ITERATIONS
        )
    left_IF = left_IF[:, :rank] * _signs(left_IF[:, :rank])
    factors_IF = np.zeros((num_items, dim), np.float64)
    factors_IF[:, :rank] = (left_IF * values_F[:rank].sqrt()).numpy()
    known_IF = factors_IF[count_I > 0]
    scale = float(np.sqrt((known_IF**2).mean()))
    return (factors_IF / scale if scale > 0 else factors_IF).astype(np.float32)


def _signs(left_IF: torch.Tensor) -> torch.Tensor:
    """The sign of each factor's largest element: a factoring is free to choose, and we are not."""
    largest_F = left_IF.abs().argmax(0)
    return left_IF[largest_F, torch.arange(left_IF.shape[1])].sign()


def _fingerprint(events: Interactions, choices: tuple[int, int, float]) -> str:
    # The pairs in order, as one number each: to sort columns takes numpy twenty times as long.
    most = int(events.items_E.max(initial=0)) + 1
    pairs = np.stack(np.divmod(np.unique(events.users_E * most + events.items_E), most))
    digest = blake2b(str(choices).encode(), digest_size=6)
    digest.update(np.ascontiguousarray(pairs).data)
    return digest.hexdigest()
