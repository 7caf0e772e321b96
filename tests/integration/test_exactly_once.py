"""Exactly once, on brokers that can and one that cannot: what a reader of committed records sees."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
from kafka import KafkaConsumer, TopicPartition

from tests.brokers import Broker, RealKafka
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.flow import Flow
from tests.integration.stream import Stream, names
from tests.integration.test_client import Receipt, client_of
from tests.integration.test_rebalance import num_held
from tests.integration.test_users import NUM_ITEMS, clicks, require_equal
from tests.integration.user_stream import UserStream
from tests.integration.worker_thread import WorkerThread, silence_s
from tests.worker_process import WorkerProcess
from worker.errors import ConfigError, FencedError, NotMemberError, ReplacedError
from worker.kafka.embedded import EmbeddedBroker
from worker.kafka.port import Commit, Membership, Outbound
from worker.records import TopicPartition as Partition

EXACTLY_ONCE = {"delivery": "exactly_once", "transaction.interval_ms": 50}
# Transactions that are open nearly all the time, so that what is killed is killed within one.
LONG = {"delivery": "exactly_once", "transaction.interval_ms": 900, "batch.max_age_ms": 5}
SHORT_SESSION = {
    "kafka.session_timeout_ms": 3_000,
    "kafka.heartbeat_interval_ms": 500,
    "kafka.delivery_timeout_ms": 1_500,
    "kafka.request_timeout_ms": 1_000,
    "transaction.timeout_ms": 3_000,
}


@pytest.fixture
def stream(make_stream: Callable[..., Stream], real_kafka: Broker) -> Stream:
    return make_stream(real_kafka)


def num_written(stream: Stream) -> int:
    """Records of the item vectors that are in the log, whatever became of their transactions."""
    options = {**stream.broker.options, "isolation_level": "read_uncommitted"}
    consumer = KafkaConsumer(group_id=None, enable_auto_commit=False, auto_offset_reset="earliest", **options)
    try:
        tps = [TopicPartition(stream.vectors, number) for number in range(stream.num_partitions)]
        consumer.assign(tps)
        ends = consumer.end_offsets(tps, timeout_ms=10_000)
        count, deadline = 0, time.monotonic() + 30
        while any(consumer.position(tp, timeout_ms=10_000) < end for tp, end in ends.items()):
            assert time.monotonic() < deadline
            count += sum(map(len, consumer.poll(timeout_ms=200).values()))
        return count
    finally:
        consumer.close(timeout_ms=2_000)


class Openness:
    """Tells whether a transaction stands open in a topic: committed records then end before the log does."""

    def __init__(self, stream: Stream, topic: str) -> None:
        self._tps = [TopicPartition(topic, number) for number in range(stream.num_partitions)]
        self._readers = [
            KafkaConsumer(group_id=None, enable_auto_commit=False, **stream.broker.options, isolation_level=level)
            for level in ("read_committed", "read_uncommitted")
        ]

    def __call__(self) -> bool:
        committed, written = (reader.end_offsets(self._tps, timeout_ms=10_000) for reader in self._readers)
        return any(committed[tp] < written[tp] for tp in self._tps)

    def freeze(self, worker: WorkerProcess, timeout: float = 60.0) -> bool:
        """Stop the worker within a transaction: it stands still when the transaction is seen. False: none came."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if self():
                worker.signal(signal.SIGSTOP)
                if self():
                    return True
                worker.signal(signal.SIGCONT)
        return False

    def wait_ended(self) -> None:
        """Return when the transaction has ended, whoever ended it."""
        deadline = time.monotonic() + 60
        while self():
            assert time.monotonic() < deadline, "the transaction is still open"
            time.sleep(0.05)

    def close(self) -> None:
        for reader in self._readers:
            reader.close(autocommit=False, timeout_ms=2_000)


@pytest.fixture
def opened(stream: Stream) -> Iterator[Callable[[str], Openness]]:
    """Makes an `Openness` of a topic of the stream."""
    with ExitStack() as stack:

        def look(topic: str) -> Openness:
            made = Openness(stream, topic)
            stack.callback(made.close)
            return made

        yield look


def assert_once(stream: Stream, metrics_urls: list[str]) -> Mapping[str, int]:
    verdict = stream.verdict(metrics_urls)
    assert verdict.ok, verdict.explain()
    assert (verdict.counts["duplicates"], verdict.counts["duplicate_dead_letters"]) == (0, 0)
    return verdict.counts


@pytest.mark.embedded
def test_the_embedded_broker_is_refused(make_stream: Callable[..., Stream], embedded_broker: EmbeddedBroker) -> None:
    stream = make_stream(embedded_broker)
    with WorkerThread(stream.settings(EXACTLY_ONCE)) as worker:
        error = worker.failure()
    assert isinstance(error, ConfigError)
    assert "delivery=exactly_once needs brokers of version 2.5" in error.one_line()
    assert "delivery=at_least_once" in error.one_line()


@pytest.mark.real_kafka
def test_everything_is_published_once_and_committed(stream: Stream) -> None:
    stream.feed_items(names(500))
    stream.feed([stream.record("poison", b"\xc1"), stream.delete("item-00003"), stream.upsert("item-00004", 7)])
    with WorkerThread(stream.settings(EXACTLY_ONCE)) as worker:
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        counts = assert_once(stream, [worker.metrics_url])
        assert worker.metric("align_transactions_total", result="committed") > 0
        assert worker.items.transactions["aborted"] == 0
    assert counts["inputs"] == 503
    assert stream.commits() == stream.ends()


@pytest.mark.real_kafka
@pytest.mark.parametrize("assignor", ["range", "cooperative-sticky"])
def test_a_member_comes_and_goes(make_stream: Callable[..., Stream], real_kafka: Broker, assignor: str) -> None:
    stream = make_stream(real_kafka, 4)
    settings = stream.settings({**EXACTLY_ONCE, "kafka.assignor": assignor, "kafka.heartbeat_interval_ms": 500})
    with WorkerThread(settings) as first, Flow(stream) as flow:
        first.until(lambda: num_held(first) == 4)
        with WorkerThread(settings) as second:
            second.until(lambda: (num_held(first), num_held(second)) == (2, 2))
            second.until(lambda: second.items.accounting.published > 50)
        taken_over = first.items.accounting.published
        first.until(lambda: num_held(first) == 4)
        first.until(lambda: first.items.accounting.published > taken_over + 50)
        flow.stop()
        stream.wait_committed(first)
        first.until(lambda: first.items.accounting.in_flight == 0)
        counts = assert_once(stream, [first.metrics_url])
        assert counts["inputs"] == flow.num_fed


@pytest.mark.real_kafka
@pytest.mark.parametrize("name", ["stable", None])
def test_a_worker_that_is_killed_within_a_transaction_leaves_nothing_to_see(
    stream: Stream, opened: Callable[[str], Openness], name: str | None
) -> None:
    """Its successor ends the transaction at once if it has the same name, else when it times out."""
    settings = stream.settings({**LONG, **SHORT_SESSION, **({} if name is None else {"transaction.id": name})})
    num_kills, vectors = (2 if name else 1), opened(stream.vectors)
    with Flow(stream) as flow:
        for _ in range(num_kills):
            with WorkerProcess(settings) as victim:
                victim.wait_ready()
                victim.wait_until(lambda: victim.metric("align_transactions_total", result="committed") >= 2)
                assert vectors.freeze(victim)
                victim.kill()
        flow.stop()
        with WorkerThread(settings) as heir:
            stream.wait_committed(heir)
            heir.until(lambda: heir.items.accounting.in_flight == 0)
            counts = assert_once(stream, [heir.metrics_url])
            assert counts["inputs"] == flow.num_fed
    assert num_written(stream) > counts["outputs"]


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_worker_that_was_frozen_past_its_session_writes_nothing_that_counts(stream: Stream) -> None:
    settings = stream.settings({**LONG, **SHORT_SESSION})
    with Flow(stream) as flow, WorkerProcess(settings) as frozen:
        frozen.wait_ready()
        frozen.wait_until(lambda: frozen.metric("align_transactions_total", result="committed") >= 2)
        frozen.signal(signal.SIGSTOP)
        with WorkerThread(settings) as heir:
            heir.until(lambda: num_held(heir) == 2)
            heir.until(lambda: heir.items.accounting.published > 50)
            frozen.signal(signal.SIGCONT)
            frozen.wait_until(
                lambda: sum(p["state"] == "running" for p in frozen.status()["roles"][0]["partitions"]) == 1
            )
            flow.stop()
            stream.wait_committed(heir)
            heir.until(lambda: heir.items.accounting.in_flight == 0)
            assert_once(stream, [heir.metrics_url])


@pytest.mark.real_kafka
def test_a_transaction_that_the_broker_has_ended_is_done_again(
    stream: Stream, opened: Callable[[str], Openness]
) -> None:
    """The process stands still for longer than its transaction may be open, and for less than its session."""
    changes = {"kafka.delivery_timeout_ms": 1_500, "kafka.request_timeout_ms": 1_000, "transaction.timeout_ms": 3_000}
    settings = stream.settings({**LONG, **changes, "transaction.id": "slow"})
    with Flow(stream) as flow, WorkerProcess(settings) as slow:
        slow.wait_ready()
        slow.wait_until(lambda: slow.metric("align_transactions_total", result="committed") >= 2)
        vectors = opened(stream.vectors)
        assert vectors.freeze(slow)
        vectors.wait_ended()
        slow.signal(signal.SIGCONT)
        flow.stop()
        stream.wait_committed()
        slow.wait_until(lambda: slow.metric("align_records_in_flight") == 0)
        assert slow.metric("align_transactions_total") > slow.metric("align_transactions_total", result="committed")
        assert_once(stream, [slow.url("/metrics")])


@pytest.mark.real_kafka
def test_two_processes_with_one_transactional_id_do_not_go_on(stream: Stream) -> None:
    settings = stream.settings({**EXACTLY_ONCE, "transaction.id": "same"})
    with Flow(stream), WorkerThread(settings) as first, WorkerThread(settings) as second:
        deadline = time.monotonic() + 60
        while first.error is None and second.error is None:
            assert time.monotonic() < deadline, "both go on"
            time.sleep(0.05)
        loser, winner = (first, second) if first.error is not None else (second, first)
        error = loser.failure()
        assert isinstance(error, FencedError)
        assert "transaction.id" in error.one_line()
        winner.until(lambda: num_held(winner) == 2)


@pytest.mark.real_kafka
def test_a_time_out_that_the_broker_does_not_allow_is_named(stream: Stream) -> None:
    slow = {"kafka.max_poll_interval_ms": 3_600_000, "watchdog.group_unstable_s": 4_000}  # or the settings do not fit
    with WorkerThread(stream.settings({**EXACTLY_ONCE, **slow, "transaction.timeout_ms": 3_600_000})) as worker:
        error = worker.failure()
    assert isinstance(error, ConfigError)
    assert "transaction.timeout_ms=3600000 is more than the broker's transaction.max.timeout.ms" in error.one_line()


@pytest.mark.real_kafka
def test_both_roles_give_what_the_logs_lead_to_over_a_crash(stream: Stream, opened: Callable[[str], Openness]) -> None:
    users = UserStream(stream)
    users.create_topics()
    settings = users.settings(changes={**LONG, **SHORT_SESSION, "transaction.id": "both"})
    stream.feed_items(names(NUM_ITEMS))
    events = clicks(users, 20, 400)
    users.feed(events[:200])
    vectors = opened(users.vectors)
    with WorkerProcess(settings) as victim:
        victim.wait_until(lambda: victim.metric("align_transactions_total", role="users", result="committed") >= 1)
        later = iter(range(200, len(events), 20))
        for start in later:
            users.feed(events[start : start + 20])
            if vectors.freeze(victim, 3.0):
                break
        else:
            pytest.fail("nobody was killed within a transaction: this proves nothing")
        victim.kill()
        users.feed(event for start in later for event in events[start : start + 20])
    with WorkerThread(settings) as heir:
        stream.wait_committed(heir)
        users.wait_committed(heir)
        heir.until(lambda: heir.metric("align_waiting_pairs") == 0, name="done with waiting")
        heir.until(lambda: heir.users.accounting.in_flight == 0 and heir.users.queue_records == 0)
        assert_once(stream, [])
    require_equal(users.final(), users.replay().users())


# ---------------------------------------------------------------- the producer alone


def send(producer: Any, topic: str, value: bytes) -> Receipt:
    receipt = Receipt()
    producer.send([Outbound(topic, 0, b"k", value, (), receipt)])
    assert receipt.settled.wait(15)
    return receipt


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_producer_that_has_a_successor_is_shut_out(stream: Stream) -> None:
    client = client_of(stream)
    older = client.transactional_producer("same", 10_000)
    older.begin()
    assert send(older, stream.vectors, b"older").error is None
    newer = client.transactional_producer("same", 10_000)
    nobody = Membership(stream.group, -1, "", None)
    with pytest.raises(ReplacedError):
        older.commit({Partition(stream.items, 0): Commit(1)}, nobody)
    newer.begin()
    assert send(newer, stream.vectors, b"newer").error is None
    newer.commit({Partition(stream.items, 0): Commit(1)}, nobody)
    for producer in (older, newer):
        producer.close(1.0)
    assert [record.value for record in stream.output_records()] == [b"newer"]


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_place_in_the_group_that_has_gone_commits_nothing(stream: Stream) -> None:
    client = client_of(stream)
    producer = client.transactional_producer("member", 10_000)
    producer.begin()
    assert send(producer, stream.vectors, b"late").error is None
    with WorkerThread(stream.settings()) as worker:
        worker.wait_ready(restored=False)  # which takes until the transaction has ended
        with pytest.raises(NotMemberError):
            producer.commit({Partition(stream.items, 0): Commit(1)}, Membership(stream.group, 1, "gone", None))
    producer.close(1.0)
    assert stream.output_records() == []
    assert Counter(stream.commits()) == Counter()


@pytest.mark.real_kafka
def test_readers_wait_for_a_transaction_that_is_open(stream: Stream) -> None:
    """What was committed behind it must not be missed by whoever takes the partition over."""
    client = client_of(stream)
    producer = client.transactional_producer("open", 10_000)
    producer.begin()
    assert send(producer, stream.state, b"in doubt").error is None
    log, partition = client.log(), Partition(stream.state, 0)
    assert log.end(partition, 5.0) == 1
    reading = log.read(partition, None, timeout_s=10.0)
    producer.commit({Partition(stream.items, 0): Commit(1)}, Membership(stream.group, -1, "", None))
    assert [record.value for records in reading for record in records] == [b"in doubt"]
    producer.begin()
    assert send(producer, stream.state, b"never").error is None
    producer.close(1.0)
    again = log.read(partition, None, timeout_s=10.0)
    assert [record.value for records in again for record in records] == [b"in doubt"]
    log.close()


@pytest.mark.real_kafka
def test_a_coordinator_that_hangs_does_not_hold_us(own_kafka: RealKafka, make_stream: Callable[..., Stream]) -> None:
    stream = make_stream(own_kafka)
    with WorkerThread(stream.settings({**EXACTLY_ONCE, **SHORT_SESSION, "kafka.session_timeout_ms": 10_000})) as worker:
        worker.wait_ready()
        with Flow(stream) as flow:
            worker.until(lambda: worker.items.accounting.published > 50)
            own_kafka.pause()
            worker.until(lambda: silence_s(worker) > 4, name="aware of the silence")  # longer than a call may take
            own_kafka.resume()
            flow.stop()
        stream.wait_committed(worker)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
        assert_once(stream, [worker.metrics_url])
