"""The whole loop on a log in memory: what must hold whatever happens on the way."""

import threading
from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from schemas import DeadLetter, ItemVector, NewItem, Reason, decode, encode
from tests.fakes import FakeClient, FakeCluster, FakeEmbedder, FakeLog, feature, item_value
from tests.unit.loop.harness import SETTINGS, LoopHarness
from worker.align import Contract
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.errors import (
    AccessError,
    ClientError,
    RecordTooLargeError,
    SpaceError,
    SystemicError,
    TopicError,
    UnreadableError,
)
from worker.kafka.port import Commit
from worker.loop.restore import Restored
from worker.partitions.tenure import Note, format_note
from worker.records import TopicPartition
from worker.roles.items import ItemFormat, ItemsRole
from worker.stages.producers import backoff_s
from worker.state import MemoryStore
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay
from worker.topics import topics_of

SPEC = SpaceSpec(
    dim=2,
    width=4,
    modalities={"text": ModalitySpec(dim=4)},
    fusion=SelfAttentionSpec(layers=1, heads=1, hidden=4),
)
POISON = 13.0
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
P0, P1 = TopicPartition("items", 0), TopicPartition("items", 1)


class Harness(LoopHarness):
    """Of the items role."""

    def __init__(
        self,
        cluster: FakeCluster,
        embedder: FakeEmbedder | None = None,
        space_id: Any = "space",
        settings: Any = SETTINGS,
        until_caught_up: Any = False,
        **client: Any,
    ) -> None:
        topics = topics_of("items", SETTINGS)
        output = ItemFormat(topics, space_id, "f2", 2)
        role = ItemsRole(output, Contract(SPEC), embedder or FakeEmbedder(POISON), keep_features=True)
        super().__init__(FakeClient(cluster, **client), role, settings=settings, until_caught_up=until_caught_up)


def vectors(cluster: FakeCluster) -> list[tuple[str, int | None]]:
    return [
        (record.key.decode(), None if record.value is None else decode(ItemVector, record.value).revision)
        for record in cluster.records("item-vectors")
    ]


def test_a_stage_is_busy_while_it_works_and_not_while_it_waits() -> None:
    cluster = FakeCluster(1)
    with Harness(cluster) as harness:
        harness.until(lambda: P0 in harness.pipeline.assignment)
        idle = {stage.name: stage.busy_s for stage in harness.pipeline._stages}
        assert idle["compute"] == 0.0, "it has waited for a batch all the time"
        feed(cluster, 200, 0)
        harness.until_committed()
        busy = {stage.name: stage.busy_s for stage in harness.pipeline._stages}
        harness.until(
            lambda: (
                harness.metrics.registry.get_sample_value("align_stage_busy_seconds_total", {"stage": "compute"})
                >= busy["compute"]
            )
        )
    assert busy["compute"] > 0
    assert busy["publish"] > 0


def test_partitions_are_counted_by_what_they_do_and_stopped_ones_by_why() -> None:
    refusing = [True]

    def refuse(topic: Any, key: Any) -> Any:
        return ClientError("no") if topic == "item-vectors" and refusing[0] else None

    cluster = FakeCluster(2)
    feed(cluster, 5, 0)
    with Harness(cluster, refuse=refuse) as harness:
        value = harness.metrics.registry.get_sample_value
        stopped = {"topic": "items", "reason": "publish_failed"}
        harness.until(lambda: value("align_stopped_partitions", stopped) == 2)
        assert value("align_stopped_partitions", {**stopped, "reason": "dead_letter_failed"}) == 0
        refusing[0] = False
        harness.until(lambda: value("align_partitions", {"topic": "items", "state": "running"}) == 2)
        assert value("align_stopped_partitions", stopped) == 0
        assert value("align_topic_partitions", {"topic": "items"}) == 2
        harness.until_committed()


def test_refused_records_are_told_by_reason_with_the_last_place(caplog: pytest.LogCaptureFixture) -> None:
    cluster = FakeCluster(1)
    for _ in range(50):
        cluster.append("items", 0, b"a", b"\xc1")
    with caplog.at_level("WARNING"), Harness(cluster) as harness:
        harness.until_committed()
    told = [record for record in caplog.records if record.__dict__.get("action") == "refused"]
    assert {record.__dict__["reason"] for record in told} == {"not_msgpack"}
    assert sum(record.__dict__["num_records"] for record in told) == 50, "the last ones are told at the end"
    assert (told[-1].__dict__["partition"], told[-1].__dict__["offset"]) == (0, 49)
    assert 1 <= len(told) <= 2


def dead_letters(cluster: FakeCluster) -> list[DeadLetter]:
    return [decode(DeadLetter, record.value) for record in cluster.records("dead-letters")]


def feed(cluster: FakeCluster, num_items: int, partition: int = 0) -> None:
    for number in range(num_items):
        name = f"p{partition}-{number}"
        cluster.append("items", partition, name.encode(), item_value(name))


def test_every_item_is_published_once_to_its_partition_and_committed() -> None:
    cluster = FakeCluster()
    feed(cluster, 30, 0)
    feed(cluster, 20, 1)
    with Harness(cluster) as harness:
        harness.until_committed()
    assert Counter(vectors(cluster)) == Counter(
        {(f"p{p}-{n}", 1): 1 for p, size in ((0, 30), (1, 20)) for n in range(size)}
    )
    assert all(record.partition == int(record.key[1:2]) for record in cluster.records("item-vectors"))
    totals = harness.metrics.accounting.totals
    assert (totals.consumed, totals.published["upsert"], totals.in_flight, totals.unaccounted()) == (50, 50, 0, 0)


def test_a_record_waits_for_no_others_where_the_log_has_none() -> None:
    cluster = FakeCluster(1)
    patient = SETTINGS.model_copy(update={"batch": SETTINGS.batch.model_copy(update={"max_age_ms": 1_000_000})})
    feed(cluster, 3)
    with Harness(cluster, settings=patient) as harness:
        harness.until_committed()
        feed(cluster, 1)
        harness.until_committed()
    assert len(vectors(cluster)) == 4


def test_newer_revisions_win_and_deletes_publish_tombstones() -> None:
    cluster = FakeCluster(1)
    for name, revision in (("a", 2), ("a", 1), ("b", 1), ("a", 3)):
        cluster.append("items", 0, name.encode(), item_value(name, revision))
    cluster.append("items", 0, b"b", None)
    with Harness(cluster) as harness:
        harness.until_committed()
        cluster.append("items", 0, b"a", item_value("a", 2))
        cluster.append("items", 0, b"b", item_value("b", 1))
        harness.until_committed()
    published = vectors(cluster)
    assert [revision for name, revision in published if name == "a"][-1] == 3
    assert [revision for name, revision in published if name == "b"][-2:] == [None, 1]
    tombstone = next(record for record in cluster.records("item-vectors") if record.value is None)
    assert tombstone.headers == (("align-source-offset", b"4"),)
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_a_partial_message_of_unknown_modalities_alone_is_no_news_of_a_known_item_and_a_dead_letter_of_another() -> (
    None
):
    def partial(name: str, revision: int) -> bytes:
        features = {"smell": feature()}
        return encode(NewItem(item_id=name, revision=revision, event_time_ms=1, features=features, partial=True))

    cluster = FakeCluster(1)
    for name, value in (("a", item_value("a")), ("a", partial("a", 2)), ("b", partial("b", 2)), ("c", item_value("c"))):
        cluster.append("items", 0, name.encode(), value)
    cluster.append("items", 0, b"c", None)
    cluster.append("items", 0, b"c", partial("c", 3))
    with Harness(cluster) as harness:
        harness.until_committed()
    totals = harness.metrics.accounting.totals
    assert [(letter.key, letter.reason) for letter in dead_letters(cluster)] == [
        (b"b", Reason.NO_MODALITY), (b"c", Reason.NO_MODALITY),
    ]  # fmt: skip
    assert totals.superseded["unused_modality"] == 1
    assert totals.unaccounted() == 0
    assert ("a", 1) in vectors(cluster)


def test_a_header_that_is_too_large_costs_its_item_nothing() -> None:
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"a", item_value("a"), [("traceparent", b"x" * 2_000_000), ("tracestate", b"y" * 9_000)])
    with Harness(cluster) as harness:
        harness.until_committed()
    (record,) = cluster.records("item-vectors")
    assert record.headers == ()
    assert dead_letters(cluster) == []


def test_bad_records_become_dead_letters_with_their_bytes_and_take_no_neighbour() -> None:
    cluster = FakeCluster(1)
    good = [f"g{n}" for n in range(20)]
    for number, name in enumerate(good):
        cluster.append("items", 0, name.encode(), item_value(name))
        if number % 5 == 0:
            cluster.append("items", 0, b"bad", b"\xc1 not msgpack", [("traceparent", TRACE), ("other", b"x")])
        if number % 7 == 0:
            cluster.append("items", 0, b"poison", item_value("poison", text=feature(fill=POISON)))
    with Harness(cluster) as harness:
        harness.until_committed()
    assert {name for name, _ in vectors(cluster)} == set(good)
    letters = dead_letters(cluster)
    assert Counter(letter.reason for letter in letters) >= Counter({Reason.NOT_MSGPACK: 4, Reason.MODEL_FAILURE: 1})
    inputs = {record.offset: record for record in cluster.records("items")}
    for letter in letters:
        source = inputs[letter.offset]
        assert (letter.key, letter.value, tuple(letter.headers)) == (source.key, source.value, tuple(source.headers))
    carried = next(record for record in cluster.records("dead-letters") if record.key == b"bad")
    assert carried.headers == (("traceparent", TRACE),)
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_a_refused_output_is_computed_again_with_a_new_producer_and_nothing_is_lost() -> None:
    cluster, refusals = FakeCluster(1), [2]
    feed(cluster, 40)

    def refuse(topic: Any, key: Any) -> Any:
        if key == b"p0-17" and refusals[0]:
            refusals[0] -= 1
            return ClientError("the broker went away")
        return None

    with Harness(cluster, refuse=refuse) as harness:
        harness.until_committed()
    assert {name for name, _ in vectors(cluster)} == {f"p0-{n}" for n in range(40)}
    assert len(harness.client.producers) == 6
    assert all(producer.closed for producer in harness.client.producers)
    totals = harness.metrics.accounting.totals
    assert totals.abandoned > 0
    assert totals.unaccounted() == 0


def test_nothing_is_committed_before_its_receipt() -> None:
    """Commits are compared with what the output log held at that moment."""
    cluster = FakeCluster(1)
    feed(cluster, 60)
    harness = Harness(cluster)
    commit = harness.consumer.commit

    def checked(commits: Any, on_outcome: Any) -> None:
        published = {name for name, _ in vectors(cluster)}
        assert {f"p0-{n}" for n in range(commits[P0].offset)} <= published
        commit(commits, on_outcome)

    harness.consumer.commit = checked
    with harness:
        harness.until_committed()
    assert harness.error is None


def test_a_dead_letter_that_cannot_be_written_stops_its_partition_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.recovery.DEAD_LETTER_RETRY_S", 0.3)
    cluster, broken = FakeCluster(2), [True]
    cluster.append("items", 0, b"bad", b"\xc1")
    feed(cluster, 5, 0)
    feed(cluster, 5, 1)
    error = RecordTooLargeError("too large for the topic")

    def refuse(topic: Any, key: Any) -> Any:
        return error if topic == "dead-letters" and broken[0] else None

    with Harness(cluster, refuse=refuse) as harness:
        harness.until(lambda: cluster.commits.get(P1, Commit(0)).offset == 5)
        assert cluster.commits.get(P0, Commit(0)).offset == 0
        # Between two tries it has none for a moment.
        harness.until(lambda: harness.pipeline.assignment[P0].detail == "too large for the topic")
        broken[0] = False
        harness.until_committed()
    assert [letter.value for letter in dead_letters(cluster)][-1] == b"\xc1"
    assert {name for name, _ in vectors(cluster)} == {f"p{p}-{n}" for p in (0, 1) for n in range(5)}


def test_a_dead_letter_larger_than_its_topic_leaves_its_value_in_the_log() -> None:
    cluster = FakeCluster(1)
    cluster.max_message_bytes = 2_000
    cluster.append("items", 0, b"bad", b"\xc1" * 3_000, [("traceparent", b"00-1")])
    cluster.append("items", 0, b"k" * 3_000, b"\xc1" * 3_000, [("large", b"h" * 3_000)])
    feed(cluster, 3)
    with Harness(cluster) as harness:
        harness.until_committed()
    first, second = dead_letters(cluster)
    assert (first.key, first.value, first.headers) == (b"bad", None, (("traceparent", b"00-1"),))
    assert (first.original_bytes, first.value_sha256) == (3_018, sha256(b"\xc1" * 3_000).digest())
    assert (second.key, second.value, second.headers, second.original_bytes) == (None, None, (), 9_005)
    assert [record.key for record in cluster.records("dead-letters")] == [b"bad", b"items/0/1"]
    assert [record.key for record in cluster.records("item-vectors")] == [b"p0-0", b"p0-1", b"p0-2"]


def test_a_batch_that_cannot_be_read_stops_its_partition_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.read_faults.UNREADABLE_RETRY_S", 0.05)
    cluster = FakeCluster(2)
    feed(cluster, 9, 0)
    feed(cluster, 5, 1)
    cluster.unreadable.add((P0, 4))
    with Harness(cluster) as harness:
        harness.until(lambda: cluster.commits.get(P1, Commit(0)).offset == 5)
        harness.until(lambda: cluster.commits.get(P0, Commit(0)).offset == 4)  # what lies before it is finished
        harness.until(lambda: "items/0 cannot be read on from offset 4" in harness.pipeline.assignment[P0].detail)
        harness.until(lambda: harness.unreadable_offsets() == {("items", "0", "checksum"): 4})
        feed(cluster, 8, 1)
        harness.until(lambda: cluster.commits[P1].offset == 13)
        assert cluster.commits[P0].offset == 4
        cluster.unreadable.clear()
        harness.until_committed()
        harness.until(lambda: not harness.unreadable_offsets())
        assert harness.pipeline.assignment[P0].detail == ""
    assert {name for name, _ in vectors(cluster)} == {f"p0-{n}" for n in range(9)} | {f"p1-{n}" for n in range(8)}
    assert harness.metrics.accounting.totals.unaccounted() == 0
    assert harness.metrics.accounting.totals.abandoned == 0


def test_a_batch_that_is_left_out_is_passed_over_by_a_worker_that_waits_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.read_faults.UNREADABLE_RETRY_S", 0.05)
    cluster = FakeCluster(1)
    feed(cluster, 9)
    cluster.unreadable |= {(P0, 4), (P0, 5)}
    with Harness(cluster) as harness:
        harness.until(lambda: cluster.commits.get(P0, Commit(0)).offset == 4)
        harness.client.leave_out(P0, 4, 6)
        harness.until(lambda: cluster.commits[P0].offset == 9)
    assert {name for name, _ in vectors(cluster)} == {f"p0-{n}" for n in range(9)} - {"p0-4", "p0-5"}


def test_state_that_cannot_be_read_keeps_its_partition_restoring_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.read_faults.UNREADABLE_RETRY_S", 0.05)
    cluster = FakeCluster(2)
    for partition in (0, 1):
        feed(cluster, 3, partition)
        cluster.append("item-state", partition, b"x", None)
    torn = TopicPartition("item-state", 0)
    cluster.unreadable.add((torn, 0))
    with Harness(cluster) as harness:
        harness.until(lambda: cluster.commits.get(P1, Commit(0)).offset == 3)
        harness.until(lambda: "item-state/0 cannot be read on from offset 0" in harness.pipeline.assignment[P0].detail)
        assert harness.pipeline.assignment[P0].state == "restoring"
        assert P0 not in cluster.commits
        harness.client.leave_out(torn, 0, 1)
        harness.until_committed()
    assert {name for name, _ in vectors(cluster)} == {f"p{p}-{n}" for p in (0, 1) for n in range(3)}


def test_a_run_that_ends_by_itself_ends_with_what_it_cannot_read_once_all_else_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("worker.loop.read_faults.UNREADABLE_RETRY_S", 0.05)
    cluster = FakeCluster(2)
    feed(cluster, 9, 0)
    feed(cluster, 5, 1)
    cluster.unreadable.add((P0, 4))
    with Harness(cluster, until_caught_up=True) as harness:
        error = harness.until_failed()
    assert isinstance(error, UnreadableError)
    assert error.exit_code == 14
    assert (cluster.commits[P0].offset, cluster.commits[P1].offset) == (4, 5)


def test_a_revoked_partition_is_committed_and_a_new_owner_goes_on_from_there() -> None:
    cluster = FakeCluster(2)
    feed(cluster, 10, 0)
    with Harness(cluster) as harness:
        harness.until(lambda: len(vectors(cluster)) == 10)
        harness.consumer.rebalance("revoked", [P0])
        harness.until(lambda: P0 not in harness.pipeline.assignment)
        assert cluster.commits[P0] == Commit(10, format_note(Note(10)))
        feed(cluster, 4, 1)
        harness.until(lambda: cluster.commits.get(P1, Commit(0)).offset == 4)
        harness.consumer.rebalance("assigned", [P0])
        cluster.append("items", 0, b"new", item_value("new"))
        harness.until_committed()
    assert Counter(vectors(cluster))[("new", 1)] == 1
    assert max(Counter(vectors(cluster)).values()) == 1


def test_a_partition_that_comes_back_while_it_is_paused_is_read_on() -> None:
    """And is restored before the loop has come round, so that nothing else pauses it."""
    cluster = FakeCluster(1)
    feed(cluster, 5)
    harness = Harness(cluster)
    restorer = harness.pipeline.restore
    restorer.request = lambda tenure: None  # the first owner never gets that far
    with harness:
        harness.until(lambda: harness.consumer._paused == {P0})
        restorer.request = lambda tenure: restorer._results.put(
            Restored(tenure, StateOverlay(MemoryStore(), ItemState.decode))
        )
        harness.consumer.rebalance("revoked", [P0])
        harness.consumer.rebalance("assigned", [P0])
        harness.until_committed()
    assert sorted(vectors(cluster)) == [(f"p0-{n}", 1) for n in range(5)]


def test_a_lost_partition_commits_nothing() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 5)
    harness = Harness(cluster)
    harness.consumer.evicted = True
    with harness:
        harness.until(lambda: len(vectors(cluster)) == 5)
        harness.consumer.rebalance("lost", [P0])
        harness.until(lambda: P0 not in harness.pipeline.assignment)
    assert cluster.commits == {}
    assert harness.metrics.accounting.totals.unaccounted() == 0


def test_after_a_crash_an_older_input_does_not_undo_what_was_published() -> None:
    """The former owner published revision 2 and a tombstone, and died before it committed."""
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"a", item_value("a", 1))
    cluster.append("items", 0, b"b", item_value("b", 1))
    with Harness(cluster) as first:
        first.until_committed()
    committed = cluster.commits[P0]
    cluster.append("items", 0, b"a", item_value("a", 2))
    cluster.append("items", 0, b"b", None)
    with Harness(cluster) as second:
        second.until_committed()
    cluster.commits[P0] = Commit(0, format_note(Note(0)))
    num_before = len(cluster.records("item-vectors"))
    with Harness(cluster) as third:
        third.until(lambda: cluster.commits[P0].offset == 4)
    again = vectors(cluster)[num_before:]
    assert ("a", 1) not in again
    assert ("b", 1) not in again
    assert committed.offset == 2


def test_after_a_change_of_owner_a_late_older_revision_is_still_dropped() -> None:
    """Everything was committed, so that no output has to be read back for the sake of inputs computed again."""
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"a", item_value("a", 2))
    cluster.append("items", 0, b"b", item_value("b", 1))
    with Harness(cluster) as first:
        first.until_committed()
    cluster.append("items", 0, b"a", item_value("a", 1))
    cluster.append("items", 0, b"b", item_value("b", 2))
    with Harness(cluster) as second:
        second.until_committed()
    assert vectors(cluster) == [("a", 2), ("b", 1), ("b", 2)]


def test_a_returning_owner_reads_back_only_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    reads = []
    read = FakeLog.read
    monkeypatch.setattr(
        FakeLog, "read", lambda *args, **kwargs: [reads.append(found := list(read(*args, **kwargs))), found][1]
    )
    with Harness(cluster) as harness:
        harness.until_committed()
        for _ in range(2):
            harness.consumer.rebalance("revoked", [P0])
            harness.until(lambda: P0 not in harness.pipeline.assignment)
            harness.consumer.rebalance("assigned", [P0])
            harness.until(
                lambda: P0 in harness.pipeline.assignment and harness.pipeline.assignment[P0].state == "running"
            )
    num_records = [sum(map(len, groups)) for groups in reads]
    assert num_records == [0, 0, 0, 20, 0, 20]  # of the changelog, and of the outputs to check the space


def test_a_log_made_anew_is_not_mistaken_for_one_that_was_processed(caplog: pytest.LogCaptureFixture) -> None:
    """The items topic was deleted and fed again; item-vectors still names offsets of the old one."""
    cluster = FakeCluster(1)
    feed(cluster, 10)
    cluster.append("items", 0, b"a", item_value("a", 5))
    with Harness(cluster) as harness:
        harness.until_committed()
    cluster.log[P0].clear()
    cluster.commits.clear()
    cluster.append("items", 0, b"a", item_value("a", 6))
    cluster.append("items", 0, b"p0-0", item_value("p0-0", 1))
    with Harness(cluster) as harness:
        harness.until_committed()
    assert vectors(cluster)[-2:] == [("a", 6), ("p0-0", 1)]
    assert "new_log" in [getattr(record, "action", "") for record in caplog.records]


def test_an_items_topic_with_more_partitions_than_its_output_ends_the_process() -> None:
    cluster = FakeCluster(2)
    harness = Harness(cluster)
    del cluster.log[TopicPartition("item-vectors", 1)]
    cluster.num_partitions = 1
    with harness:
        harness._thread.join(10)
    assert isinstance(harness.error, TopicError)
    assert "'item-vectors' has 1 partitions, 'items' has 2 or more" in str(harness.error)


def test_what_a_lost_member_still_held_is_thrown_away_before_it_writes_again() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 3)
    with Harness(cluster) as harness:
        harness.until_committed()
        harness.consumer.rebalance("lost", [P0])
        harness.consumer.rebalance("assigned", [P0])
        harness.until(lambda: len(harness.client.producers) == 4)
        assert all(producer.closed for producer in harness.client.producers[:2])
        cluster.append("items", 0, b"new", item_value("new"))
        harness.until_committed()
    assert vectors(cluster)[-1] == ("new", 1)


def test_a_topic_with_vectors_of_another_space_is_refused() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 2)
    with Harness(cluster) as harness:
        harness.until_committed()
    other = Harness(cluster, space_id="another")
    other.cluster.append("items", 0, b"x", item_value("x"))
    with other:
        other._thread.join(10)
    assert isinstance(other.error, SpaceError)


def test_a_broken_model_ends_the_process_and_commits_nothing() -> None:
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"x", item_value("x", text=feature(fill=POISON)))
    harness = Harness(cluster, FakeEmbedder(POISON, probe_error=RuntimeError("device lost")))
    with harness:
        harness._thread.join(10)
    assert isinstance(harness.error, SystemicError)
    assert cluster.commits == {}
    assert dead_letters(cluster) == []


def test_an_output_topic_that_refuses_us_ends_the_process() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 1)
    harness = Harness(cluster, refuse=lambda topic, key: AccessError("not authorised"))
    with harness:
        harness._thread.join(10)
    assert isinstance(harness.error, AccessError)


def test_a_drain_publishes_and_commits_what_was_accepted() -> None:
    cluster = FakeCluster(2)
    feed(cluster, 500, 0)
    feed(cluster, 500, 1)
    with Harness(cluster) as harness:
        harness.until(lambda: harness.metrics.accounting.consumed > 0)
    totals = harness.metrics.accounting.totals
    assert totals.abandoned == totals.in_flight == 0
    assert totals.consumed == totals.published["upsert"]
    assert sum(commit.offset for commit in cluster.commits.values()) == totals.consumed


def test_a_full_queue_pauses_the_partitions_and_polling_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.source.ROOM_TIMEOUT_S", 0.01)
    cluster, gate = FakeCluster(1), threading.Event()
    feed(cluster, 200)

    class Slow(FakeEmbedder):
        def vectors(self, features: Any) -> Any:
            gate.wait(10)
            return super().vectors(features)

    harness = Harness(cluster, Slow())
    polls = []
    poll = harness.consumer.poll
    harness.consumer.poll = lambda *args, **kwargs: (polls.append(1), poll(*args, **kwargs))[1]
    with harness:
        harness.until(lambda: harness.consumer._paused == {P0})
        num_polls = len(polls)
        harness.until(lambda: len(polls) > num_polls + 3)
        assert harness.pipeline.observer.num_queued <= 32 + 16
        gate.set()
        harness.until_committed()
    assert len(vectors(cluster)) == 200


@pytest.mark.parametrize("failures", range(1, 12))
def test_backoff_grows_to_a_bound_and_is_spread(failures: int) -> None:
    shortest, longest = backoff_s(failures, lambda: 1.0), backoff_s(failures, lambda: 0.0)
    assert longest == min(10.0, 0.5 * 2 ** (failures - 1))
    assert shortest == longest / 2
