import threading
from typing import Any

import pytest

from schemas import DeadLetter, ItemVector, Reason, decode
from tests.fakes import FakeClient, FakeCluster, FakeRecord, feature
from worker.kafka.port import Commit
from worker.partitions.lease import MembershipLease, boottime
from worker.partitions.tenure import Tenure
from worker.records import Delete, Item, TopicPartition
from worker.roles.items import ItemFormat
from worker.settings import Settings
from worker.stages.fuse import Fused, FusedSlice, Vector
from worker.stages.publish import OpenProducers, Publisher, Unacknowledged
from worker.topics import topics_of

OUTPUT = ItemFormat(topics_of("items", Settings()), "space", "f2", 2)
VECTOR = Vector(b"\x00\x3c\x00\x00", ("text",))

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster(2)


@pytest.fixture
def lease() -> MembershipLease:
    held = MembershipLease(60)
    held.renew(boottime())
    return held


def fused(tenure: Tenure, *items: Item | Delete) -> Fused:
    read = tenure.open_slice()
    for item in items:
        read.add(item)
    tenure.num_consumed += len(items)
    read.freeze()
    results = [(entry, VECTOR if isinstance(entry, Item) else None) for entry in read.newest.values()]
    return Fused([FusedSlice(read, results)], len(results))


def item(item_id: str, offset: int, headers: Any = ()) -> Item:
    record = FakeRecord(partition=1, offset=offset, key=item_id.encode(), headers=headers)
    return Item(record, item_id, 3, 77, {"text": feature()})


def publisher(cluster: FakeCluster, lease: MembershipLease, unacknowledged: Unacknowledged | None = None) -> Publisher:
    client = FakeClient(cluster)
    made = Publisher(OUTPUT, lease, unacknowledged or Unacknowledged(100), lambda: None)
    made.use(OpenProducers(client.producer(), client.producer()))
    return made


def letters_of(cluster: FakeCluster) -> list[DeadLetter]:
    return [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]


@pytest.fixture
def tenure() -> Tenure:
    return Tenure(TopicPartition("items", 1), Commit(0))


def test_a_vector_says_where_it_comes_from(cluster: FakeCluster, lease: MembershipLease, tenure: Tenure) -> None:
    trace = [("traceparent", TRACE), ("secret", b"x"), ("tracestate", b"y")]
    publisher(cluster, lease).publish(fused(tenure, item("a", 5, trace)))
    (record,) = cluster.records("item-vectors")
    vector = decode(ItemVector, record.value)
    assert (record.partition, record.key) == (1, b"a")
    assert record.headers == (("traceparent", TRACE), ("tracestate", b"y"))
    assert (vector.item_id, vector.revision, vector.event_time_ms, vector.source_offset) == ("a", 3, 77, 5)
    assert (vector.space_id, vector.modalities, vector.vector.data) == ("space", ("text",), VECTOR.data)


def test_receipts_finish_the_slice(cluster: FakeCluster, lease: MembershipLease, tenure: Tenure) -> None:
    publisher(cluster, lease).publish(
        fused(tenure, item("a", 0), Delete(FakeRecord(partition=1, offset=1, key=b"b"), "b"))
    )
    (done,) = tenure.settle()
    assert done.written.vectors_end == 2
    assert tenure.commit.offset == 2


def test_nothing_of_a_retired_tenure_is_sent(cluster: FakeCluster, lease: MembershipLease, tenure: Tenure) -> None:
    work = fused(tenure, item("a", 0))
    tenure.retire()
    publisher(cluster, lease).publish(work)
    assert cluster.records("item-vectors") == []


def test_nothing_is_sent_without_a_lease_until_it_is_renewed(cluster: FakeCluster, tenure: Tenure) -> None:
    lease, beats = MembershipLease(60), threading.Event()
    made = publisher(cluster, lease)
    made._beat = beats.set
    thread = threading.Thread(target=made.publish, args=(fused(tenure, item("a", 0)),))
    thread.start()
    assert beats.wait(5)
    assert cluster.records("item-vectors") == []
    lease.renew(boottime())
    thread.join(5)
    assert len(cluster.records("item-vectors")) == 1


def test_a_lost_tenure_ends_the_wait_for_a_lease(cluster: FakeCluster, tenure: Tenure) -> None:
    made, beats = publisher(cluster, MembershipLease(60)), threading.Event()
    made._beat = beats.set
    thread = threading.Thread(target=made.publish, args=(fused(tenure, item("a", 0)),))
    thread.start()
    assert beats.wait(5)
    tenure.retire()
    thread.join(5)
    assert not thread.is_alive()
    assert cluster.records("item-vectors") == []


def test_a_vector_too_large_for_its_topic_becomes_a_dead_letter(
    cluster: FakeCluster, lease: MembershipLease, tenure: Tenure
) -> None:
    made = publisher(cluster, lease)
    made.limit("item-vectors", 100)
    made.publish(fused(tenure, item("a", 0)))
    assert cluster.records("item-vectors") == []
    assert len(cluster.records("dead-letters")) == 1
    assert len(tenure.settle()) == 1


def test_what_a_refused_input_had_displaced_is_refused_with_it(
    cluster: FakeCluster, lease: MembershipLease, tenure: Tenure
) -> None:
    """An older message of the item is no smaller, and its record must not vanish."""
    made = publisher(cluster, lease)
    made.limit("item-vectors", 140)
    made.publish(
        fused(
            tenure,
            item("a", 0),
            item("a", 1),
            Delete(FakeRecord(partition=1, offset=2, key=b"b"), "b", is_overtaken=True),
        )
    )
    assert [letter.offset for letter in letters_of(cluster)] == [1, 0]
    (done,) = tenure.settle()
    assert [entry.id for entry in done.kept()] == ["b"]
    assert done.num_same_batch - done.written.num_restored == 0


def test_a_slice_does_not_change_once_it_is_handed_over(tenure: Tenure) -> None:
    work = fused(tenure, item("a", 0)).slices[0]
    with pytest.raises(AssertionError):
        work.read.reject(work.results[0][0], Reason.MODEL_FAILURE, "fuse", "")


def test_unacknowledged_records_are_bounded_but_a_large_slice_gets_through(tenure: Tenure) -> None:
    unacknowledged = Unacknowledged(10)
    small, large = tenure.open_slice().written, tenure.open_slice().written
    assert unacknowledged.wait_for_room(50, 0)
    unacknowledged.add(small, 8)
    assert unacknowledged.wait_for_room(2, 0)
    assert not unacknowledged.wait_for_room(3, 0)
    unacknowledged.remove(small)
    unacknowledged.remove(small)
    assert unacknowledged.num_records == 0
    unacknowledged.add(large, 50)
    assert not unacknowledged.wait_for_room(1, 0)
    unacknowledged.clear()
    assert unacknowledged.wait_for_room(1, 0)
