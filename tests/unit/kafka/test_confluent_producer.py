"""What becomes of records that librdkafka is given: every receipt hears once, and nothing is written after its time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition

from worker.errors import ClientError, WorkerError
from worker.kafka import make_client
from worker.kafka.embedded import EmbeddedBroker
from worker.kafka.port import ClientPort, Outbound
from worker.settings import KafkaSettings

TOPIC = "out"


class Receipt:
    def __init__(self) -> None:
        self.fates: list[int | WorkerError] = []
        self.settled = threading.Event()

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self.fates += range(offset - count + 1, offset + 1) if offset >= 0 else [offset]
        self.settled.set()

    def failed(self, error: WorkerError) -> None:
        self.fates.append(error)
        self.settled.set()

    @property
    def fate(self) -> Any:
        assert self.settled.wait(10)
        (fate,) = self.fates
        return fate


class Lease:
    def __init__(self) -> None:
        self.is_good = True

    def is_valid(self) -> bool:
        return self.is_good


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as started:
        started.create_topic(TOPIC, 2)
        yield started


@pytest.fixture
def client(broker: EmbeddedBroker) -> ClientPort:
    settings = {**broker.settings, "bootstrap_servers": broker.bootstrap_servers, "client": "confluent-kafka"}
    return make_client(KafkaSettings(**settings))


def outbound(value: bytes, receipt: Receipt, headers: Any = (), partition: int | None = 0) -> Outbound:
    return Outbound(TOPIC, partition, b"k", value, headers, receipt)


def written(broker: EmbeddedBroker, count: int, partition: int = 0) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "g", "log_level": 0})
    try:
        consumer.assign([TopicPartition(TOPIC, partition, 0)])
        return [(each.value(), each.headers()) for each in consumer.consume(count, 10.0)]
    finally:
        consumer.close()


def test_order_within_a_partition_is_that_of_the_list_whatever_the_headers(
    broker: EmbeddedBroker, client: ClientPort
) -> None:
    producer = client.producer()
    receipts = [Receipt() for _ in range(40)]
    producer.send(
        [
            outbound(b"%d" % n, receipt, (("h", b"x"),) if n % 5 == 0 else (), partition=n % 2)
            for n, receipt in enumerate(receipts)
        ]
    )
    assert [receipt.fate for receipt in receipts[::2]] == list(range(20))
    assert [receipt.fate for receipt in receipts[1::2]] == list(range(20))
    producer.close(1)
    assert [value for value, _ in written(broker, 20)] == [b"%d" % n for n in range(0, 40, 2)]
    assert [value for value, _ in written(broker, 20, 1)] == [b"%d" % n for n in range(1, 40, 2)]


def test_what_is_queued_when_the_lease_ends_is_never_written(broker: EmbeddedBroker, client: ClientPort) -> None:
    lease, first, late = Lease(), Receipt(), Receipt()
    producer = client.producer(lease)
    producer.send([outbound(b"first", first)])
    assert first.fate == 0
    broker.set_down()
    producer.send([outbound(b"late", late)])
    lease.is_good = False
    assert isinstance(late.fate, ClientError)
    broker.set_up()
    lease.is_good = True
    last = Receipt()
    producer.send([outbound(b"last", last)])
    assert last.fate == 1
    producer.close(1)
    assert [value for value, _ in written(broker, 2)] == [b"first", b"last"]


def test_closing_fails_what_is_not_acknowledged_and_ends_its_thread(broker: EmbeddedBroker, client: ClientPort) -> None:
    before = set(threading.enumerate())
    producer, receipt = client.producer(), Receipt()
    broker.set_down()
    producer.send([outbound(b"never", receipt)])
    started = time.monotonic()
    producer.close(0.2)
    assert time.monotonic() - started < 3
    assert isinstance(receipt.fate, ClientError)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ClientError, match="closed"):
        producer.send([outbound(b"never", Receipt())])
    producer.close(0.2)


@pytest.mark.parametrize("name", [b"\xff\xfe".decode(errors="surrogateescape"), "nu\0ll"], ids=["not UTF-8", "a null"])
def test_a_name_that_the_binding_cannot_write_is_written_all_the_same(
    broker: EmbeddedBroker, client: ClientPort, name: str
) -> None:
    """The binding ends the process over the one, and cuts the other (confluent-kafka 2.16.1)."""
    producer, receipts = client.producer(), [Receipt() for _ in range(3)]
    producer.send(
        [outbound(b"1", receipts[0]), outbound(b"2", receipts[1], ((name, b"x"),)), outbound(b"3", receipts[2])]
    )
    assert sorted(receipt.fate for receipt in receipts) == [0, 1, 2]
    assert receipts[1].fate > receipts[0].fate
    producer.close(1)


def test_a_key_chooses_the_partition_as_with_other_clients(broker: EmbeddedBroker, client: ClientPort) -> None:
    producer, receipts = client.producer(), [Receipt() for _ in range(30)]
    sent = [Outbound(TOPIC, None, b"key-%d" % n, b"%d" % n, (), receipt) for n, receipt in enumerate(receipts)]
    producer.send(sent)
    for receipt in receipts:
        assert isinstance(receipt.fate, int)
    producer.close(1)
    from kafka.partitioner.default import murmur2

    expected = {p: [b"%d" % n for n in range(30) if (murmur2(b"key-%d" % n) & 0x7FFFFFFF) % 2 == p] for p in range(2)}
    for partition, values in expected.items():
        assert [value for value, _ in written(broker, len(values), partition)] == values
