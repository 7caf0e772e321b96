"""Which items are withheld: those of a list, or a seeded share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from worker.data.dataset import Bools, Dataset
from worker.data.lists import read_item_list
from worker.data.split import Split, sample_cold_items, split_by_time
from worker.errors import ConfigError


def split_dataset(
    dataset: Dataset, cold_val: Path | None, cold_test: Path | None, cold_share: float, seed: int
) -> Split:
    """The split with the items of the lists withheld; for a list that is not given, a share of the items with events.

    Equal arguments give an equal split. Raises `ConfigError` if an item is in both lists.
    """
    positive = dataset.events.where(dataset.events.weights_E > 0)
    free_I = np.bincount(positive.items_E, minlength=dataset.num_items) > 0
    masks: list[Bools] = []
    for number, path in enumerate((cold_test, cold_val)):
        if path is not None:
            cold_I = read_item_list(path, dataset.item_ids)
        else:
            cold_I = sample_cold_items(dataset.num_items, cold_share, 2 * seed + number, free_I)
        masks.append(cold_I)
        free_I = free_I & ~cold_I
    if (masks[0] & masks[1]).any():
        both = dataset.item_ids[int(np.flatnonzero(masks[0] & masks[1])[0])]
        raise ConfigError(f"--cold-val: item {both!r} is in --cold-test, too")
    return split_by_time(dataset.events, cold_val_I=masks[1], cold_test_I=masks[0])
