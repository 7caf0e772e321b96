"""Tables of rows: Parquet, JSON lines, CSV."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Set
from pathlib import Path
from typing import Any, Literal, TypeVar

from worker.data.files import not_text, unreadable
from worker.data.importers.output import Imported, OnBadRow, refuse
from worker.data.importers.rows import EventRows, ItemRows, MappedRows, Row
from worker.data.importers.values import CellError
from worker.errors import ConfigError, DataError
from worker.json_text import read_json

T = TypeVar("T")

Format = Literal["parquet", "jsonl", "csv"]

BATCH_ROWS = 1_024
_TOO_MANY: Any = None
"""Where a reader of CSV puts the cells that no column is for."""


def import_tables(
    form: Format,
    item_files: Iterable[Path],
    event_files: Iterable[Path],
    item_rows: ItemRows | MappedRows,
    event_rows: EventRows | MappedRows,
    on_bad_row: OnBadRow = refuse,
) -> Imported:
    """Items and events from tables with a row for each."""
    read = READERS[form]
    item_files, event_files = list(item_files), list(event_files)
    items = (
        item
        for path in item_files
        for item in converted(path, read(path, item_rows.required), item_rows.item, on_bad_row)
    )
    events = (
        event
        for path in event_files
        for event in converted(path, read(path, event_rows.required), event_rows.event, on_bad_row)
    )
    return Imported(items if item_files else None, events if event_files else None)


def converted(path: Path, rows: Iterable[Row], convert: Callable[[Row], T | None], on_bad_row: OnBadRow) -> Iterator[T]:
    """Convert each row, leaving out those that become nothing. Rows are counted from 1, a header not included."""
    for number, row in enumerate(rows, start=1):
        try:
            if any(row.get(_TOO_MANY) or ()):
                raise CellError("", "has more cells than the header has columns: is a comma in it that is not quoted?")
            value = convert(row)
        except CellError as error:
            on_bad_row(DataError(f"{path}: row {number}, {error}"))
        else:
            if value is not None:
                yield value


def read_csv(path: Path, required: Set[str]) -> Iterator[Row]:
    """A CSV file with a header. Every cell is text."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file)
            names = rows.fieldnames or ()
            if not names:
                raise DataError(f"{path}: is empty: the first line of a CSV file names its columns")
            _require(path, required, names)
            if twice := sorted(name for name in required if names.count(name) > 1):
                raise DataError(f"{path}: there are two columns {twice[0]!r}: which one is meant?")
            yield from rows
    except UnicodeDecodeError as error:
        raise not_text(path, "a CSV file", error) from None
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.line_num}: not CSV: {error}; is a quote not closed?") from None
    except OSError as error:
        raise unreadable(path, error) from None


def read_json_lines(path: Path, required: Set[str]) -> Iterator[Row]:
    """A JSON object a line; lines need not all have the same keys."""
    seen = set[str]()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = read_json(line)
                except ValueError as error:
                    raise DataError(f"{path}: line {number}: not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise DataError(f"{path}: line {number}: should be a JSON object")
                seen.update(row)
                yield row
    except UnicodeDecodeError as error:
        raise not_text(path, "a text file", error) from None
    except OSError as error:
        raise unreadable(path, error) from None
    if seen:
        _require(path, required, seen)


def read_parquet(path: Path, required: Set[str]) -> Iterator[Row]:
    """A Parquet file, a group of rows at a time. Vectors stay arrays; times are dates, whatever their unit."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError("Parquet files need pyarrow: pip install 'align-worker[parquet]'") from None
    try:
        with pq.ParquetFile(path) as file:
            _require(path, required, file.schema_arrow.names)
            for batch in file.iter_batches(BATCH_ROWS):
                columns = [_cells(column) for column in batch.columns]
                for cells in zip(*columns, strict=True):
                    yield dict(zip(batch.schema.names, cells, strict=True))
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from None
    except OSError as error:
        raise unreadable(path, error) from None


READERS: dict[Format, Callable[[Path, Set[str]], Iterator[Row]]] = {
    "parquet": read_parquet,
    "jsonl": read_json_lines,
    "csv": read_csv,
}


def _cells(column: Any) -> list[Any]:
    """The values of an Arrow array; lists of numbers as NumPy arrays, which are made without one object a number."""
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp("ms", kind.tz), safe=False).to_pylist()  # type: ignore[no-any-return]
    is_fixed = pa.types.is_fixed_size_list(kind)
    if not (is_fixed or pa.types.is_list(kind) or pa.types.is_large_list(kind)):
        return column.to_pylist()  # type: ignore[no-any-return]
    inner = kind.value_type
    if not (pa.types.is_floating(inner) or pa.types.is_list(inner) or pa.types.is_fixed_size_list(inner)):
        return column.to_pylist()  # type: ignore[no-any-return]
    column = column.cast(pa.large_list(inner))
    values = column.values.to_numpy(zero_copy_only=False) if pa.types.is_floating(inner) else _cells(column.values)
    bounds = column.offsets.to_pylist()
    present = column.is_valid().to_pylist()
    return [
        values[start:end] if there else None for start, end, there in zip(bounds[:-1], bounds[1:], present, strict=True)
    ]


def _require(path: Path, required: Set[str], names: Iterable[str]) -> None:
    names = sorted(names)
    missing = sorted(required - set(names))
    if missing:
        raise DataError(f"{path}: there is no column {missing[0]!r}; there are {', '.join(map(repr, names))}")
