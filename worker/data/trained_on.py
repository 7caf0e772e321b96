"""What a space was trained on, kept beside it: without that, nobody could say that it is asked for what it has learned.

    trained_on.npz                hashes of the users with items that were learned from, and that were chosen by; the
                                  items withheld to choose and to judge by
    cold_val.txt, cold_test.txt   these items once more, as lists that `--cold-val` and `--cold-test` take

Written by `train`, read by `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from worker.data.dataset import Bools, Dataset, Ints
from worker.data.files import replaced, unreadable
from worker.data.hashes import Hashes, hashes_of, pair_hashes
from worker.data.lists import write_item_list
from worker.data.split import Split
from worker.errors import DataError

HASHES_FILE = "trained_on.npz"
LISTS = {"cold_val": "cold_val.txt", "cold_test": "cold_test.txt"}


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What training has seen, of each user with an item."""

    learned: Hashes
    """Rising: learned from."""
    chosen_by: Hashes
    """Rising: not learned from, but what was kept has been chosen by it."""
    cold_val: tuple[str, ...]
    """Ids of the items withheld to choose by."""
    cold_test: tuple[str, ...]
    """Ids of the items withheld to judge by."""

    @property
    def withholds_nothing(self) -> bool:
        """It was trained on everything there was: nothing of that can be asked."""
        return not (len(self.chosen_by) or self.cold_val or self.cold_test)


def trained_on(dataset: Dataset, split: Split) -> TrainedOn:
    """What a training with this split sees."""
    hashes_E = _hashes(dataset, split.events.users_E, split.events.items_E)
    chosen_E = split.cold_val_I[split.events.items_E]
    chosen_E[split.val_events] = True
    return TrainedOn(
        np.unique(hashes_E[split.train_E]),
        np.unique(hashes_E[chosen_E]),
        *(
            tuple(dataset.item_ids[item] for item in np.flatnonzero(cold_I).tolist())
            for cold_I in (split.cold_val_I, split.cold_test_I)
        ),
    )


def write_trained_on(folder: Path, found: TrainedOn) -> None:
    """Keep it in the folder of a training."""
    ids = {name: getattr(found, name) for name in LISTS}
    for name, file_name in LISTS.items():
        write_item_list(folder / file_name, [each for each in ids[name] if not {"\n", "\r"} & set(each)])
    with replaced(folder / HASHES_FILE) as file:
        np.savez(
            file,
            learned=found.learned,
            chosen_by=found.chosen_by,
            cold_val=np.array(ids["cold_val"], np.str_),
            cold_test=np.array(ids["cold_test"], np.str_),
        )


def read_trained_on(folder: Path) -> TrainedOn | None:
    """What is kept in the folder of a training; None: nothing is. Raises `DataError` for a file that cannot be read."""
    path = folder / HASHES_FILE
    if not path.exists():
        return None
    try:
        with path.open("rb") as file:
            arrays = np.load(file)
            learned, chosen_by = (arrays[name].astype(np.uint64) for name in ("learned", "chosen_by"))
            lists = {name: tuple(arrays[name].tolist()) for name in LISTS}
    except (ValueError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{path}: not what `align-worker train` writes: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    return TrainedOn(learned, chosen_by, **lists)


@dataclass(frozen=True, slots=True)
class Overlap:
    """How much of what will be asked a space has seen."""

    num_answers: int
    """Users with an item that are asked for."""
    num_learned: int
    """Of these, those that it has learned."""
    num_chosen_by: int
    """Of these, those that it was chosen by."""


def overlap(found: TrainedOn, dataset: Dataset, users: Ints, items: Ints) -> Overlap:
    """Of the answers, users with items by number, those that training has seen."""
    hashes = _hashes(dataset, users, items)
    return Overlap(len(hashes), int(_among(hashes, found.learned).sum()), int(_among(hashes, found.chosen_by).sum()))


def _hashes(dataset: Dataset, users: Ints, items: Ints) -> Hashes:
    return pair_hashes(hashes_of(dataset.user_ids), hashes_of(dataset.item_ids), users, items)


def _among(hashes: Hashes, rising: Hashes) -> Bools:
    if not len(rising):
        return np.zeros(len(hashes), bool)
    found: Bools = rising[np.searchsorted(rising, hashes).clip(max=len(rising) - 1)] == hashes
    return found
