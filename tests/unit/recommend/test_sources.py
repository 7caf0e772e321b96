"""What is read from topics and files is the same, and what cannot be read is told."""

from pathlib import Path

import pytest

from schemas import UserEvent, encode
from tests.fakes import FakeClient, FakeCluster
from tests.unit.recommend.published import SPACE, event, item_vector, tensor, user_vector, world
from worker.data.files import read_events, read_item_vectors, read_user_vectors, write_encoded, write_events
from worker.errors import DataError, TopicError
from worker.item_vectors.source_offset import header
from worker.mapping.source import event_source
from worker.recommend.published import LeftOut, collect_activity, collect_items, collect_users
from worker.recommend.sources import Files, Gone, Topics, Unreadable
from worker.recommend.table import left_out_lines
from worker.settings import TopicSettings


@pytest.fixture
def cluster() -> FakeCluster:
    cluster, (items, users, events) = FakeCluster(2), world()
    for number, (topic, message) in enumerate(
        [("item-vectors", each) for each in items]
        + [("user-vectors", each) for each in users]
        + [("events", each) for each in events]
    ):
        cluster.append(topic, number % 2, message.key, encode(message))
    return cluster


def topics(cluster: FakeCluster) -> Topics:
    return Topics(FakeClient(cluster), TopicSettings())


def test_topics_are_read_whole_and_of_users_only_those_asked_for(cluster: FakeCluster) -> None:
    source, (items, users, events) = topics(cluster), world()
    read = [each.vector for each in source.item_vectors()]
    assert sorted(read, key=lambda each: each.item_id) == sorted(items, key=lambda each: each.item_id)
    assert list(source.user_vectors({"bob"})) == [users[1]]
    assert list(source.events({"ada"})) == [events[0], events[1]]
    assert len(list(source.events(None))) == 3


def test_the_newest_of_an_item_counts_whatever_the_order(cluster: FakeCluster) -> None:
    source = topics(cluster)
    for offset, values in ((7, (0, 1)), (5, (1, 0)), (7, (0, 1))):
        cluster.append("item-vectors", 0, b"again", encode(item_vector("again", *values, source_offset=offset)))
    cluster.append("item-vectors", 0, b"up", None, [header(3)])
    cluster.append("item-vectors", 1, b"back", None, [header(3)])
    cluster.append("item-vectors", 1, b"back", encode(item_vector("back", 1, 0, source_offset=4)))
    items = collect_items(source.item_vectors())
    assert items.item_ids == ["again", "back", "right", "rightish", "upish"]
    assert items.vectors_ID[0].tolist() == [0, 1]


def test_a_key_in_two_partitions_is_told_and_the_newest_counts_in_either_order(cluster: FakeCluster) -> None:
    """Its producers have different partitioners: offsets of two partitions say nothing of each other."""
    source = topics(cluster)
    for old, new in ((0, 1), (1, 0)):
        name = f"moved-{new}"
        for partition, offset, revision, values in ((old, 90, 1, (1, 0)), (new, 2, 2, (0, 1))):
            vector = item_vector(name, *values, source_offset=offset).model_copy(update={"revision": revision})
            cluster.append("item-vectors", partition, name.encode(), encode(vector))
        cluster.append(
            "item-vectors", old, b"gone-%d" % new, encode(item_vector(f"gone-{new}", 1, 0, source_offset=90))
        )
        cluster.append("item-vectors", new, b"gone-%d" % new, None, [header(3)])
    items = collect_items(source.item_vectors())
    assert {"gone-0", "gone-1"}.isdisjoint(items.item_ids)
    for name in ("moved-0", "moved-1"):
        assert items.vectors_ID[items.rows[name]].tolist() == [0, 1]
    assert items.left_out.astray == 4
    assert any(
        "4 records are of items that lie in another partition" in line for line in left_out_lines(items.left_out)
    )


def test_what_is_no_vector_is_left_out_and_told(cluster: FakeCluster) -> None:
    for key, value in ((b"x", b"\xc1"), (b"other", encode(item_vector("x", 1, 0))), (b"\xff", None)):
        cluster.append("item-vectors", 0, key, value)
    cluster.append("user-vectors", 0, b"ada", None)
    source = topics(cluster)
    items = collect_items(source.item_vectors())
    assert len(items.item_ids) == 4
    assert items.left_out.unreadable == 3
    assert "item-vectors/0 offset 2: the value is not a complete" in items.left_out.first_unreadable
    assert [type(each) for each in source.user_vectors({"ada"})].count(Unreadable) == 1


def test_a_topic_that_is_missing_is_named_with_its_setting(cluster: FakeCluster) -> None:
    with pytest.raises(TopicError, match=r"topics\.item_vectors: topic 'nowhere' does not exist"):
        list(Topics(FakeClient(cluster), TopicSettings(item_vectors="nowhere")).item_vectors())


def test_saved_topics_are_files_that_say_the_same(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.append("item-vectors", 0, b"up", None, [header(3)])
    cluster.append("item-vectors", 0, b"x", b"\xc1")
    cluster.append("user-vectors", 1, b"bob", encode(user_vector("bob", 1, 1)))
    source = topics(cluster)
    files = source.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "item-vectors.msgpack", "user-vectors.msgpack", "events.msgpack"
    }  # fmt: skip
    theirs, ours = collect_items(source.item_vectors()), collect_items(files.item_vectors())
    assert ours.item_ids == theirs.item_ids == ["right", "rightish", "upish"]
    assert ours.vectors_ID.equal(theirs.vectors_ID)
    both = [collect_users(each.user_vectors(None), SPACE, 2, LeftOut()) for each in (source, files)]
    assert both[0].keys() == both[1].keys() == {"ada", "bob"}
    assert both[1]["bob"].vector.tolist() == tensor(1, 1).to_numpy().tolist()
    assert collect_activity(files.events(None), LeftOut()) == collect_activity(source.events(None), LeftOut())


def test_without_the_users_topics_there_are_items_to_save(cluster: FakeCluster, tmp_path: Path) -> None:
    names = TopicSettings(user_vectors="none", events="none-either")
    files = Topics(FakeClient(cluster), names).save(tmp_path)
    assert (files.user_files, files.event_files) == ([], [])
    assert len(collect_items(files.item_vectors()).item_ids) == 4


def test_files_of_several_parts_are_one(tmp_path: Path) -> None:
    items, users, events = world()
    for number, each in enumerate(items):
        write_encoded(tmp_path / f"items-{number}.msgpack.zst", [encode(each)])
    write_encoded(tmp_path / "users.msgpack.gz", map(encode, users))
    write_events(tmp_path / "events.msgpack", events)
    files = Files(sorted(tmp_path.glob("items-*")), [tmp_path / "users.msgpack.gz"], [tmp_path / "events.msgpack"])
    assert list(files.item_vectors()) == items
    assert list(files.user_vectors({"ada"})) == users[:1]
    assert list(files.events(None)) == events


def test_files_of_something_else_are_refused(tmp_path: Path) -> None:
    write_events(tmp_path / "events.msgpack", [event("ada", "up", 1)])
    for read in (read_item_vectors, read_user_vectors):
        with pytest.raises(DataError, match=r"events\.msgpack: .*Vector 1, at byte 0"):
            list(read(tmp_path / "events.msgpack"))
    assert len(list(read_events(tmp_path / "events.msgpack"))) == 1


def test_a_deletion_from_another_writer_is_taken_as_it_lies_in_the_log() -> None:
    items = collect_items([item_vector("a", 1, 0, source_offset=9), item_vector("b", 1, 0), Gone("a", None)])
    assert items.item_ids == ["b"]


def test_events_in_json_are_read_by_their_mapping(cluster: FakeCluster, tmp_path: Path) -> None:
    mapping = tmp_path / "shop.yaml"
    mapping.write_text("events: {user_id: u, item_id: i, event_type: {value: view}, event_time: t, skip: bot}")
    for name, key in (("a", b"a"), ("b", b"b"), ("a", b"other")):
        cluster.append("events", 0, key, b'{"u": "%s", "i": "x", "t": 5}' % name.encode())
    cluster.append("events", 0, b"a", b'{"u": "a", "i": "x", "t": 5, "bot": true}')
    source = event_source("input.events", "json", mapping, None)
    topics = Topics(FakeClient(cluster), TopicSettings(), source)
    read = list(topics.events({"a"}))
    assert [each.user_id for each in read if isinstance(each, UserEvent)] == ["a"]
    assert any("align-worker relay" in each.detail for each in read if isinstance(each, Unreadable))
    saved = topics.save(tmp_path / "saved")
    assert {each.user_id for each in saved.events(None)} == {"a", "b"}
