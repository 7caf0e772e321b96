"""What is withheld from training: items of a list, or a seeded share; events of files, or each user's last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.data.dataset import Bools, Dataset
from worker.data.files import read_events
from worker.data.hashes import hashes_of
from worker.data.lists import read_item_list
from worker.data.split import GivenPairs, Split, sample_cold_items, split_as_given, split_by_time
from worker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Withheld:
    """What somebody says of it. What is not said is drawn, or a matter of time."""

    cold_val: Path | Sequence[str] | None = None
    """List of items to choose by: a file, or the ids."""
    cold_test: Path | Sequence[str] | None = None
    """List of items to judge by."""
    cold_share: float = 0.1
    """Of the items with events, for each list that is not given."""
    seed: int = 0
    """Of that share."""
    val_events: Sequence[Path] = ()
    """Files of the events to choose by; they belong to the events of the dataset, too."""
    test_events: Sequence[Path] = ()
    """Files of the events to judge by."""


def split_dataset(dataset: Dataset, withheld: Withheld) -> Split:
    """The split with the items of the lists withheld; for a list that is not given, a share of the items with events.

    Equal arguments give an equal split. Raises `ConfigError` if an item is in both lists.
    """
    positive = dataset.events.where(dataset.events.weights_E > 0)
    free_I = np.bincount(positive.items_E, minlength=dataset.num_items) > 0
    masks: list[Bools] = []
    for number, given in enumerate((withheld.cold_test, withheld.cold_val)):
        if given is None:
            cold_I = sample_cold_items(dataset.num_items, withheld.cold_share, 2 * withheld.seed + number, free_I)
        elif isinstance(given, Path):
            cold_I = read_item_list(given, dataset.item_ids)
        else:
            cold_I = np.isin(dataset.item_ids, list(given))
        masks.append(cold_I)
        free_I = free_I & ~cold_I
    if (masks[0] & masks[1]).any():
        both = dataset.item_ids[int(np.flatnonzero(masks[0] & masks[1])[0])]
        raise ConfigError(f"--cold-val: item {both!r} is in --cold-test, too")
    if withheld.val_events and not withheld.test_events:
        raise ConfigError("--val-events without --test-events: give the events to judge by, too")
    draws_U = _draws(dataset.user_ids)
    if not withheld.test_events:
        return split_by_time(dataset.events, masks[1], masks[0], draws_U)
    val = _pairs(dataset, withheld.val_events) if withheld.val_events else None
    return split_as_given(dataset.events, masks[1], masks[0], val, _pairs(dataset, withheld.test_events), draws_U)


def _draws(user_ids: Sequence[str]) -> NDArray[np.float64]:
    """From 0 to 1, by the id: the same user has the same draw in any dataset."""
    draws_U: NDArray[np.float64] = hashes_of(user_ids).astype(np.float64) / 2.0**64
    return draws_U


def _pairs(dataset: Dataset, files: Sequence[Path]) -> GivenPairs:
    """Of events with users and items of the dataset."""
    users = {user_id: number for number, user_id in enumerate(dataset.user_ids)}
    items = {item_id: number for number, item_id in enumerate(dataset.item_ids)}
    found = [
        (users[event.user_id], items[event.item_id])
        for path in files
        for event in read_events(path)
        if event.user_id in users and event.item_id in items
    ]
    pairs_P2 = np.array(found, np.int64).reshape(-1, 2)
    return GivenPairs(pairs_P2[:, 0], pairs_P2[:, 1])
