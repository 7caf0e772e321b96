"""Where the client stops without a word: each is prevented, and a watchdog waits behind the prevention."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator

import pytest
from kafka import KafkaConsumer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions

from schemas import Reason
from tests.brokers import Broker
from tests.integration.stream import SHORT_SESSION, Stream, names
from tests.integration.worker_thread import WorkerThread
from worker.errors import StalledError
from worker.kafka.kafka_python.connection import connection_config
from worker.kafka.kafka_python.consumer import KafkaPythonConsumer, _ListenerBridge
from worker.kafka.port import PartitionListener

pytestmark = pytest.mark.real_kafka

NUM_STARTS = 2
NUM_GROWTHS = 5
MAX_PROVOCATIONS = 12


@pytest.fixture
def stream(make_stream: Callable[..., Stream], real_kafka: Broker) -> Stream:
    return make_stream(real_kafka)


@pytest.fixture
def admin(real_kafka: Broker) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(**real_kafka.options)
    yield client
    client.close()


@pytest.fixture
def quick_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients notice new partitions within a second instead of five minutes."""
    monkeypatch.setattr(
        "worker.kafka.kafka_python.client.connection_config",
        lambda settings: {**connection_config(settings), "metadata_max_age_ms": 500},
    )


def add_partitions(admin: KafkaAdminClient, stream: Stream, count: int) -> None:
    """To the outputs first: the worker refuses inputs that have no partition to go to."""
    for topic in (stream.vectors, stream.state):
        admin.create_partitions({topic: NewPartitions(count)})
    admin.create_partitions({stream.items: NewPartitions(count)})
    stream.num_partitions = count


def limit(admin: KafkaAdminClient, topic: str, max_bytes: int) -> None:
    admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, topic, configs={"max.message.bytes": max_bytes})])


def works_on(worker: WorkerThread, count: int) -> bool:
    """Whether it works on this many partitions, all there are."""
    return [partition.state for partition in worker.items.partitions] == ["running"] * count


@pytest.fixture
def provoked(quick_metadata: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hang was found: metadata that makes the client join again, and polls too short to end that join. The first
    or second new partition does it; sometimes even the start."""

    def subscribe(consumer: KafkaPythonConsumer, topics: Collection[str], listener: PartitionListener) -> None:
        client: KafkaConsumer = consumer._consumer
        client.subscribe(list(topics), listener=_ListenerBridge(client, listener))

    monkeypatch.setattr("worker.loop.source.POLL_TIMEOUT_MS", 5)
    monkeypatch.setattr(KafkaPythonConsumer, "subscribe", subscribe)


class TestAJoinThatNobodyDrivesOn:
    def test_the_watchdog_ends_the_process(
        self, stream: Stream, admin: KafkaAdminClient, provoked: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(KafkaPythonConsumer, "_drive_join_on", lambda consumer: None)
        worker = WorkerThread(
            stream.settings(
                {
                    **SHORT_SESSION,
                    "kafka.heartbeat_interval_ms": 500,
                    "kafka.max_poll_interval_ms": 5_000,
                    "shutdown.drain_timeout_s": 4,
                    "watchdog.group_unstable_s": 8.5,
                }
            )
        )
        worker.expect_stall()

        def ended_or_works_on(count: int) -> bool:
            return worker.exit_code is not None or works_on(worker, count)

        with worker:
            while worker.exit_code is None:
                count = stream.num_partitions
                worker.until(functools.partial(ended_or_works_on, count))
                assert count < MAX_PROVOCATIONS, "the client no longer hangs: is the watchdog still needed?"
                add_partitions(admin, stream, count + 1)
            assert worker.exit_code == StalledError.exit_code
            assert not worker.service.health.livez().ok
            assert "watchdog.group_unstable_s" in worker.service.health.livez().detail
            assert not worker.items.group_stable

    def test_is_driven_on_where_it_is_provoked(self, stream: Stream, admin: KafkaAdminClient, provoked: None) -> None:
        with WorkerThread(stream.settings()) as worker:
            for count in range(stream.num_partitions, stream.num_partitions + NUM_GROWTHS):
                worker.until(functools.partial(works_on, worker, count), name=f"working on {count} partitions")
                add_partitions(admin, stream, count + 1)
            stream.feed_items(names(20, "at-last"))
            stream.wait_committed(worker)
        verdict = stream.verdict()
        assert verdict.ok, verdict.explain()

    def test_starts_and_new_partitions_do_not_get_there(
        self, stream: Stream, admin: KafkaAdminClient, quick_metadata: None
    ) -> None:
        for count in range(stream.num_partitions, stream.num_partitions + NUM_STARTS):
            with WorkerThread(stream.settings()) as worker:
                worker.until(functools.partial(works_on, worker, count), name=f"working on {count} partitions")
                add_partitions(admin, stream, count + 1)
                worker.until(functools.partial(works_on, worker, count + 1), name=f"working on {count + 1} partitions")
                stream.feed_items(names(20, f"with-{count}"))
                stream.wait_committed(worker)
        verdict = stream.verdict()
        assert verdict.ok, verdict.explain()


class TestALeaderThatComesBack:
    def test_new_partitions_are_shared_out_all_the_same(
        self, stream: Stream, admin: KafkaAdminClient, quick_metadata: None
    ) -> None:
        """It has its place in the group again without a rebalance, and is not told that it leads."""
        with WorkerThread(stream.settings({"kafka.group_instance_id": "leader"})) as worker:
            worker.until(functools.partial(works_on, worker, 2), name="working on 2 partitions")
        with WorkerThread(stream.settings({"kafka.group_instance_id": "leader"})) as worker:
            worker.until(functools.partial(works_on, worker, 2), name="working on 2 partitions again")
            add_partitions(admin, stream, 3)
            worker.until(functools.partial(works_on, worker, 3), name="working on 3 partitions")


class TestAProducerThatARefusalPoisons:
    def test_a_topic_that_takes_less_than_before_refuses_only_what_is_too_large(
        self, stream: Stream, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.stages.producers.LIMITS_RETRY_S", 0.5)
        stream.feed_items(names(50, "before"))
        with WorkerThread(stream.settings()) as worker:
            stream.wait_committed(worker)
            limit(admin, stream.vectors, 250)  # a tombstone fits, a vector does not
            stream.feed_items(names(20, "large"))
            stream.feed(stream.delete(name) for name in names(20, "before"))
            stream.wait_committed(worker)
            refused = stream.dead_letters()
            assert {letter.reason for letter in refused} == {Reason.PUBLISH_REFUSED}
            assert sorted(letter.key.decode() for letter in refused if letter.key) == list(names(20, "large"))
            assert f"max.message.bytes of topic {stream.vectors}" in refused[0].detail
            assert sum(revision is None for _, revision in stream.published()) >= 20

            limit(admin, stream.vectors, 1_000_000)
            attempts = iter(range(1_000))

            def goes_through() -> bool:
                name = f"after-{next(attempts)}"
                stream.feed_items([name])
                stream.wait_committed(worker)
                return name in dict(stream.published())

            worker.until(goes_through, name="publishing vectors again")
            verdict = stream.verdict([worker.metrics_url])
        assert verdict.ok, verdict.explain()
        assert worker.metric("align_rewinds_total", reason="publish_failed") >= 1

    def test_a_dead_letter_that_does_not_fit_holds_up_its_partition_only(
        self, stream: Stream, admin: KafkaAdminClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("worker.loop.recovery.DEAD_LETTER_RETRY_S", 0.5)
        with WorkerThread(stream.settings()) as worker:
            worker.wait_ready()
            limit(admin, stream.letters, 100)  # not even a letter without the record fits
            stream.feed([stream.record("poison", b"\xc1" * 3_000, partition=0)])
            stream.feed(stream.upsert(name, partition=0) for name in names(10, "behind"))
            stream.feed(stream.upsert(name, partition=1) for name in names(10, "beside"))
            worker.until(lambda: worker.items.partitions[0].state == "stopped")
            worker.until(lambda: stream.is_committed({1: 10}))
            # First the broker says so, and from then on the worker, which has asked what the topic takes.
            worker.until(lambda: "max.message.bytes" in worker.items.partitions[0].detail)
            assert stream.letters in worker.items.partitions[0].detail
            assert worker.service.health.livez().ok
            limit(admin, stream.letters, 1_000_000)
            stream.wait_committed(worker)
            assert worker.metric("align_dead_letter_failures_total") >= 1
            verdict = stream.verdict([worker.metrics_url])
        assert verdict.ok, verdict.explain()
        assert [letter.value for letter in stream.dead_letters()] == [b"\xc1" * 3_000]
