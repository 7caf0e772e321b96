"""Small sets of events, written out."""

from __future__ import annotations

import numpy as np

from worker.data import Interactions, Split, split_by_time

DAY_MS = 86_400_000


def events(*rows: tuple[int, int, float]) -> Interactions:
    """Events from (user, item, days), all positive, in order of time."""
    ordered = sorted(rows, key=lambda row: row[2])
    users, items, days = (np.array(column) for column in zip(*ordered, strict=True))
    return Interactions(users, items, (days * DAY_MS).astype(np.int64), np.ones(len(ordered), np.float32))


def split_of(num_items: int, of: Interactions, cold_val: set[int], cold_test: set[int]) -> Split:
    cold_val_I, cold_test_I = (np.isin(np.arange(num_items), list(items)) for items in (cold_val, cold_test))
    nobody = np.ones(int(of.users_E.max()) + 1)  # of those with few events
    return split_by_time(of, cold_val_I, cold_test_I, nobody)
