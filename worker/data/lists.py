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
from worker.data.files import replaced
from worker.errors import DataError

COLUMNS = ("item_id", "title")


def read_item_list(path: Path | str, item_ids: Sequence[str]) -> Bools:
    """`[I]`: marks the items listed. Raises `DataError` for an id that is not among `item_ids`."""
    numbers = {item_id: number for number, item_id in enumerate(item_ids)}
    listed_I = np.zeros(len(item_ids), bool)
    for line, item_id in enumerate(io.StringIO(_text(path), newline=None), start=1):
        item_id = item_id.rstrip("\n")
        if item_id and item_id not in numbers:
            raise DataError(f"{path}: line {line}: the catalogue has no item {item_id!r}")
        if item_id:
            listed_I[numbers[item_id]] = True
    return listed_I


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
    rows = csv.DictReader(io.StringIO(_text(path), newline=""))
    missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise DataError(f"{path}: there is no column {missing[0]!r}; expected a CSV file with {' and '.join(COLUMNS)}")
    return {row["item_id"]: row["title"] or "" for row in rows}


def write_titles(path: Path | str, titles: Iterable[tuple[str, str]]) -> int:
    """Write titles, as (item id, title). Returns how many there are."""
    rows, text = list(titles), io.StringIO(newline="")
    csv.writer(text).writerows([COLUMNS, *rows])
    with replaced(Path(path)) as file:
        file.write(text.getvalue().encode())
    return len(rows)


def _text(path: Path | str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8: {error}") from None
