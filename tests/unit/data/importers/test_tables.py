from __future__ import annotations

import csv
import gzip
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from schemas import Content, Feature, UserEvent
from worker.data.importers.output import TitledItem
from worker.data.importers.rows import EventRows, ItemRows
from worker.data.importers.tables import READERS, import_tables
from worker.errors import DataError

Rows = Sequence[Mapping[str, Any]]


def write_parquet(path: Path, rows: Rows) -> None:
    pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path, row_group_size=2)


def write_jsonl(path: Path, rows: Rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_csv(path: Path, rows: Rows) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


WRITERS: dict[str, Callable[[Path, Rows], None]] = {"parquet": write_parquet, "jsonl": write_jsonl, "csv": write_csv}
HEADER = "user_id,item_id,event_type,event_time_ms\n"
FORMS = list(WRITERS)
WITH_VECTORS = ["parquet", "jsonl"]


def items_of(form: str, path: Path, rows: Rows, **options: Any) -> list[TitledItem]:
    WRITERS[form](path, rows)
    return list(import_tables(form, [path], [], ItemRows(**options), EventRows()).items)


def events_of(form: str, path: Path, rows: Rows, **options: Any) -> list[UserEvent]:
    WRITERS[form](path, rows)
    return list(import_tables(form, [], [path], ItemRows(), EventRows(**options)).events)


EVENT_ROWS = [
    {"event_id": "e1", "user_id": "u", "item_id": 7, "event_type": "like", "event_time_ms": 5, "value": 4.5},
    {"event_id": "e2", "user_id": "v", "item_id": 8, "event_type": "view", "event_time_ms": 6, "value": None},
]


@pytest.mark.parametrize("form", FORMS)
def test_events(tmp_path: Path, form: str) -> None:
    assert events_of(form, tmp_path / "events", EVENT_ROWS) == [
        UserEvent(event_id="e1", user_id="u", item_id="7", event_type="like", event_time_ms=5, value=4.5),
        UserEvent(event_id="e2", user_id="v", item_id="8", event_type="view", event_time_ms=6),
    ]


@pytest.mark.parametrize("form", FORMS)
def test_columns_may_have_other_names_and_the_type_may_be_the_same_for_all(tmp_path: Path, form: str) -> None:
    rows = [{"who": "u", "what": "i", "at": 5, "more": 1}, {"who": "u", "what": "i", "at": 6, "more": 2}]
    columns = {"user_id": "who", "item_id": "what", "event_time_ms": "at"}
    events = events_of(form, tmp_path / "events", rows, columns=columns, event_type="view", unit_ms=1000.0)
    assert [(event.event_type, event.event_time_ms) for event in events] == [("view", 5_000), ("view", 6_000)]


@pytest.mark.parametrize("form", FORMS)
def test_events_without_ids_get_the_same_ones_every_time(tmp_path: Path, form: str) -> None:
    rows = [{**row, "event_id": None} for row in EVENT_ROWS]
    first, second = (events_of(form, tmp_path / "events", some) for some in (rows, rows[::-1]))
    assert {event.event_id for event in first} == {event.event_id for event in second}
    assert len({event.event_id for event in first}) == 2


@pytest.mark.parametrize("form", WITH_VECTORS)
def test_items_with_vectors(tmp_path: Path, form: str) -> None:
    rows = [
        {"item_id": 1, "title": "One", "t": [0.5, 1.0], "frames": [[1.0, 2.0], [3.0, 4.0]], "neighbors": ["2", "3"]},
        {"item_id": 2, "title": None, "t": None, "frames": None, "neighbors": None},
        {"item_id": 3, "title": "Three", "t": [1.5, 2.0], "frames": [[5.0, 6.0]], "neighbors": []},
    ]
    found = items_of(
        form, tmp_path / "items", rows, vectors={"text": "t", "video": "frames"}, encoders={"text": "minilm"}
    )
    assert [each.title for each in found] == ["One", None, "Three"]
    first, second, third = (each.item for each in found)
    assert (first.item_id, first.revision, first.event_time_ms, first.neighbors) == ("1", 1, 0, ("2", "3"))
    assert first.features == {
        "text": Feature.from_numpy([0.5, 1.0], encoder="minilm"),
        "video": Feature.from_numpy([[1.0, 2.0], [3.0, 4.0]], encoder="video"),
    }
    assert (second.features, second.neighbors) == ({}, ())
    assert third.features["video"].shape == (1, 2)


@pytest.mark.parametrize("form", FORMS)
def test_items_with_raw_text(tmp_path: Path, form: str) -> None:
    rows = [{"item_id": "a", "revision": 3, "plot": "It rains."}, {"item_id": "b", "revision": 4, "plot": None}]
    found = items_of(form, tmp_path / "items", rows, texts={"text": "plot"})
    assert [each.item.content for each in found] == [{"text": Content(text="It rains.")}, {}]
    assert [each.item.revision for each in found] == [3, 4]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.float16()), pa.list_(pa.float32()), pa.list_(pa.float64(), 2), pa.large_list(pa.float32())]
)
def test_parquet_vectors_of_any_kind_of_list(tmp_path: Path, kind: Any) -> None:
    values = [np.array([1, 2], np.float16), None, np.array([3, 4], np.float16)]
    values = [None if value is None else list(value.astype(kind.value_type.to_pandas_dtype())) for value in values]
    table = pa.table({"item_id": ["a", "b", "c"], "v": pa.array(values, kind)})
    pq.write_table(table, tmp_path / "items")
    items = import_tables("parquet", [tmp_path / "items"], [], ItemRows(vectors={"text": "v"}), EventRows()).items
    found = [each.item.features.get("text") for each in items]
    assert [None if each is None else each.to_numpy().tolist() for each in found] == [[1, 2], None, [3, 4]]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_parquet_times_have_their_unit_with_them(tmp_path: Path, unit: str, zone: str | None) -> None:
    moment = datetime(2023, 12, 25, 12, tzinfo=UTC)
    times = pa.array([int(moment.timestamp())], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
    table = pa.table({"user_id": ["u"], "item_id": ["i"], "event_type": ["view"]})
    pq.write_table(table.append_column("event_time_ms", times.cast(pa.timestamp(unit, zone))), tmp_path / "events")
    [event] = import_tables("parquet", [], [tmp_path / "events"], ItemRows(), EventRows(unit_ms=7.0)).events
    assert event.event_time_ms == moment.timestamp() * 1000


def test_lines_need_not_have_the_same_keys(tmp_path: Path) -> None:
    rows = [{"item_id": "a"}, {"item_id": "b", "v": [1.0]}]
    found = items_of("jsonl", tmp_path / "items", rows, vectors={"text": "v"})
    assert [list(each.item.features) for each in found] == [[], ["text"]]


# ---------------------------------------------------------------------- what is wrong


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_cell_is_named_by_row_and_column(tmp_path: Path, form: str) -> None:
    rows = [*EVENT_ROWS, {**EVENT_ROWS[0], "event_time_ms": -1}]
    path = tmp_path / "events"
    with pytest.raises(DataError, match=re.escape(f"{path}: row 3, column event_time_ms: should be ")):
        events_of(form, path, rows)


@pytest.mark.parametrize("form", FORMS)
def test_the_column_is_named_as_the_table_names_it(tmp_path: Path, form: str) -> None:
    row = {"user_id": "u", "sku": None, "event_type": "view", "event_time_ms": 5}
    with pytest.raises(DataError, match="row 1, column sku: is missing"):
        events_of(form, tmp_path / "events", [row], columns={"item_id": "sku"})


@pytest.mark.parametrize("form", WITH_VECTORS)
def test_a_bad_vector_is_named_by_row_and_column(tmp_path: Path, form: str) -> None:
    rows = [{"item_id": "a", "v": [1.0, 2.0]}, {"item_id": "b", "v": [1.0, 1e9]}]
    with pytest.raises(DataError, match=r"row 2, column v: .* too large for f2; use bf2 or f4"):
        items_of(form, tmp_path / "items", rows, vectors={"text": "v"})
    assert len(items_of(form, tmp_path / "items", rows, vectors={"text": "v"}, dtype="f4")) == 2


def test_bad_text_is_named_by_the_column_that_it_is_in(tmp_path: Path) -> None:
    for plot, problem in (("x" * 300_000, "at most 262144 characters"), (7, "should be text, got int")):
        with pytest.raises(DataError, match=f"row 1, column plot: .*{problem}"):
            items_of("jsonl", tmp_path / "items", [{"item_id": "a", "plot": plot}], texts={"text": "plot"})


@pytest.mark.parametrize("form", FORMS)
def test_bad_rows_can_be_left_out(tmp_path: Path, form: str) -> None:
    path, bad = tmp_path / "events", list[Any]()
    WRITERS[form](path, [EVENT_ROWS[0], {**EVENT_ROWS[0], "user_id": ""}, EVENT_ROWS[1]])
    events = import_tables(form, [], [path], ItemRows(), EventRows(), bad.append).events
    assert [event.event_id for event in events] == ["e1", "e2"]
    assert [str(error) for error in bad] == [f"{path}: row 2, column user_id: is missing"]


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_column_is_named_with_those_that_there_are(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="there is no column 'vector'; there are 'item_id', 'title'"):
        items_of(form, tmp_path / "items", [{"item_id": "a", "title": "A"}], vectors={"text": "vector"})


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_file_is_named(tmp_path: Path, form: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        list(READERS[form](tmp_path / "none", set()))


@pytest.mark.parametrize(
    ("form", "content", "problem"),
    [
        ("parquet", b"PAR1 no", "not a Parquet file"),
        ("jsonl", b'{"item_id": 1}\n{"item_id": \n', "line 2: not JSON"),
        ("jsonl", b"[1]\n", "line 1: should be a JSON object"),
        ("jsonl", b"\xff\xfe", "not a text file in UTF-8"),
        ("csv", b"\xff\xfe", "not a CSV file in UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_an_error(tmp_path: Path, form: str, content: bytes, problem: str) -> None:
    path = tmp_path / "items"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem):
        list(READERS[form](path, set()))


@pytest.mark.parametrize(
    ("form", "content", "problem"),
    [
        ("jsonl", '{"user_id": ' + "[" * 100_000 + "\n", "line 1: not JSON: it is nested too deeply"),
        (
            "jsonl",
            '{"user_id": "u"}\n{"event_time_ms": ' + "9" * 5_000 + "}\n",
            "row 1, column event_time_ms: is missing",
        ),
        ("jsonl", '{"event_time_ms": ' + "9" * 5_000 + "}\n", "line 1: not JSON: "),
        ("jsonl", gzip.compress(b"{}", mtime=0), "not a text file in UTF-8: it is gzip: unpack it first"),
        ("jsonl", '{"user_id": "u"}'.encode("utf-16"), "it is text in UTF-16: save it as UTF-8"),
        ("csv", gzip.compress(b"user_id", mtime=0), "not a CSV file in UTF-8: it is gzip: unpack it first"),
        ("csv", "user_id,item_id".encode("utf-16"), "it is text in UTF-16: save it as UTF-8"),
        ("csv", "user_id,é".encode("latin-1"), "it holds the byte 0xe9: save it as UTF-8"),
        ("csv", "", "is empty: the first line of a CSV file names its columns"),
        ("csv", HEADER + '"u,i,like,1\n' + "x" * 200_000, "is a quote not closed?"),
        ("csv", "user_id," + HEADER + "u,v,i,like,5\n", "there are two columns 'user_id'"),
        ("csv", HEADER + "u,i,Shirt, red,5\n", "row 1, has more cells than the header has columns"),
    ],
)
def test_what_is_no_such_table_is_told_on_one_line_with_the_cure(
    tmp_path: Path, form: str, content: Any, problem: str
) -> None:
    path = tmp_path / "table"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as raised:
        list(import_tables(form, [], [path], ItemRows(), EventRows()).events)
    assert str(path) in str(raised.value)
    assert problem in raised.value.one_line()


@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, form: str) -> None:
    path = tmp_path / "table"
    WRITERS[form](path, EVENT_ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(list(import_tables(form, [], [path], ItemRows(), EventRows()).events)) == 2


def test_empty_cells_beyond_the_header_are_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text(HEADER + "u,i,like,5,,\n")
    assert len(list(import_tables("csv", [], [path], ItemRows(), EventRows()).events)) == 1


def test_a_number_beyond_all_floats_is_no_element_of_a_vector(tmp_path: Path) -> None:
    path = tmp_path / "table"
    path.write_text('{"item_id": "i", "v": [' + "9" * 400 + ", 1]}\n")
    with pytest.raises(DataError, match="row 1, column v: should be a vector of numbers"):
        list(import_tables("jsonl", [path], [], ItemRows(vectors={"text": "v"}), EventRows()).items)
