"""The Kafka client behind its port, where the library by itself does something else."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.brokers import Broker, library
from tests.brokers.addresses import free_ports
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.stream import Stream, names
from tests.worker_process import as_text
from worker.errors import CallTimeoutError, WorkerError
from worker.kafka import ClientPort, Commit, ConsumerPort, make_client
from worker.kafka.embedded import EmbeddedBroker
from worker.kafka.port import Outbound, ProducerPort
from worker.records import TopicPartition
from worker.settings import KafkaSettings, load

pytestmark = BOTH_LIBRARIES

NUM_PER_PARTITION = 60
FEW = 10


class Listener:
    def __init__(self) -> None:
        self.partitions: set[TopicPartition] = set()

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.partitions |= set(partitions)

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        self.partitions -= set(partitions)
        return {}

    def lost(self, partitions: Collection[TopicPartition]) -> None:
        self.partitions -= set(partitions)


def client_of(stream: Stream, **changes: Any) -> ClientPort:
    return make_client(load({name: as_text(value) for name, value in stream.settings(changes).items()}).kafka)


@contextmanager
def member(stream: Stream) -> Iterator[ConsumerPort]:
    consumer = client_of(stream).consumer(stream.group)
    try:
        consumer.subscribe([stream.items], Listener())
        yield consumer
    finally:
        consumer.close(2.0)


def poll_until(
    consumer: ConsumerPort, seen: Counter[TopicPartition], condition: Callable[[], bool], max_records: int
) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, seen
        for partition, records in consumer.poll(200, max_records).items():
            seen[TopicPartition(*partition)] += len(records)


def test_a_partition_that_was_paused_with_records_at_hand_goes_on_after_it(stream: Stream) -> None:
    """The library puts the records aside and, once another partition has been read meanwhile, forgets them: the
    partition stands still for ever."""
    for partition in range(2):
        in_one_batch = (stream.upsert(name, partition=partition) for name in names(NUM_PER_PARTITION))
        stream.feed(in_one_batch, linger_ms=500)
    seen: Counter[TopicPartition] = Counter()
    with member(stream) as consumer:
        poll_until(consumer, seen, lambda: seen.total() > 0, FEW)
        (halted,) = seen
        consumer.pause([halted])
        (other,) = {TopicPartition(stream.items, partition) for partition in range(2)} - {halted}
        poll_until(consumer, seen, lambda: seen[other] == NUM_PER_PARTITION, FEW)
        assert seen[halted] == FEW
        consumer.resume([halted])
        poll_until(consumer, seen, lambda: seen[halted] == NUM_PER_PARTITION, FEW)


class Receipt:
    def __init__(self) -> None:
        self.settled = threading.Event()
        self.error: WorkerError | None = None
        self.offset: int | None = None

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self.offset = offset
        self.settled.set()

    def failed(self, error: WorkerError) -> None:
        self.error = error
        self.settled.set()


@contextmanager
def producer_of(stream: Stream, **changes: Any) -> Iterator[ProducerPort]:
    producer = client_of(stream, **changes).producer()
    try:
        yield producer
    finally:
        producer.close(2.0)


def offset_of(record: Outbound) -> int:
    assert isinstance(record.receipt, Receipt)
    assert record.receipt.offset is not None
    return record.receipt.offset


def require_written(stream: Stream, sent: Sequence[Outbound]) -> None:
    """Each record is where its receipt says, and those of a partition are in order."""
    for record in sent:
        assert isinstance(record.receipt, Receipt)
        assert record.receipt.settled.wait(10)
        assert record.receipt.error is None
    written = {(found.partition, found.offset): found for found in stream.output_records()}
    assert len(written) == len(sent)
    for record in sent:
        found = written[record.partition, offset_of(record)]
        assert (found.key, found.value, tuple(found.headers)) == (record.key, record.value, tuple(record.headers))
    for partition in range(2):
        offsets = [offset_of(record) for record in sent if record.partition == partition]
        assert offsets == sorted(offsets)


def outbound(stream: Stream, number: int, size: int = 100) -> Outbound:
    value = None if number % 7 == 0 else b"%d" % number + bytes(size)
    headers = [("traceparent", b"%d" % number)] if number % 3 == 0 else ()
    return Outbound(stream.vectors, number % 2, b"k%d" % number, value, headers, Receipt())


@pytest.mark.parametrize("compression", ["none", "gzip", "snappy", "lz4", "zstd"])
def test_records_are_where_their_receipts_say(stream: Stream, compression: str) -> None:
    sent = [outbound(stream, number) for number in range(300)]
    with producer_of(stream, **{"kafka.compression": compression}) as producer:
        producer.send(sent[:1])
        producer.send(sent[1:250])
        for record in sent[250:]:
            producer.send([record])
        require_written(stream, sent)


@pytest.mark.real_kafka
def test_a_batch_that_the_topic_does_not_take_is_written_in_parts(
    make_stream: Callable[..., Stream], broker: Broker
) -> None:
    """Its records fit, each by itself. One library takes the batch apart, and the receipts must come along; the other
    one must not make it."""
    stream = make_stream(broker, create=False)
    stream.create_topics({"max.message.bytes": "20000"})
    sent = [outbound(stream, number, 3_000) for number in range(60)]
    client = client_of(stream)
    client.describe_topics([stream.vectors])  # as a worker does before it opens a producer
    producer = client.producer()
    try:
        producer.send(sent)
        require_written(stream, sent)
    finally:
        producer.close(2.0)


@pytest.mark.embedded
def test_a_producer_that_cannot_flush_is_closed_all_the_same(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker
) -> None:
    """The library by itself leaves it open, to write old records once the broker is back."""
    stream = make_stream(own_embedded)
    before = set(threading.enumerate())
    producer = client_of(stream).producer()
    first, late = Receipt(), Receipt()
    producer.send([Outbound(stream.vectors, 0, b"k", b"first", (), first)])
    assert first.settled.wait(10)
    own_embedded.set_down()
    producer.send([Outbound(stream.vectors, 0, b"k", b"late", (), late)])
    started = time.monotonic()
    producer.close(0.3)
    assert time.monotonic() - started < 2
    assert late.settled.wait(2)
    assert first.error is None
    assert late.error is not None
    assert set(threading.enumerate()) <= before
    own_embedded.set_up()
    assert [record.value for record in stream.output_records()] == [b"first"]


def test_a_client_that_cannot_be_made_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.kafka.kafka_python.connection.BOOTSTRAP_TIMEOUT_MS", 200)
    (port,) = free_ports(1)
    client = make_client(KafkaSettings(bootstrap_servers=f"127.0.0.1:{port}", client=library.current))
    before = set(threading.enumerate())
    for make in (lambda: client.consumer("group"), client.producer, lambda: client.describe_topics(["items"])):
        with pytest.raises(CallTimeoutError):
            make()
    assert set(threading.enumerate()) <= before
