"""What a record asks of an index, and which of two such is the newer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from schemas import ItemVector, Reason, Tensor, UserVector, encode
from tests.fakes import FakeRecord
from worker.item_vectors.source_offset import HEADER
from worker.records import Rejection
from worker.sink.batch import by_collection, folded
from worker.sink.row import Collection, Place, Row, is_newer, read_row

HALVES = Tensor(dtype="f2", shape=(2,), data=np.array([0.6, 0.8], "<f2").tobytes())
IN_X, IN_Y = Collection("items", "x", 2), Collection("items", "y", 2)


def item_record(**fields: Any) -> FakeRecord:
    message = {
        "item_id": "a", "revision": 3, "event_time_ms": 5, "space_id": "x", "vector": HALVES, "modalities": ("text",),
        "produced_at_ms": 9, "source_offset": 7, "attributes": {"price": 1.5}, **fields,
    }  # fmt: skip
    return FakeRecord("item-vectors", 1, 11, 10, b"a", encode(ItemVector(**message)))


def test_a_vector_is_read_with_all_that_an_index_needs() -> None:
    row = read_row(item_record(), "items", "log")
    assert isinstance(row, Row)
    assert row.place == Place("log", 1, 7, 11, 9, 3)
    assert (row.id, row.collection, row.attributes) == ("a", IN_X, {"price": 1.5})
    assert row.vector.dtype == np.float32
    assert row.vector.tolist() == pytest.approx([0.6, 0.8], abs=1e-3)


def test_a_deletion_is_read_with_the_source_offset_of_its_header() -> None:
    row = read_row(FakeRecord("item-vectors", 1, 12, 99, b"a", None, ((HEADER, b"8"),)), "items", "log")
    assert row == Row("a", Place("log", 1, 8, 12, 99), None)
    assert row.is_deleted


def test_a_vector_of_a_user_counts_by_its_place_in_the_log() -> None:
    message = UserVector(user_id="u", event_time_ms=5, num_events=2, space_id="x", vector=HALVES, produced_at_ms=9)
    row = read_row(FakeRecord("user-vectors", 0, 4, 10, b"u", encode(message)), "users", "log")
    assert (row.place, row.collection, row.num_events) == (Place("log", 0, None, 4, 9), Collection("users", "x", 2), 2)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (FakeRecord("item-vectors", 0, 1, 1, b"a", b"\xc1"), Reason.NOT_MSGPACK),
        (FakeRecord("item-vectors", 0, 1, 1, b"b", item_record().value), Reason.KEY_MISMATCH),
        (FakeRecord("item-vectors", 0, 1, 1, b"\xff", None), Reason.KEY_MISMATCH),
        (FakeRecord("item-vectors", 0, 1, 1, b"", None), Reason.KEY_MISMATCH),
        (FakeRecord("item-vectors", 0, 1, 1, None, None), Reason.KEY_MISMATCH),
        (FakeRecord("item-vectors", 0, 1, 1, b"a", None, ((HEADER, b"x"),)), Reason.KEY_MISMATCH),
        (FakeRecord("item-vectors", 0, 1, 1, b"a", b'{"item_id": "a"}'), Reason.UNSUPPORTED_VERSION),
    ],
)
def test_what_is_no_vector_is_refused_with_a_reason(record: FakeRecord, reason: Reason) -> None:
    found = read_row(record, "items", "log")
    assert isinstance(found, Rejection)
    assert found.reason is reason


def newer(found: Place, known: Place, is_deleted: Any = False, was_deleted: Any = False) -> bool:
    return is_newer(found, known, is_deleted=is_deleted, was_deleted=was_deleted)


def test_within_a_partition_the_source_offset_decides_and_of_equal_ones_the_place_in_the_log() -> None:
    known = Place("log", 0, 5, 20, 100, 1)
    assert newer(Place("log", 0, 6, 10, 1, 0), known)
    assert not newer(Place("log", 0, 4, 30, 999, 9), known)
    assert newer(Place("log", 0, 5, 21, 1), known)
    assert not newer(Place("log", 0, 5, 20, 100, 1), known), "the same again"
    assert newer(Place("another", 0, 5, 3, 101), known), "another log: the later counts"
    assert not newer(Place("another", 0, 5, 3, 99), known)


def test_what_has_no_source_offset_counts_as_it_lies_in_the_log() -> None:
    known = Place("log", 0, 5, 20, 100)
    assert newer(known._replace(source_offset=None, offset=21), known)
    assert not newer(known._replace(source_offset=None, offset=19), known)
    assert newer(known._replace(offset=19), known._replace(source_offset=None)), "it is known where it comes from"


def test_a_key_in_two_partitions_goes_by_revision_and_a_deletion_by_time() -> None:
    known = Place("log", 0, 50, 20, 100, 5)
    assert newer(Place("log", 1, 1, 1, 50, 6), known)
    assert not newer(Place("log", 1, 99, 99, 999, 4), known)
    assert newer(Place("log", 1, 1, 1, 101), known, is_deleted=True)
    assert not newer(Place("log", 1, 1, 1, 99), known, is_deleted=True)
    assert not newer(Place("log", 1, 1, 1, 99, 9), known, was_deleted=True)


def row(row_id: str, offset: int, collection: Collection | None = IN_X) -> Row:
    vector = None if collection is None else np.zeros(2, np.float32)
    return Row(row_id, Place("log", 0, offset, offset, offset), collection, vector)


def test_of_the_rows_of_an_id_the_newest_is_written_whatever_their_order() -> None:
    found = folded([row("a", 3), row("b", 1), row("a", 2), row("a", 4)])
    assert {name: each.place.offset for name, each in found.items()} == {"a": 4, "b": 1}


def test_a_deletion_goes_to_every_space_that_there_is_and_yields_to_what_is_newer() -> None:
    told = by_collection([row("a", 1), row("a", 5, None), row("a", 9, IN_Y), row("b", 2, None)], [IN_Y])
    assert {each: {one.id: one.place.offset for one in rows} for each, rows in told.items()} == {
        IN_X: {"a": 5, "b": 2},
        IN_Y: {"a": 9, "b": 2},
    }
