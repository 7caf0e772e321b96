"""The catalogue reads on beside a partition that it cannot read, and says so."""

from __future__ import annotations

from schemas import ItemVector, encode
from schemas.tensor import Tensor
from tests.fakes import FakeClient, FakeCluster
from worker.item_vectors.follower import ItemVectorFollower
from worker.item_vectors.table import ItemTable
from worker.records import TopicPartition

P0 = TopicPartition("item-vectors", 0)


def vector(name: str) -> bytes:
    tensor = Tensor(dtype="f4", shape=(2,), data=bytes.fromhex("0000803f00000000"))
    return encode(
        ItemVector(
            item_id=name, revision=1, event_time_ms=1, space_id="s", vector=tensor, modalities=("text",),
            produced_at_ms=1, source_offset=0,
        )
    )  # fmt: skip


def test_vectors_of_a_comparable_space_are_followed_and_those_of_another_are_not() -> None:
    cluster = FakeCluster(1)
    cluster.append("item-vectors", 0, b"a", vector("a"))
    for compatible_ids, expected in (((), []), (("s",), ["a"])):
        table = ItemTable(2, "float32", "cpu")
        catalogue = ItemVectorFollower(
            FakeClient(cluster), "item-vectors", "new", 2, table, compatible_ids=compatible_ids
        )
        for _ in range(3):
            catalogue.step()
        assert [name for name in ("a",) if name in table] == expected


def test_what_cannot_be_read_is_as_though_it_had_not_been_published_yet() -> None:
    cluster = FakeCluster(2)
    for partition in (0, 1):
        for number in range(3):
            name = f"p{partition}-{number}"
            cluster.append("item-vectors", partition, name.encode(), vector(name))
    cluster.unreadable.add((P0, 1))
    catalogue = ItemVectorFollower(FakeClient(cluster), "item-vectors", "s", 2, ItemTable(2, "float32", "cpu"))
    for _ in range(3):
        catalogue.step()
    assert catalogue.is_ready
    assert [name for name in ("p0-0", "p0-1", "p0-2", "p1-2") if name in catalogue.table] == ["p0-0", "p1-2"]
    assert [error.offset for error in catalogue.unreadable] == [1]
    catalogue.is_up_to_date()
    catalogue.step()
    assert not catalogue.is_up_to_date()
    cluster.unreadable.clear()
    catalogue.step()
    assert not catalogue.unreadable
    assert "p0-2" in catalogue.table
    assert catalogue.is_up_to_date()
