"""Messages of librdkafka become the records that the other adapter would have made of the same batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.kafka.batches import FetchedRecord
from worker.kafka.confluent_kafka.records import unpacked
from worker.kafka.embedded import EmbeddedBroker
from worker.records import OversizedRecord, Record, TopicPartition

TOPIC = "in"
MANY = 10**6


def no_second_look(partition: TopicPartition, first: int, last: int) -> Sequence[Record]:
    raise AssertionError("only for names that are not UTF-8")


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as started:
        started.create_topic(TOPIC, 2)
        yield started


@pytest.fixture
def fetch(broker: EmbeddedBroker) -> Iterator[Any]:
    """Writes records, and gives them back as the library's messages."""
    consumers: list[Consumer] = []

    def fetched(records: Sequence[tuple[int, bytes | None, bytes | None, Any]]) -> list[Any]:
        consumer = Consumer({"bootstrap.servers": broker.bootstrap_servers, "group.id": "g", "log_level": 0})
        consumers.append(consumer)
        ends = [KafkaTopicPartition(TOPIC, number) for number in range(2)]
        ends = [
            KafkaTopicPartition(each.topic, each.partition, consumer.get_watermark_offsets(each, timeout=10)[1])
            for each in ends
        ]
        producer = Producer({"bootstrap.servers": broker.bootstrap_servers, "log_level": 0})
        for partition, key, value, headers in records:
            producer.produce(TOPIC, value, key, partition, headers=headers)
        assert producer.flush(10) == 0
        consumer.assign(ends)
        found: list[Any] = []
        while len(found) < len(records):
            found += consumer.consume(len(records) - len(found), 10.0)
        return found

    yield fetched
    for consumer in consumers:
        consumer.close()


def test_every_field_is_what_was_written(fetch: Any) -> None:
    sent = [
        (0, b"a", b"1", None),
        (1, None, b"2", [("trace", b"x"), ("none", None), ("trace", b"")]),
        (0, b"c", None, None),
        (0, b"", b"", [("é", b"y")]),
    ]
    polled = unpacked(fetch(sent), MANY, no_second_look)
    assert {(type(record), partition) for partition in polled for record in polled[partition]} == {
        (FetchedRecord, TopicPartition(TOPIC, 0)),
        (FetchedRecord, TopicPartition(TOPIC, 1)),
    }
    for number in range(2):
        found = polled[TopicPartition(TOPIC, number)]
        expected = [
            (key, value, tuple(headers or ())) for partition, key, value, headers in sent if partition == number
        ]
        assert [(record.key, record.value, tuple(record.headers)) for record in found] == expected
        assert all(record.topic == TOPIC and record.partition == number and record.timestamp > 0 for record in found)
        offsets = [record.offset for record in found]
        assert offsets == list(range(offsets[0], offsets[0] + len(found)))


def test_nothing_gives_nothing() -> None:
    assert unpacked([], MANY, no_second_look) == {}


@pytest.mark.parametrize(
    ("key", "value"),
    [(b"k", b"v" * 2_000), (b"k" * 2_000, b"v"), (b"k" * 700, b"v" * 700)],
    ids=["a large value", "a large key", "both together"],
)
def test_what_is_too_large_keeps_all_but_its_value(fetch: Any, key: bytes, value: bytes) -> None:
    polled = unpacked(fetch([(0, key, value, [("h", b"x")]), (0, b"k", b"small", None)]), 1_000, no_second_look)
    large, small = polled[TopicPartition(TOPIC, 0)]
    assert isinstance(large, OversizedRecord)
    assert isinstance(small, FetchedRecord)
    assert (large.key, large.value, large.value_bytes) == (key, None, len(value))
    assert large.value_sha256 == hashlib.sha256(value).digest()
    assert large.num_bytes >= len(key) + len(value)
    assert tuple(large.headers) == (("h", b"x"),)


class OddMessage:
    """As the binding's own messages are where a header's name is not UTF-8: it cannot be told (confluent-kafka
    2.16.1), and whoever looks at what it returns the second time ends the process."""

    def __init__(self, offset: int, odd: bool) -> None:
        self._offset, self._odd, self._num_asked = offset, odd, 0

    def headers(self) -> Any:
        if self._odd:
            raise SystemError("returned a result with an exception set")
        return [("even", b"1")]

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 1

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (1, 5)

    def key(self) -> bytes:
        return b"k%d" % self._offset

    def value(self) -> bytes:
        return b"v"

    def __len__(self) -> int:
        return 1


def test_headers_that_the_binding_cannot_tell_come_from_a_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kafka.confluent_kafka.records.Message", OddMessage)
    messages: list[Any] = [OddMessage(7, False), OddMessage(8, True), OddMessage(9, False), OddMessage(10, True)]
    looks = []

    def reread(partition: TopicPartition, first: int, last: int) -> Sequence[Record]:
        looks.append((partition, first, last))
        return [
            FetchedRecord(*partition, offset, 5, b"k", b"v", (("\udcff", b"%d" % offset),))
            for offset in range(first, last + 1)
        ]

    (found,) = unpacked(messages, MANY, reread).values()
    assert looks == [(TopicPartition(TOPIC, 1), 8, 10)]
    assert [tuple(record.headers) for record in found] == [
        (("even", b"1"),),
        (("\udcff", b"8"),),
        (("\udcff", b"9"),),
        (("\udcff", b"10"),),
    ]
    assert [(record.offset, record.key, record.value) for record in found] == [
        (offset, b"k%d" % offset, b"v") for offset in range(7, 11)
    ]


def test_a_second_look_that_finds_nothing_leaves_the_record_without_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kafka.confluent_kafka.records.Message", OddMessage)
    messages: list[Any] = [OddMessage(8, True)]
    (found,) = unpacked(messages, MANY, lambda partition, first, last: ()).values()
    assert [(record.offset, tuple(record.headers)) for record in found] == [(8, ())]
