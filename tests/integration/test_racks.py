"""A worker that says where it runs fetches from the replica there, and from another when that one is gone."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack, closing
from typing import Any

import pytest
from kafka.consumer.fetcher import Fetcher

from tests.brokers import Outgoing, RealKafka, create_topics, leaders, produce
from worker.kafka import ClientPort, Commit, make_client
from worker.records import Record, TopicPartition
from worker.settings import load

TOPIC = "items"
RACKS = ("zone-a", "zone-b", "zone-c")
DEADLINE_S = 60.0

pytestmark = pytest.mark.real_kafka


class Listener:
    def assigned(self, partitions: Collection[TopicPartition]) -> None: ...

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        return {}

    def lost(self, partitions: Collection[TopicPartition]) -> None: ...


@pytest.fixture
def senders(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The nodes that have sent records, in order. A leader that only points at a replica sends none."""
    found: list[int] = []
    original = Fetcher._handle_fetch_response

    def handle(self: Fetcher, node: int, offsets: Any, sent_at: float, response: Any) -> Any:
        if any(partition.records for topic in response.responses for partition in topic.partitions):
            found.append(node)
        return original(self, node, offsets, sent_at, response)

    monkeypatch.setattr(Fetcher, "_handle_fetch_response", handle)
    return found


@pytest.fixture
def kafka(start_kafka: Callable[..., RealKafka]) -> RealKafka:
    """Three brokers, each in a zone of its own, and a topic of one partition that all of them have."""
    kafka = start_kafka(nodes=3, racks=RACKS)
    create_topics({"bootstrap_servers": kafka.bootstrap_servers}, {TOPIC: 1})
    feed(kafka, "first")
    return kafka


def feed(kafka: RealKafka, value: str) -> None:
    produce({"bootstrap_servers": kafka.bootstrap_servers}, [Outgoing(TOPIC, b"k", value.encode())])


def leader_of(kafka: RealKafka) -> int:
    return leaders({"bootstrap_servers": kafka.bootstrap_servers}, TOPIC)[0]


def client_in(kafka: RealKafka, rack: str) -> ClientPort:
    flags = {"kafka.bootstrap_servers": kafka.bootstrap_servers, "kafka.client_rack": rack}
    return make_client(load({name: value for name, value in flags.items() if value}).kafka)


def poll_until(value: str, poll: Callable[[], Collection[Record]]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while value.encode() not in {record.value for record in poll()}:
        assert time.monotonic() < deadline, f"{value} did not come"


def test_records_come_from_the_same_zone_and_go_on_when_its_broker_dies(kafka: RealKafka, senders: list[int]) -> None:
    follower = (leader_of(kafka) + 1) % len(RACKS)
    consumer = client_in(kafka, RACKS[follower]).consumer("group")
    with ExitStack() as stack:
        stack.callback(consumer.close, 2.0)
        consumer.subscribe([TOPIC], Listener())

        def poll() -> Collection[Record]:
            return [record for records in consumer.poll(200, 100).values() for record in records]

        poll_until("first", poll)
        feed(kafka, "second")
        poll_until("second", poll)
        assert set(senders) == {follower}
        kafka.kill(follower)
        feed(kafka, "third")
        poll_until("third", poll)
        assert set(senders) == {follower, leader_of(kafka)}


def test_whole_topics_are_read_from_the_same_zone_where_there_is_a_replica(
    kafka: RealKafka, senders: list[int]
) -> None:
    leader = leader_of(kafka)
    follower = (leader + 1) % len(RACKS)
    for rack, sender in ((RACKS[follower], follower), (RACKS[leader], leader), ("zone-d", leader), ("", leader)):
        senders.clear()
        with closing(client_in(kafka, rack).reader(TOPIC)) as reader:
            poll_until("first", lambda reader=reader: reader.poll(200))
        assert set(senders) == {sender}, rack
