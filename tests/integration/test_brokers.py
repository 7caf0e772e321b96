"""The brokers that the other tests rely on do what those tests take for granted."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, MessageSizeTooLargeError

from tests.brokers import (
    Broker,
    Listener,
    LogRange,
    Outgoing,
    RealKafka,
    create_topics,
    find_distribution,
    leaders,
    log_ranges,
    produce,
    read_topic,
)
from tests.brokers.addresses import free_ports
from worker.kafka import embedded
from worker.kafka.embedded import DISCONNECT, Api, EmbeddedBroker
from worker.kafka.kafka_python.client import KafkaPythonClient
from worker.settings import KafkaSettings

EMBEDDED_OPTIONS = {"api_version": (2, 3)}
needs_kafka = pytest.mark.real_kafka
on_embedded = pytest.mark.embedded


@pytest.fixture
def own_embedded() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as started:
        yield started


@contextlib.contextmanager
def member(broker: Broker, topic: str) -> Iterator[KafkaConsumer]:
    settings = broker.client_settings
    # Short, because on the embedded broker it is the length of an attempt to share, and half of those fail.
    session_ms = 2_000 if broker.kind == "embedded" else settings["session_timeout_ms"]
    waits = {"fetch_max_wait_ms": settings["fetch_max_wait_ms"]} if "fetch_max_wait_ms" in settings else {}
    consumer = KafkaConsumer(
        topic,
        group_id=topic,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=session_ms,
        heartbeat_interval_ms=settings["heartbeat_interval_ms"],
        **broker.options,
        **waits,
    )
    try:
        yield consumer
    finally:
        consumer.close(autocommit=False, timeout_ms=2_000)


@contextlib.contextmanager
def sender(options: Mapping[str, Any], **more: Any) -> Iterator[KafkaProducer]:
    producer = KafkaProducer(**options, **more)
    try:
        yield producer
    finally:
        with contextlib.suppress(KafkaError):
            producer.close(timeout=1)


class Members:
    """Consumers of one group, each polling on a thread of its own, as workers do."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self._broker, self._topic = broker, topic
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.partitions: list[set[int]] = []

    def join(self) -> None:
        self.partitions.append(set())
        self._threads.append(threading.Thread(target=self._run, args=(len(self._threads),)))
        self._threads[-1].start()

    def _run(self, index: int) -> None:
        with member(self._broker, self._topic) as consumer:
            while not self._stop.is_set():
                with contextlib.suppress(KafkaError):  # the embedded broker refuses some joins once
                    consumer.poll(timeout_ms=200)
                self.partitions[index] = {tp.partition for tp in consumer.assignment()}

    def wait_for(self, shares: list[int], within_s: float) -> None:
        """Return when the members have as many partitions as `shares` says."""
        deadline = time.monotonic() + within_s
        while sorted(map(len, self.partitions)) != shares:
            assert time.monotonic() < deadline, self.partitions
            time.sleep(0.02)

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=10)


def test_records_come_back_as_they_were_sent(broker: Broker, topics: Mapping[str, str]) -> None:
    topic = topics["items"]
    broker.create_topics({topic: 3})
    sent = [
        Outgoing(topic, b"k%d" % n, None if n % 7 == 0 else b"v%d" % n, n % 3, [("trace", b"%d" % n)], 1_000 + n)
        for n in range(60)
    ]
    assert produce(broker.options, sent) == 60

    got = list(read_topic(broker.options, topic))

    def fields(r: Any) -> Outgoing:
        return Outgoing(r.topic, r.key, r.value, r.partition, list(r.headers), r.timestamp)

    for partition in range(3):
        ours = [record for record in got if record.partition == partition]
        assert [fields(record) for record in ours] == [each for each in sent if each.partition == partition]
        assert [record.offset for record in ours] == list(range(20))
    assert log_ranges(broker.options, topic) == dict.fromkeys(range(3), LogRange(0, 20))


def test_looking_for_a_topic_does_not_create_it(broker: Broker, topics: Mapping[str, str]) -> None:
    for _ in range(2):
        assert log_ranges(broker.options, topics["items"]) == {}
        assert list(read_topic(broker.options, topics["items"])) == []


def test_a_group_forms_and_shares_its_partitions(broker: Broker, topics: Mapping[str, str]) -> None:
    topic = topics["items"]
    broker.create_topics({topic: 4})
    with contextlib.closing(Members(broker, topic)) as members:
        members.join()
        members.wait_for([4], within_s=60)
        members.join()
        members.wait_for([2, 2], within_s=60)
        assert set.union(*members.partitions) == {0, 1, 2, 3}


def test_the_workers_client_accepts_the_settings(broker: Broker, topics: Mapping[str, str]) -> None:
    broker.create_topics({topics["items"]: 5})
    client = KafkaPythonClient(KafkaSettings(**broker.client_settings))
    client.connect()
    assert client.describe_topics([topics["items"]])[topics["items"]].num_partitions == 5


@on_embedded
class TestEmbeddedBroker:
    def test_a_topic_is_created_once(self, own_embedded: EmbeddedBroker) -> None:
        own_embedded.create_topic("items", 2)
        with pytest.raises(ValueError, match=r"'items'.*already exists"):
            own_embedded.create_topic("items", 2)
        with pytest.raises(ValueError, match="not 0"):
            own_embedded.create_topic("other", 0)

    def test_a_retriable_error_and_a_dropped_connection_are_survived(self, own_embedded: EmbeddedBroker) -> None:
        not_leader = 6
        with sender(EMBEDDED_OPTIONS, bootstrap_servers=own_embedded.bootstrap_servers) as producer:
            own_embedded.fail_requests(Api.PRODUCE, not_leader, DISCONNECT)
            assert producer.send("items", b"x", partition=0).get(timeout=10).offset == 0

    def test_a_fatal_error_reaches_the_sender_once(self, own_embedded: EmbeddedBroker) -> None:
        too_large = 10
        options = {**EMBEDDED_OPTIONS, "bootstrap_servers": own_embedded.bootstrap_servers}
        with sender(options, enable_idempotence=False) as producer:
            own_embedded.fail_requests(Api.PRODUCE, too_large)
            with pytest.raises(MessageSizeTooLargeError):
                producer.send("items", b"x").get(timeout=10)
            producer.send("items", b"x").get(timeout=10)

    def test_errors_can_be_taken_back(self, own_embedded: EmbeddedBroker) -> None:
        too_large = 10
        options = {**EMBEDDED_OPTIONS, "bootstrap_servers": own_embedded.bootstrap_servers}
        with sender(options, enable_idempotence=False) as producer:
            own_embedded.fail_requests(Api.PRODUCE, too_large)
            own_embedded.stop_failing(Api.PRODUCE)
            producer.send("items", b"x").get(timeout=10)

    def test_it_goes_down_and_comes_back_with_its_data(self, own_embedded: EmbeddedBroker) -> None:
        options = {**EMBEDDED_OPTIONS, "bootstrap_servers": own_embedded.bootstrap_servers}
        produce(options, [Outgoing("items", b"k", b"before")])
        own_embedded.set_down()
        with pytest.raises(KafkaTimeoutError):
            produce({**options, "bootstrap_timeout_ms": 500, "max_block_ms": 500}, [Outgoing("items", b"k", b"lost")])
        own_embedded.set_up()
        produce(options, [Outgoing("items", b"k", b"after")])
        assert [record.value for record in read_topic(options, "items")] == [b"before", b"after"]

    def test_answers_can_be_delayed(self, own_embedded: EmbeddedBroker) -> None:
        with sender(EMBEDDED_OPTIONS, bootstrap_servers=own_embedded.bootstrap_servers) as producer:
            producer.send("items", b"x").get(timeout=10)
            own_embedded.set_round_trip(300)
            started = time.monotonic()
            producer.send("items", b"x").get(timeout=10)
            assert time.monotonic() - started >= 0.3

    def test_a_partition_keeps_about_five_megabytes(self, own_embedded: EmbeddedBroker) -> None:
        own_embedded.create_topic("items", 1)
        options = {**EMBEDDED_OPTIONS, "bootstrap_servers": own_embedded.bootstrap_servers}
        produce({**options, "batch_size": 10_000}, (Outgoing("items", None, bytes(10_000)) for _ in range(700)))
        first, end = log_ranges(options, "items")[0]
        assert end == 700
        assert 4_500_000 < (end - first) * 10_000 < 6_000_000

    def test_several_nodes(self) -> None:
        with EmbeddedBroker(brokers=3) as three:
            assert len(three.bootstrap_servers.split(",")) == 3

    def test_use_after_close_and_impossible_sizes_are_refused(self) -> None:
        broker = EmbeddedBroker()
        broker.close()
        broker.close()
        with pytest.raises(RuntimeError, match="closed"):
            broker.create_topic("items", 1)
        with pytest.raises(ValueError, match="not 0"):
            EmbeddedBroker(brokers=0)

    def test_a_missing_wheel_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "confluent_kafka", None)
        with pytest.raises(ImportError, match=r"pip install 'confluent-kafka>=2\.11'"):
            EmbeddedBroker()

    def test_a_wheel_without_the_mock_cluster_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(embedded, "_FUNCTIONS", {"rd_kafka_mock_teleport": (None, ())})
        with pytest.raises(ImportError, match="no rd_kafka_mock_teleport"):
            EmbeddedBroker()


@pytest.fixture(scope="module")
def own_kafka(own_kafka_allowed: None) -> Iterator[RealKafka]:
    """A node to be hurt, with a property of ours."""
    with RealKafka(properties={"message.max.bytes": "2000"}) as kafka:
        yield kafka


@needs_kafka
class TestRealKafka:
    def test_a_killed_node_comes_back_with_its_data(self, own_kafka: RealKafka, topics: Mapping[str, str]) -> None:
        options, topic = {"bootstrap_servers": own_kafka.bootstrap_servers}, topics["items"]
        create_topics(options, {topic: 1})
        produce(options, [Outgoing(topic, b"k", b"before")])
        own_kafka.kill()
        with pytest.raises(KafkaTimeoutError):
            produce({**options, "bootstrap_timeout_ms": 500}, [Outgoing(topic, b"k", b"lost")])
        own_kafka.start()
        produce(options, [Outgoing(topic, b"k", b"after")])
        assert [record.value for record in read_topic(options, topic)] == [b"before", b"after"]

    def test_a_frozen_node_answers_only_once_it_is_thawed(
        self, own_kafka: RealKafka, topics: Mapping[str, str]
    ) -> None:
        options, topic = {"bootstrap_servers": own_kafka.bootstrap_servers}, topics["items"]
        create_topics(options, {topic: 1})
        with sender(options) as producer:
            producer.send(topic, b"x").get(timeout=10)
            own_kafka.pause()
            future = producer.send(topic, b"y")
            with pytest.raises(KafkaTimeoutError):
                future.get(timeout=1)
            own_kafka.resume()
            assert future.get(timeout=20).offset == 1

    def test_properties_reach_the_broker(self, own_kafka: RealKafka, topics: Mapping[str, str]) -> None:
        options, topic = {"bootstrap_servers": own_kafka.bootstrap_servers}, topics["items"]
        create_topics(options, {topic: 1})
        with pytest.raises(MessageSizeTooLargeError):
            produce(options, [Outgoing(topic, b"k", bytes(5_000))])

    def test_leadership_moves_when_a_node_dies(self, start_kafka: Callable[..., RealKafka]) -> None:
        kafka = start_kafka(nodes=3)
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, {"items": 1})
        with sender(options) as producer:
            producer.send("items", b"before").get(timeout=20)
            kafka.kill(leaders(options, "items")[0])
            producer.send("items", b"after").get(timeout=30)
        assert [record.value for record in read_topic(options, "items")] == [b"before", b"after"]

    def test_topics_are_not_created_by_mistake(self, real_kafka: Broker, topics: Mapping[str, str]) -> None:
        if "ALIGN_TEST_BOOTSTRAP_SERVERS" in os.environ:
            pytest.skip("a broker that is not ours may create topics")
        with sender(real_kafka.options, max_block_ms=1_000) as producer, pytest.raises(KafkaError):
            producer.send(topics["items"], b"x").get(timeout=5)

    def test_a_broker_that_cannot_start_shows_its_log(self, start_kafka: Callable[..., RealKafka]) -> None:
        with pytest.raises(Exception, match=r"(?s)node 0 (ended|could not).*num\.io\.threads"):
            start_kafka(properties={"num.io.threads": "0"})

    @pytest.mark.parametrize(
        ("listener", "mechanism"),
        [
            (Listener.SASL_PLAINTEXT, "PLAIN"),
            (Listener.SASL_PLAINTEXT, "SCRAM-SHA-512"),
            (Listener.SASL_PLAINTEXT, "OAUTHBEARER"),
            (Listener.SSL, ""),
            (Listener.MTLS, ""),
            (Listener.SASL_SSL, "SCRAM-SHA-256"),
        ],
    )
    def test_the_worker_gets_in(self, secure_kafka: RealKafka, listener: Listener, mechanism: str) -> None:
        KafkaPythonClient(KafkaSettings(**secure_kafka.client_settings(listener, mechanism))).connect()

    @pytest.mark.parametrize(
        ("listener", "wrong"),
        [
            (Listener.SASL_PLAINTEXT, {"sasl_plain_password": "wrong"}),
            (Listener.SSL, {"ssl_cafile": None}),
            (Listener.MTLS, {"ssl_certfile": None, "ssl_keyfile": None}),
        ],
    )
    def test_nobody_else_does(self, secure_kafka: RealKafka, listener: Listener, wrong: dict[str, Any]) -> None:
        options = secure_kafka.client_settings(listener)
        names = {"sasl_username": "sasl_plain_username", "sasl_password": "sasl_plain_password"}
        options = {names.get(name, name): value for name, value in options.items() if name != "client"}
        with sender(options):
            pass  # it is what is wrong that keeps us out below
        with pytest.raises(KafkaTimeoutError):
            KafkaProducer(**{**options, **wrong}, bootstrap_timeout_ms=1_500)


class TestDistribution:
    def test_a_home_without_jars_is_named(self, tmp_path: Path) -> None:
        found = find_distribution({"KAFKA_HOME": str(tmp_path)})
        assert isinstance(found, str)
        assert f"KAFKA_HOME={tmp_path}" in found

    def test_a_missing_java_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "libs").mkdir()
        (tmp_path / "libs" / "kafka_2.13-4.0.0.jar").touch()
        found = find_distribution({"KAFKA_HOME": str(tmp_path), "JAVA_HOME": str(tmp_path)})
        assert isinstance(found, str)
        assert "java" in found


def test_ports_are_below_those_of_clients() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    assert max(ports) < 32_768


def test_a_guarded_process_dies_with_its_parent() -> None:
    script = """
        import subprocess, sys, time
        from tests.brokers.guard import Guard
        child = subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, start_new_session=True)
        Guard(child.pid)
        print(child.pid, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)  # it lives
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _is_running(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")  # an orphan that nobody reaps stays a zombie
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
