"""A topic's name is not its log: another log under the name is noticed, told, and taken up by rule. What a log has
dropped before it was read is told, too."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kafka import TopicPartition
from kafka.admin import KafkaAdminClient
from kafka.structs import OffsetAndMetadata

from schemas import ItemVector, decode
from tests.brokers import Broker, Outgoing
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.stream import Stream, item, names
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread
from worker.errors import TopicError
from worker.item_vectors.source_offset import of_deletion
from worker.monitoring.status import IncidentStatus

pytestmark = pytest.mark.real_kafka

OLD, AGAIN = list(names(30)), list(names(30))[29:14:-1]
GONE = AGAIN[-1]


@pytest.fixture
def stream(make_stream: Callable[..., Stream], real_kafka: Broker) -> Stream:
    return make_stream(real_kafka)


@pytest.fixture
def admin(real_kafka: Broker) -> Iterator[KafkaAdminClient]:
    made = KafkaAdminClient(**real_kafka.options)
    yield made
    made.close()


def delete(admin: KafkaAdminClient, *topics: str) -> None:
    admin.delete_topics(list(topics))
    wait_until(lambda: all(each["error_code"] for each in admin.describe_topics(list(topics))), "gone")


def recreate(admin: KafkaAdminClient, stream: Stream, *topics: str, partitions: int = 2) -> None:
    delete(admin, *topics)
    stream.broker.create_topics(dict.fromkeys(topics, partitions))


def wait_until(condition: Callable[[], bool], name: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not {name} after {timeout:g} s"
        time.sleep(0.1)


def fill_again(stream: Stream, *, longer: bool) -> None:
    """In another order, with the same revision or a greater one, a delete and a new item; `longer` than it was."""
    stream.feed_items(AGAIN[::2], revision=2)
    stream.feed_items(AGAIN[1::2], revision=1)
    stream.feed([stream.upsert(AGAIN[1], 0), stream.delete(GONE)])
    stream.feed_items(["new"])
    if longer:
        stream.feed_items(names(80, "further"))


def newest(stream: Stream) -> dict[str, int | None]:
    """Item and revision as a reader has them who orders records by source offset, whatever their order."""
    found: dict[str, tuple[int, int | None]] = {}
    for record in reversed(stream.output_records()):
        name, vector = record.key.decode(), None if record.value is None else decode(ItemVector, record.value)
        at = of_deletion(record) if vector is None else vector.source_offset
        assert at is not None
        if at > found.get(name, (-1, None))[0]:
            found[name] = at, None if vector is None else vector.revision
    return {name: revision for name, (_, revision) in found.items()}


def require_taken_up(stream: Stream, *, longer: bool) -> None:
    expected: dict[str, int | None] = dict.fromkeys(OLD, 1)
    expected |= dict.fromkeys(AGAIN[::2], 2)
    expected |= {GONE: None, "new": 1}
    if longer:
        expected |= dict.fromkeys(names(80, "further"), 1)
    assert newest(stream) == expected
    times = Counter(name for name, _ in stream.published())
    assert all(times[name] >= 2 for name in AGAIN), "what came again with the same revision is published again, too"


def settings(stream: Stream, delivery: str, state_dir: Path | None) -> dict[str, Any]:
    return stream.settings({"delivery": delivery, **({} if state_dir is None else {"state.dir": state_dir})})


WAYS = pytest.mark.parametrize(
    ("delivery", "on_disk", "longer"),
    [
        ("at_least_once", False, False),
        ("at_least_once", True, True),
        ("exactly_once", False, True),
        ("exactly_once", True, False),
    ],
)


@WAYS
def test_a_log_made_again_while_the_worker_was_stopped_is_read_from_its_beginning(
    stream: Stream, admin: KafkaAdminClient, tmp_path: Path, delivery: str, on_disk: bool, longer: bool
) -> None:
    chosen = settings(stream, delivery, tmp_path / "state" if on_disk else None)
    stream.feed_items(OLD)
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
    recreate(admin, stream, stream.items)
    fill_again(stream, longer=longer)
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
        require_taken_up(stream, longer=longer)
        assert worker.metric("align_new_logs_total", topic=stream.items) == 2
        worker.until(lambda: {each.kind for each in incidents(worker)} == {"new_log"}, name="told")
        assert worker.metric("align_records_expired_total") == 0
    with WorkerThread(chosen) as worker:  # from now on it is the log that is known
        worker.wait_ready()
        worker.until(lambda: all(each.state == "running" for each in worker.items.partitions), name="running")
        assert worker.metric("align_new_logs_total") == 0
        assert worker.items.accounting.consumed == 0


@WAYS
def test_a_log_made_again_under_a_running_worker_is_read_from_its_beginning(
    stream: Stream, admin: KafkaAdminClient, tmp_path: Path, delivery: str, on_disk: bool, longer: bool
) -> None:
    stream.feed_items(OLD)
    with WorkerThread(settings(stream, delivery, tmp_path / "state" if on_disk else None)) as worker:
        stream.wait_committed(worker)
        recreate(admin, stream, stream.items)
        fill_again(stream, longer=longer)
        worker.until(lambda: worker.metric("align_new_logs_total", topic=stream.items) >= 2, 60, "told")
        stream.wait_committed(worker)
        require_taken_up(stream, longer=longer)


def test_a_refused_log_ends_the_worker_with_both_ids_and_changes_nothing(
    stream: Stream, admin: KafkaAdminClient
) -> None:
    chosen = stream.settings({"kafka.on_new_log": "refuse"})
    stream.feed_items(OLD)
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
        before = stream.published()
        ids = [admin.describe_topics([stream.items])[0]["topic_id"]]
        recreate(admin, stream, stream.items)
        fill_again(stream, longer=True)
        running = worker.failure(60)
    with WorkerThread(chosen) as worker:
        started = worker.failure(60)
    ids.append(admin.describe_topics([stream.items])[0]["topic_id"])
    for error in (running, started):
        assert isinstance(error, TopicError)
        assert error.exit_code == 4
        assert "topics.items" in error.one_line()
        assert "kafka.on_new_log" in error.one_line()
        assert stream.items in error.one_line()
        for topic_id in ids:
            assert tool_form(topic_id) in error.one_line()
    assert stream.published()[: len(before)] == before
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    require_taken_up(stream, longer=True)


def tool_form(topic_id: Any) -> str:
    import base64
    import uuid

    return base64.urlsafe_b64encode(uuid.UUID(str(topic_id)).bytes).decode().rstrip("=")


@pytest.mark.parametrize("partitions", [1, 3])
def test_a_log_that_comes_back_with_other_partitions_is_refused(
    stream: Stream, admin: KafkaAdminClient, partitions: int
) -> None:
    stream.feed_items(OLD)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        recreate(admin, stream, stream.items, partitions=partitions)
        stream.feed([Outgoing(stream.items, b"new", item("new"), partitions - 1)])
        running = worker.failure(60)
    with WorkerThread(stream.settings()) as worker:
        started = worker.failure(60)
    for error in (running, started):
        assert isinstance(error, TopicError)
        assert stream.items in error.one_line()
        assert "partitions" in error.one_line()
    assert "new" not in newest(stream)


@pytest.mark.parametrize("name", ["items", "item_vectors", "item_state", "dead_letters"])
def test_a_topic_that_is_deleted_for_good_ends_the_worker_and_is_not_made_by_it(
    stream: Stream, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("worker.loop.log_watch.MISSING_S", 3.0)
    monkeypatch.setattr("worker.loop.restore.LOOK_S", 0.5)
    topic = stream.topics[name]
    stream.feed_items(OLD)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        delete(admin, topic)
        error = worker.failure(60)
    assert isinstance(error, TopicError)
    assert f"topics.{name}: topic '{topic}' was deleted" in error.one_line()
    assert admin.describe_topics([topic])[0]["error_code"] == 3


def test_outputs_made_again_are_filled_with_everything_that_is_remembered(
    stream: Stream, admin: KafkaAdminClient
) -> None:
    stream.feed_items(OLD)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        recreate(admin, stream, stream.vectors)
        wait_until(lambda: newest(stream).keys() == set(OLD), "filled again")
    recreate(admin, stream, stream.vectors)
    with WorkerThread(stream.settings()) as worker:
        wait_until(lambda: newest(stream).keys() == set(OLD), "filled again")
        assert worker.metric("align_new_logs_total") == 2
        stream.feed_items(["later"])
        stream.wait_committed(worker)
    with WorkerThread(stream.settings()) as worker:
        worker.until(lambda: [each.state for each in worker.items.partitions] == ["running"] * 2, name="running")
        assert worker.metric("align_new_logs_total") == 0


def test_what_is_remembered_is_built_again_where_its_changelog_was_made_again(
    stream: Stream, admin: KafkaAdminClient, tmp_path: Path
) -> None:
    chosen = stream.settings({"state.dir": tmp_path})
    stream.feed_items(OLD)
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
        recreate(admin, stream, stream.state)
        worker.until(lambda: worker.metric("align_new_logs_total") == 2, 60, "told")
        stream.feed([stream.record(OLD[0], item(OLD[0], 2, features={"text": part("text")}, partial=True))])
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.state["remembered"] == len(OLD), name="whole")
    vectors = [decode(ItemVector, each.value) for each in stream.output_records() if each.key == OLD[0].encode()]
    assert vectors[-1].modalities == ("image", "text"), "the part that was remembered is known again"


def part(modality: str) -> Any:
    from tests.integration.stream import feature

    return feature(modality, 7)


def test_events_of_a_log_made_again_count_once_and_new_ones_at_once(stream: Stream, admin: KafkaAdminClient) -> None:
    users = UserStream(stream)
    users.create_topics()
    stream.feed_items(OLD)
    events = [users.event(f"user-{n % 5}", OLD[n], n) for n in range(20)]
    users.feed(events)
    with WorkerThread(users.settings()) as worker:
        stream.wait_committed(worker)
        users.wait_committed(worker)
        recreate(admin, stream, users.events)
        further = [users.event(f"user-{n % 5}", OLD[n], n) for n in range(10, 28)]
        users.feed([*further, users.event("late", OLD[0], 5)])
        worker.until(lambda: worker.metric("align_new_logs_total", topic=users.events) >= 2, 60, "told")
        users.wait_committed(worker)
        worker.until(lambda: worker.users.accounting.in_flight == 0 and worker.users.queue_records == 0)
    counts = {user: vector.num_events for user, vector in users.published().items()}
    assert counts == {**{f"user-{n}": sum(each % 5 == n for each in range(28)) for n in range(5)}, "late": 1}


def test_users_read_item_vectors_of_a_topic_made_again(stream: Stream, admin: KafkaAdminClient) -> None:
    """The reader of all item vectors has its own place in them."""
    users = UserStream(stream)
    users.create_topics()
    stream.feed_items(OLD)
    with WorkerThread(users.settings("users")) as reader:
        with WorkerThread(stream.settings()) as worker:
            stream.wait_committed(worker)
        reader.until(lambda: reader.metric("align_table_items") == len(OLD), name="following")
        recreate(admin, stream, stream.vectors, stream.items)
        stream.feed_items(["new", *OLD[:5]], revision=2)
        stream.feed_items(names(60, "further"))
        with WorkerThread(stream.settings()) as worker:
            stream.wait_committed(worker)
        reader.until(lambda: reader.metric("align_table_items") == len(OLD) + 61, 60, "following the new log")
        users.feed([users.event("user", "new", 1)])
        users.wait_committed(reader)
    (vector,) = users.final().values()
    written = {each.key: decode(ItemVector, each.value).vector.to_numpy() for each in stream.output_records()}
    assert float(np.dot(vector, written[b"new"].astype("f4"))) > 0.99


# What a log has dropped before it was read.


def incidents(worker: WorkerThread) -> list[IncidentStatus]:
    """But those about partitioners: these tests place keys by hand."""
    return [each for each in worker.items.incidents if each.kind != "partitioners"]


def drop_before(admin: KafkaAdminClient, topic: str, offsets: Mapping[int, int]) -> None:
    admin.delete_records({TopicPartition(topic, number): offset for number, offset in offsets.items()})


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_records_that_expired_while_the_worker_was_stopped_are_counted(
    stream: Stream, admin: KafkaAdminClient, delivery: str, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(stream, delivery, None)
    stream.feed([stream.upsert(name, partition=0) for name in OLD])
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
    stream.feed([stream.upsert(name, partition=0) for name in names(30, "unseen")])
    drop_before(admin, stream.items, {0: 50})
    with WorkerThread(chosen) as worker:
        stream.wait_committed(worker)
        assert worker.metric("align_records_expired_total", topic=stream.items) == 20
        worker.until(lambda: bool(incidents(worker)), name="told")
        (incident,) = incidents(worker)
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "records_expired"]
    assert len(told) == 1
    for part_of in (f"{stream.items}/0", "30 to 49", "20 offsets"):
        assert part_of in told[0]
        assert part_of in incident.detail
    assert incident.kind == "expired"


@BOTH_LIBRARIES
def test_records_that_expire_under_a_running_worker_are_counted(
    stream: Stream, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is held up by an encoder, a frozen broker, its own backlog: here it does not get to poll."""
    stream.feed([stream.upsert(name, partition=0) for name in OLD])
    held = [True]
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        from worker.loop.source import Source

        polls = Source.poll

        def poll(self: Source) -> Any:
            while held[0]:
                time.sleep(0.02)
            return polls(self)

        monkeypatch.setattr(Source, "poll", poll)
        admin.delete_records({TopicPartition(stream.items, 0): -1})
        stream.feed([stream.upsert(name, partition=0) for name in names(25, "unseen")])
        drop_before(admin, stream.items, {0: 55})
        held[0] = False
        # What the client had fetched already it hands out; the rest is lost, and nothing is both.
        worker.until(
            lambda: worker.metric("align_records_expired_total") + worker.items.accounting.consumed == 55, 60, "told"
        )
        stream.feed([stream.upsert("after", partition=0)])
        stream.wait_committed(worker)
        lost = worker.metric("align_records_expired_total")
    assert lost == 55 - len(OLD) - sum(name.startswith("unseen") for name, _ in stream.published())


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_what_retention_drops_behind_the_group_is_no_loss(
    stream: Stream, admin: KafkaAdminClient, delivery: str
) -> None:
    """Nor are the offsets of markers, of which every transaction leaves one."""
    from kafka import KafkaProducer

    producer = KafkaProducer(**stream.broker.options, transactional_id=f"feeder-of-{stream.items}")
    producer.init_transactions()
    chosen = settings(stream, delivery, None)
    with WorkerThread(chosen) as worker:
        worker.wait_ready()
        for number, name in enumerate(OLD):
            producer.begin_transaction()
            record = stream.upsert(name, partition=0)
            producer.send(record.topic, key=record.key, value=record.value, partition=0)
            producer.flush()
            producer.abort_transaction() if number % 3 == 0 else producer.commit_transaction()
        worker.until(lambda: worker.items.accounting.published == 20, name="done")
        worker.until(lambda: (worker.items.partitions[0].lag or 0) == 0)
        drop_before(admin, stream.items, {0: -1})
        producer.begin_transaction()
        record = stream.upsert("after", partition=0)
        producer.send(record.topic, key=record.key, value=record.value, partition=0)
        producer.commit_transaction()
        worker.until(lambda: worker.items.accounting.published == 21, name="done")
        assert worker.metric("align_records_expired_total") == 0
        assert incidents(worker) == []
        wait_until(lambda: stream.is_committed(stream.ends()), "committed behind the last marker")
    drop_before(admin, stream.items, {0: -1})
    producer.close()
    with WorkerThread(chosen) as worker:
        worker.until(lambda: [each.state for each in worker.items.partitions] == ["running"] * 2, name="running")
        assert worker.metric("align_records_expired_total") == 0


@BOTH_LIBRARIES
def test_a_log_cut_short_is_told_and_read_again(stream: Stream, admin: KafkaAdminClient) -> None:
    """As after an unclean election: the group has read up to an offset that the log has not reached."""
    stream.feed_items(OLD)
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    ends = stream.ends()
    beyond = {TopicPartition(stream.items, number): OffsetAndMetadata(end + 40, "", -1) for number, end in ends.items()}
    admin.alter_group_offsets(stream.group, beyond)
    with WorkerThread(stream.settings({"kafka.on_new_log": "refuse"})) as worker:
        error = worker.failure(60)
    assert isinstance(error, TopicError)
    assert f"before offset {ends[0] + 40}" in error.one_line() or f"before offset {ends[1] + 40}" in error.one_line()
    stream.feed_items(["new"])
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
        assert worker.metric("align_new_logs_total") == 2
    assert newest(stream) == dict.fromkeys([*OLD, "new"], 1)
