"""Matrices of who had what, as `scipy.sparse.save_npz` writes them: a row for each user, a column for each item.

They say nothing of order, so all times are the same, and training and evaluation tell so. Which entries are to choose
and to judge by is said by matrices of their own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from schemas import UserEvent
from worker.data.dataset import Ints
from worker.data.files import unreadable
from worker.errors import DataError
from worker.mapping.values import event_id


@dataclass(frozen=True, slots=True)
class Matrix:
    """The entries that are not zero."""

    path: Path
    shape: tuple[int, int]
    rows_E: Ints
    columns_E: Ints


def read_matrix(path: Path) -> Matrix:
    """Of the formats CSR, CSC and COO. Raises `DataError` for a file that is none of them."""
    try:
        with path.open("rb") as file:
            archive = np.load(file)
            if not isinstance(archive, np.lib.npyio.NpzFile) or not {"format", "shape", "data"} <= set(archive.files):
                raise DataError(f"{path}: not a matrix that scipy.sparse.save_npz writes")
            form = _text(archive["format"][()])
            num_rows, num_columns = archive["shape"].tolist()
            values_E = archive["data"]
            if form == "coo":
                rows_E, columns_E = archive["row"], archive["col"]
            elif form in ("csr", "csc"):
                counts = np.diff(archive["indptr"])
                long_E, short_E = np.repeat(np.arange(len(counts)), counts), archive["indices"]
                rows_E, columns_E = (long_E, short_E) if form == "csr" else (short_E, long_E)
            else:
                raise DataError(f"{path}: a matrix of format {form!r}; save it as CSR, CSC or COO")
    except (ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise DataError(f"{path}: not a matrix that scipy.sparse.save_npz writes: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    rows_E, columns_E = rows_E.astype(np.int64), columns_E.astype(np.int64)
    if len(rows_E) != len(columns_E) or len(rows_E) != len(values_E):
        raise DataError(f"{path}: has {len(values_E)} values for {len(rows_E)} rows and {len(columns_E)} columns")
    if len(rows_E) and (
        min(rows_E.min(), columns_E.min()) < 0 or rows_E.max() >= num_rows or columns_E.max() >= num_columns
    ):
        raise DataError(f"{path}: an entry lies outside its {num_rows} rows and {num_columns} columns")
    there_E = values_E != 0
    return Matrix(path, (num_rows, num_columns), rows_E[there_E], columns_E[there_E])


def matrix_events(
    matrix: Matrix, user_ids: Sequence[str] | None, item_ids: Sequence[str] | None, event_type: str
) -> Iterator[UserEvent]:
    """An event for each entry. Without ids, users and items are called by the numbers of rows and columns."""
    for flag, count, ids in (("--user-ids", matrix.shape[0], user_ids), ("--item-ids", matrix.shape[1], item_ids)):
        if ids is not None and len(ids) != count:
            raise DataError(f"{flag}: {len(ids)} ids for the {count} of {matrix.path}")
    entries = np.unique(np.stack([matrix.rows_E, matrix.columns_E]), axis=1)
    for row, column in entries.T.tolist():
        user_id = str(row) if user_ids is None else user_ids[row]
        item_id = str(column) if item_ids is None else item_ids[column]
        yield UserEvent(
            event_id=event_id(user_id, item_id, event_type, 0, None),
            user_id=user_id,
            item_id=item_id,
            event_type=event_type,
            event_time_ms=0,
        )


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
