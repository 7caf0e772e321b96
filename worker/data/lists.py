"""Small text files about items, in UTF-8: which ones belong to a list, and what they are called.

A list has one item id a line. Titles are a CSV file with the columns `item_id` and `title`; others are ignored.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from worker.data.dataset import Bools
from worker.data.files import read_text, replaced
from worker.errors import DataError

COLUMNS = ("item_id", "title")


def read_item_list(path: Path | str, item_ids: Sequence[str]) -> Bools:
    """`[I]`: marks the items listed. Raises `DataError` for an id that is not among `item_ids`."""
    numbers = {item_id: number for number, item_id in enumerate(item_ids)}
    listed_I = np.zeros(len(item_ids), bool)
    for item_id in read_ids(path):
        if item_id not in numbers:
            raise DataError(f"{path}: the catalogue has no item {item_id!r}")
        listed_I[numbers[item_id]] = True
    return listed_I


def read_ids(path: Path | str) -> list[str]:
    """The ids in a list, in its order."""
    lines = (line.rstrip("\n") for line in io.StringIO(read_text(path), newline=None))
    return [line for line in lines if line]


def write_item_list(path: Path | str, item_ids: Iterable[str]) -> int:
    """Write a list of items. Returns how many there are."""
    lines = list(item_ids)
    for item_id in lines:
        if {"\n", "\r"} & set(item_id):
            raise DataError(f"{path}: the id {item_id!r} has a line break, so the item cannot be listed")
    with replaced(Path(path)) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
    return len(lines)


def read_titles(path: Path | str) -> dict[str, str]:
    """Titles by item id."""
    rows = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
        if missing:
            columns = " and ".join(COLUMNS)
            raise DataError(f"{path}: there is no column {missing[0]!r}; expected a CSV file with {columns}")
        return {row["item_id"]: row["title"] or "" for row in rows}
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: not CSV: {error}; is a quote not closed?") from None


def write_titles(path: Path | str, titles: Iterable[tuple[str, str]]) -> int:
    """Write titles, as (item id, title). Returns how many there are."""
    rows, text = list(titles), io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    with replaced(Path(path)) as file:
        file.write(text.getvalue().encode())
    return len(rows)
