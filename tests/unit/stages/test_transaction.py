"""Exactly once on a log in memory: what a reader of committed records sees, whatever happens on the way."""

from collections import Counter
from hashlib import sha256
from typing import Any

import pytest

from tests.fakes import FakeClient, FakeCluster, FakeTransactionalProducer, feature, item_value
from tests.unit.loop.harness import EXACTLY_ONCE
from tests.unit.loop.test_pipeline import P0, P1, POISON, Harness, dead_letters, feed, vectors
from tests.unit.stages.test_publish import OUTPUT, fused, item
from worker.errors import (
    AccessError,
    CallTimeoutError,
    ClientError,
    FencedError,
    RecordTooLargeError,
    ReplacedError,
    WorkerError,
)
from worker.kafka.port import Commit, Membership
from worker.loop.recovery import abort_reason
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.settings import KafkaSettings, Settings, TransactionSettings
from worker.stages.producers import transactional_id
from worker.stages.publish import OpenProducers, Unacknowledged
from worker.stages.transaction import TransactionalPublisher

GROUP = "align-worker"
OUR_ID = f"{GROUP}-me"


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stages.producers.BACKOFF_S", 0.01)
    monkeypatch.setattr("worker.loop.restore.RETRY_S", 0.01)


def harness(cluster: FakeCluster, **changes: Any) -> Harness:
    return Harness(cluster, settings=EXACTLY_ONCE, **changes)


def expected(num_items: int, partition: int = 0) -> Counter[Any]:
    return Counter((f"p{partition}-{n}", 1) for n in range(num_items))


def failing(cluster_moment: str, error: WorkerError, times: int = 1) -> Any:
    """For `on_commit`: fail so often at that moment."""
    left = [times]

    def on_commit(moment: str) -> WorkerError | None:
        if moment != cluster_moment or not left[0]:
            return None
        left[0] -= 1
        return error

    return on_commit


def assert_once(run: Harness, cluster: FakeCluster, num_items: int) -> None:
    assert Counter(vectors(cluster)) == expected(num_items)
    assert cluster.commits[P0].offset == num_items
    assert run.metrics.accounting.totals.unaccounted() == 0


def test_outputs_changelog_and_offsets_appear_together() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 300)
    seen = []

    def on_commit(moment: Any) -> None:
        seen.append(
            (len(vectors(cluster)), len(cluster.records("item-state")), cluster.commits.get(P0, Commit(0)).offset)
        )

    with harness(cluster, on_commit=on_commit) as run:
        run.until_committed()
    assert_once(run, cluster, 300)
    assert len(seen) > 4
    assert all(published == remembered == offset for published, remembered, offset in seen)
    assert run.consumer.commit_calls == []


def test_a_dead_letter_belongs_to_its_transaction() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 5)
    cluster.append("items", 0, b"bad", b"\xc1")
    cluster.append("items", 0, b"poison", item_value("poison", text=feature(fill=POISON)))
    with harness(cluster, on_commit=failing("before", ClientError("the coordinator went away"))) as run:
        run.until_committed()
    assert [letter.offset for letter in dead_letters(cluster)] == [5, 6]
    assert Counter(vectors(cluster)) == expected(5)


def test_the_store_takes_nothing_before_the_commit() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 40)
    sizes = []

    def on_commit(moment: Any) -> None:
        sizes.append((run.stores.size()[0], cluster.commits.get(P0, Commit(0)).offset))

    run = harness(cluster, on_commit=on_commit)
    with run:
        run.until_committed()
        run.until(lambda: run.stores.size()[0] == 40)
    assert all(num_values <= committed for num_values, committed in sizes)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_commit_of_unknown_outcome_loses_and_repeats_nothing(moment: str) -> None:
    cluster = FakeCluster(1)
    feed(cluster, 60)
    with harness(cluster, on_commit=failing(moment, CallTimeoutError("no answer in time"), times=2)) as run:
        run.until_committed()
    assert_once(run, cluster, 60)
    assert len(run.client.producers) > 1
    assert all(producer.closed for producer in run.client.producers)


def test_a_refused_record_takes_its_transaction_with_it() -> None:
    cluster, refusals = FakeCluster(1), [2]
    feed(cluster, 60)

    def refuse(topic: Any, key: Any) -> Any:
        if key == b"p0-17" and refusals[0]:
            refusals[0] -= 1
            return ClientError("the broker went away")
        return None

    with harness(cluster, refuse=refuse) as run:
        run.until_committed()
    assert_once(run, cluster, 60)
    assert run.metrics.transactions.labels("failed")._value.get() == 2


def test_what_a_dead_worker_left_open_is_waited_for_and_never_seen() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 4)
    dead = FakeTransactionalProducer(FakeClient(cluster), "dead")
    dead.begin()
    cluster.append_open("dead", "item-vectors", 0, b"p0-0", b"half")
    cluster.append_open("dead", "item-state", 0, b"p0-0", b"half")
    with harness(cluster) as run:
        run.until(lambda: bool(run.pipeline.assignment.all()) and run.pipeline.assignment[P0].state == "restoring")
        assert vectors(cluster) == []
        cluster.expire("dead")
        run.until_committed()
    assert_once(run, cluster, 4)


def test_a_worker_that_comes_back_under_its_name_ends_what_it_left_open() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 4)
    dead = FakeTransactionalProducer(FakeClient(cluster), OUR_ID)
    dead.begin()
    cluster.append_open(OUR_ID, "item-state", 0, b"p0-0", b"half")
    with harness(cluster) as run:
        run.until_committed()
    assert_once(run, cluster, 4)


def test_nothing_is_committed_for_a_partition_that_has_gone() -> None:
    """The group moves on between the last poll and the commit, as when this process was frozen."""
    cluster, moved = FakeCluster(1), list[Any]()

    def on_commit(moment: Any) -> None:
        if moment == "before" and not moved:
            moved.append(True)
            cluster.generation += 1

    feed(cluster, 30)
    with harness(cluster, on_commit=on_commit) as run:
        run.until_committed()
    assert_once(run, cluster, 30)
    assert run.metrics.transactions.labels("rebalance")._value.get() == 1


def test_a_revoked_partition_is_handed_over_with_its_transaction_committed() -> None:
    cluster = FakeCluster(2)
    feed(cluster, 200, 0)
    feed(cluster, 20, 1)
    with harness(cluster) as run:
        run.until(lambda: len(vectors(cluster)) > 0)
        run.consumer.rebalance("revoked", [P0])
        run.until(lambda: P0 not in run.pipeline.assignment)
        handed_over = cluster.commits.get(P0, Commit(0)).offset
        published = [name for name, _ in vectors(cluster) if name.startswith("p0")]
        assert len(published) == handed_over
        run.consumer.rebalance("assigned", [P0])
        run.until_committed()
    assert Counter(vectors(cluster)) == expected(200, 0) + expected(20, 1)


def test_partitions_that_are_lost_commit_nothing_more() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 50)
    with harness(cluster) as run:
        run.until(lambda: len(vectors(cluster)) > 0)
        run.consumer.rebalance("lost", [P0])
        run.consumer.rebalance("assigned", [P0])
        run.until_committed()
    assert_once(run, cluster, 50)


def test_a_transaction_that_timed_out_is_done_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stages.transaction.TransactionalPublisher._is_expired", lambda self, transaction: True)
    cluster, expired = FakeCluster(1), list[Any]()

    def on_commit(moment: Any) -> None:
        if moment == "before" and len(expired) < 5:
            expired.append(True)
            cluster.expire(OUR_ID)

    feed(cluster, 20)
    with harness(cluster, on_commit=on_commit) as run:
        run.until_committed()
    assert_once(run, cluster, 20)
    assert run.metrics.transactions.labels("replaced")._value.get() == 5


def test_another_process_with_the_same_id_ends_this_one() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)

    def on_commit(moment: Any) -> None:
        if moment == "before":
            cluster.begin(OUR_ID)

    run = harness(cluster, on_commit=on_commit)
    with run:
        run._thread.join(10)
    assert isinstance(run.error, FencedError)
    assert "transaction.id" in str(run.error)
    assert cluster.commits == {}
    assert vectors(cluster) == []


def test_being_replaced_once_is_survived() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 20)
    with harness(cluster, on_commit=failing("before", ReplacedError("a late request"), times=2)) as run:
        run.until_committed()
    assert_once(run, cluster, 20)


def test_a_broker_that_forbids_us_ends_the_process() -> None:
    cluster = FakeCluster(1)
    feed(cluster, 1)
    run = harness(cluster, on_commit=lambda moment: AccessError("no ACL for the group"))
    with run:
        run._thread.join(10)
    assert isinstance(run.error, AccessError)


def test_a_dead_letter_that_does_not_fit_leaves_its_value_in_the_log() -> None:
    cluster = FakeCluster(2)
    cluster.max_message_bytes = 2_000
    cluster.append("items", 0, b"bad", b"\xc1" * 3_000)
    feed(cluster, 5, 0)
    with harness(cluster) as run:
        run.until_committed()
    (letter,) = dead_letters(cluster)
    assert (letter.key, letter.value, letter.original_bytes) == (b"bad", None, 3_003)
    assert letter.value_sha256 == sha256(b"\xc1" * 3_000).digest()
    assert Counter(vectors(cluster)) == expected(5, 0)


def test_after_a_change_of_owner_state_is_what_was_committed() -> None:
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"a", item_value("a", 2))
    with harness(cluster) as first:
        first.until_committed()
    cluster.append("items", 0, b"a", item_value("a", 1))
    cluster.append("items", 0, b"b", item_value("b", 1))
    with harness(cluster) as second:
        second.until_committed()
    assert vectors(cluster) == [("a", 2), ("b", 1)]


def test_one_delivery_can_follow_the_other() -> None:
    """At least once had published revision 2 and not committed it: revision 1 must not come after it."""
    cluster = FakeCluster(1)
    cluster.append("items", 0, b"a", item_value("a", 1))
    with Harness(cluster) as loose:
        loose.until_committed()
    before = cluster.commits[P0]
    cluster.append("items", 0, b"a", item_value("a", 2))
    cluster.append("items", 0, b"a", item_value("a", 3))
    with Harness(cluster) as loose:
        loose.until_committed()
    cluster.commits[P0] = before
    with harness(cluster) as strict:
        strict.until_committed()
    published = [revision for _, revision in vectors(cluster)]
    assert published == sorted(published)
    cluster.append("items", 0, b"b", item_value("b", 1))
    with Harness(cluster) as loose:
        loose.until_committed()
    assert vectors(cluster)[-1] == ("b", 1)


# ---------------------------------------------------------------- one publisher, with the time as an argument


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Setup:
    def __init__(self, **settings: Any) -> None:
        self.cluster, self.clock = FakeCluster(2), Clock()
        self.client = FakeClient(self.cluster)
        self.ended: list[WorkerError | None] = []
        self.publisher = TransactionalPublisher(
            OUTPUT,
            Unacknowledged(1_000),
            lambda: None,
            TransactionSettings(**settings),
            lambda duration_s, error: self.ended.append(error),
            self.clock,
        )
        self.replace()
        self.tenure = Tenure(TopicPartition("items", 1), Commit(0))
        self.tenure.membership = Membership("group", self.cluster.generation, "member", None)

    def replace(self) -> None:
        producer = self.client.transactional_producer("id", 30_000)
        self.publisher.use(OpenProducers(producer, producer, producer))

    def publish(self, *offsets: int) -> None:
        self.publisher.publish(fused(self.tenure, *(item(f"i{offset}", offset) for offset in offsets)))

    @property
    def num_visible(self) -> int:
        return len(self.cluster.records("item-vectors"))


def test_a_transaction_ends_when_it_is_old_enough() -> None:
    setup = Setup(interval_ms=100)
    setup.publish(0)
    setup.clock.now = 0.06
    setup.publish(1)
    setup.publisher.tick()
    assert setup.num_visible == 0
    assert setup.publisher.wait_s() == pytest.approx(0.04)
    assert setup.tenure.settle() == []
    setup.clock.now = 0.11
    setup.publisher.tick()
    assert setup.num_visible == 2
    assert len(setup.tenure.settle()) == 2
    assert setup.cluster.commits[P1] == setup.tenure.commit
    assert setup.ended == [None]


def test_a_transaction_ends_when_it_is_large_enough() -> None:
    setup = Setup(interval_ms=1_000, max_records=6)
    setup.publish(0, 1)
    setup.publisher.tick()
    assert setup.num_visible == 0
    setup.publish(2)
    setup.publisher.tick()
    assert setup.num_visible == 3


def test_a_transaction_whose_producer_was_taken_away_is_dropped_with_its_slices() -> None:
    setup = Setup(interval_ms=1)
    setup.publish(0)
    setup.replace()
    setup.clock.now = 1.0
    setup.publisher.tick()
    (failed,) = setup.tenure.failures()
    assert failed is not None
    assert "given up" in str(failed.written.error)
    assert setup.publisher.take_failure() is None
    assert setup.num_visible == 0


def test_a_retired_tenure_is_not_committed() -> None:
    setup = Setup(interval_ms=1)
    setup.publish(0)
    setup.tenure.retire()
    setup.clock.now = 1.0
    setup.publisher.tick()
    assert setup.cluster.commits == {}
    assert abort_reason(setup.publisher.take_failure()) == "rebalance"
    assert setup.publisher.take_failure() is None


def test_two_places_in_the_group_are_never_mixed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.stages.transaction.MEMBERSHIP_WAIT_S", 0.05)
    setup = Setup(interval_ms=1)
    other = Tenure(TopicPartition("items", 0), Commit(0))
    other.membership = setup.tenure.membership._replace(generation=setup.cluster.generation + 1)
    setup.publish(0)
    setup.publisher.publish(fused(other, item("o", 0)))
    setup.clock.now = 1.0
    setup.publisher.tick()
    assert setup.cluster.commits == {}
    assert abort_reason(setup.publisher.take_failure()) == "rebalance"


def test_nothing_after_a_slice_that_failed_is_committed() -> None:
    setup = Setup(interval_ms=1)
    setup.publisher.limit("dead-letters", 10)
    setup.publisher.limit("item-state", 10)
    setup.publish(0)  # refused, and so is its dead letter
    setup.publisher.limit("item-state", 10_000)
    setup.publish(1)
    setup.clock.now = 1.0
    setup.publisher.tick()
    assert setup.cluster.commits == {}
    assert isinstance(setup.tenure.failures()[0].written.error, RecordTooLargeError)


def test_an_old_transaction_that_is_shut_out_has_timed_out() -> None:
    setup = Setup(interval_ms=1, timeout_ms=2_000)
    for attempt in range(5):
        setup.replace()
        setup.publish(attempt)
        setup.cluster.expire("id")
        setup.clock.now += 2.5
        setup.publisher.tick()
        assert isinstance(setup.publisher.take_failure(), ReplacedError)


def test_ids_belong_to_the_group_and_are_made_up_where_none_is_given() -> None:
    named = Settings(transaction=TransactionSettings(id="pod-1"), kafka=KafkaSettings(group_instance_id="static"))
    static = Settings(kafka=KafkaSettings(group_instance_id="static"))
    assert transactional_id(named, GROUP) == "align-worker-pod-1"
    assert transactional_id(static, GROUP) == "align-worker-static"
    made_up = {transactional_id(Settings(), GROUP) for _ in range(10)}
    assert len(made_up) == 10
    assert all(each.startswith("align-worker-") for each in made_up)


def test_a_refused_record_ends_its_transaction_and_is_not_heard_of_before() -> None:
    """Else the producer would be replaced before it is known that another process has taken its place."""
    setup = Setup(interval_ms=1)
    setup.client.refuse = lambda topic, key: ReplacedError("there is a newer producer")
    setup.publish(0)
    assert not setup.tenure.failures()
    setup.clock.now = 1.0
    setup.publisher.tick()
    assert setup.tenure.failures()
    assert isinstance(setup.publisher.take_failure(), ReplacedError)
