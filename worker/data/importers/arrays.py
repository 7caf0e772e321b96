"""Vectors in NumPy files: an archive of arrays with a row per item, or a file per modality."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from schemas import Dtype, Feature, NewItem
from worker.data.dataset import Bools
from worker.data.files import unreadable
from worker.data.importers.output import Imported, OnBadRow, TitledItem, refuse
from worker.data.importers.values import CellError, to_feature, to_id
from worker.data.lists import read_ids
from worker.errors import DataError

IDS = "item_id"
MASK_PREFIX = "has_"


@dataclass(frozen=True, slots=True)
class ItemArrays:
    """A catalogue's vectors. Row i of every array is about item i."""

    source: str
    """Where they come from, for messages."""
    item_ids: Sequence[str]
    vectors: Mapping[str, NDArray[Any]]
    """By modality: `[I, D]`, or `[I, N, D]` where an item has up to N vectors. NaN throughout: there is none."""
    present: Mapping[str, Bools]
    """`[I]`, by modality: where it is False, the item lacks the modality, whatever the vectors say."""
    lists: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Items marked in an array of truth values, by the name of the array."""

    def features(self, row: int, encoders: Mapping[str, str], dtype: Dtype) -> dict[str, Feature]:
        """Features of the item in a row. Raises `DataError`."""
        found = {}
        for name, vectors in self.vectors.items():
            if name in self.present and not self.present[name][row]:
                continue
            try:
                feature = to_feature(name, vectors[row], encoders.get(name, name), dtype)
            except CellError as error:
                raise DataError(f"{self.source}: row {row}, item {self.item_ids[row]!r}, {error}") from None
            if feature is not None:
                found[name] = feature
        return found

    def imported(self, encoders: Mapping[str, str], dtype: Dtype, on_bad_row: OnBadRow = refuse) -> Imported:
        """A catalogue of these items."""
        return Imported(items=self._items(encoders, dtype, on_bad_row), lists=self.lists)

    def _items(self, encoders: Mapping[str, str], dtype: Dtype, on_bad_row: OnBadRow) -> Iterator[TitledItem]:
        for row, item_id in enumerate(self.item_ids):
            try:
                features = self.features(row, encoders, dtype)
            except DataError as error:
                on_bad_row(error)
            else:
                yield TitledItem(NewItem(item_id=item_id, revision=1, event_time_ms=0, features=features))


def read_archive(path: Path) -> ItemArrays:
    """An `.npz` file with `item_id` and further arrays of as many rows.

    Numbers `[I, D]` or `[I, N, D]` are a modality, truth values `has_NAME` say which items have it, and other truth
    values are lists of items. What is neither is ignored.
    """
    try:
        with path.open("rb") as file:
            archive = np.load(file)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise DataError(f"{path}: expected an archive of arrays (.npz), this is a single one")
            arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a NumPy archive that can be read: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    if IDS not in arrays:
        raise DataError(f"{path}: there is no array {IDS!r}; there are {', '.join(map(repr, arrays))}")
    item_ids = _ids(str(path), arrays.pop(IDS))
    for name, array in arrays.items():
        _check_rows(f"{path}: array {name!r}", array, len(item_ids))
    vectors = {name: array for name, array in arrays.items() if array.ndim in (2, 3) and array.dtype.kind in "fiu"}
    marks = {name: array for name, array in arrays.items() if array.ndim == 1 and array.dtype.kind == "b"}
    masks = {name: marks.pop(MASK_PREFIX + name) for name in vectors if MASK_PREFIX + name in marks}
    lists = {name: [item_ids[row] for row in np.flatnonzero(mark)] for name, mark in marks.items()}
    return ItemArrays(str(path), item_ids, vectors, masks, lists)


def read_arrays(ids_path: Path, vector_paths: Mapping[str, Path]) -> ItemArrays:
    """A file of ids, as text a line or as an array, and an `.npy` file of vectors for each modality."""
    if ids_path.suffix == ".npy":
        item_ids = _ids(str(ids_path), _single(ids_path))
    else:
        item_ids = _checked_ids(str(ids_path), read_ids(ids_path))
    vectors = {}
    for name, path in vector_paths.items():
        array = _single(path)
        _check_rows(f"{path}:", array, len(item_ids))
        if array.ndim not in (2, 3) or array.dtype.kind not in "fiu":
            raise DataError(f"{path}: expected numbers [I, D] or [I, N, D], got {array.dtype} {list(array.shape)}")
        vectors[name] = array
    return ItemArrays(", ".join(map(str, vector_paths.values())), item_ids, vectors, {})


def _check_rows(what: str, array: NDArray[Any], num_items: int) -> None:
    if array.ndim == 0 or len(array) != num_items:
        rows = len(array) if array.ndim else 0
        raise DataError(f"{what} has {rows} rows for {num_items} items")


def _ids(source: str, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1:
        raise DataError(f"{source}: expected one id for each item, got an array of shape {list(array.shape)}")
    return _checked_ids(source, array.tolist())


def _checked_ids(source: str, values: Sequence[Any]) -> list[str]:
    item_ids, rows = [], dict[str, int]()
    for row, value in enumerate(values):
        try:
            item_id = to_id(IDS, value)
        except CellError as error:
            raise DataError(f"{source}: row {row}, {error}") from None
        if rows.setdefault(item_id, row) != row:
            raise DataError(f"{source}: rows {rows[item_id]} and {row} are both item {item_id!r}")
        item_ids.append(item_id)
    return item_ids


def _single(path: Path) -> NDArray[Any]:
    """The array of an `.npy` file, read as it is used."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except ValueError as error:
        raise DataError(f"{path}: not an array that can be read (.npy): {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
