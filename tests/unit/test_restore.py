import pytest

from schemas import ItemVector, Tensor, encode
from tests.fakes import FakeRecord
from worker.errors import SpaceError
from worker.roles.items import newest_published

TENSOR = Tensor(dtype="f4", shape=(1,), data=b"\x00\x00\x80?")


def vector(item_id: str, revision: int, source_offset: int | None, space_id: str = "here") -> FakeRecord:
    message = ItemVector(
        item_id=item_id, revision=revision, event_time_ms=0, space_id=space_id, vector=TENSOR, modalities=("text",),
        produced_at_ms=0, source_offset=source_offset,
    )  # fmt: skip
    return FakeRecord(key=item_id.encode(), value=encode(message))


def tombstone(item_id: str, source_offset: int) -> FakeRecord:
    return FakeRecord(key=item_id.encode(), headers=[("align-source-offset", b"%d" % source_offset)])


def test_the_last_output_of_each_item_counts():
    records = [vector("a", 1, 10), vector("b", 4, 11), vector("a", 2, 12), tombstone("b", 13)]
    assert newest_published(records, "here") == {"a": 12, "b": 13}


def test_vectors_of_another_space_are_refused():
    with pytest.raises(SpaceError, match=r"space there.*topics\.item_vectors"):
        newest_published([vector("a", 1, 10), vector("b", 1, 11, space_id="there")], "here")


def test_records_of_others_are_passed_over(caplog):
    records = [
        FakeRecord(key=b"a", value=b"?"),
        FakeRecord(key=b"\xff", value=b"?"),
        vector("c", 1, 3),
    ]
    assert newest_published(records, "here") == {"c": 3}
    assert [record.action for record in caplog.records] == ["foreign_output"] * 2
