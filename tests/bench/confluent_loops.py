"""What a user would write on confluent-kafka instead of the worker, with our codec and model as a library."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from typing import Any

from confluent_kafka import Consumer, Message, Producer, TopicPartition

from tests.bench.embedding import embedding
from tests.bench.workload import BATCH
from worker.settings import Settings

COMMIT_S = 0.5
NUM_WAITING = 4  # batches between the two threads


def confluent(settings: Settings, stop: threading.Event) -> None:
    """One loop, one thread: consume → decode → fuse → produce → flush → commit."""
    consumer, producer = _consumer(settings), _producer(settings)
    outputs, errors = embedding(settings, _read), _Errors()
    while not stop.is_set():
        records = consumer.consume(BATCH, 0.2)
        if not records:
            continue
        for record, value in zip(records, outputs(records), strict=True):
            _produce(producer, settings, record, value, errors)
        producer.flush(30)
        errors.require_none()
        consumer.commit(asynchronous=False)
    consumer.close()


def confluent_pipelined(settings: Settings, stop: threading.Event) -> None:
    """Two threads: one consumes and commits what is delivered, the other decodes, fuses and produces.

    One thread alone may call the consumer: confluent-kafka lets a second wait for as long as the first keeps calling.
    """
    consumer, producer = _consumer(settings), _producer(settings)
    outputs = embedding(settings, _read)
    waiting: queue.Queue[list[Message]] = queue.Queue(NUM_WAITING)
    under_way: deque[_Delivery] = deque()

    def compute() -> None:
        while not stop.is_set():
            try:
                records = waiting.get(timeout=0.1)
            except queue.Empty:
                records = []
            if records:
                delivery = _Delivery(records)
                under_way.append(delivery)
                for record, value in zip(records, outputs(records), strict=True):
                    _produce(producer, settings, record, value, delivery)
            producer.poll(0)

    thread = threading.Thread(target=compute)
    thread.start()
    next_commit = time.monotonic() + COMMIT_S
    while not stop.is_set():
        records = consumer.consume(BATCH, 0.2)
        while records and not stop.is_set():
            try:
                waiting.put(records, timeout=0.2)
                break
            except queue.Full:
                continue
        if time.monotonic() >= next_commit:
            next_commit = time.monotonic() + COMMIT_S
            if ends := _delivered(under_way):
                offsets = [TopicPartition(settings.topics.items, number, end) for number, end in ends.items()]
                consumer.commit(offsets=offsets, asynchronous=False)
    thread.join()
    consumer.close()


def confluent_low_latency(settings: Settings, stop: threading.Event) -> None:
    """One thread that waits for one record, then takes what else is there: vectors as soon as they can be."""
    consumer, producer = _consumer(settings), _producer(settings, linger_ms=0)
    outputs, errors = embedding(settings, _read), _Errors()
    next_commit = time.monotonic() + COMMIT_S
    while not stop.is_set():
        first = consumer.poll(0.2)
        if first is not None:
            records = [first, *consumer.consume(BATCH - 1, 0)]
            for record, value in zip(records, outputs(records), strict=True):
                _produce(producer, settings, record, value, errors)
            producer.poll(0)
        if time.monotonic() >= next_commit:
            producer.flush(30)
            errors.require_none()
            next_commit = time.monotonic() + COMMIT_S
            if first is not None:
                consumer.commit(asynchronous=False)
    consumer.close()


def _read(record: Message) -> tuple[Any, Any]:
    return record.value(), record.offset()


class _Errors:
    """Of records that were not written."""

    def __init__(self) -> None:
        self.all: list[Any] = []

    def __call__(self, error: Any, message: Message) -> None:
        if error is not None:
            self.all.append(error)

    def require_none(self) -> None:
        if self.all:
            raise RuntimeError(f"{len(self.all)} records were not written: {self.all[0]}")


class _Delivery:
    """How many of a batch's outputs are yet to be delivered, and what may be committed then."""

    def __init__(self, records: list[Message]) -> None:
        self.num_left = len(records)
        self.ends = {record.partition(): (record.offset() or 0) + 1 for record in records}

    def __call__(self, error: Any, message: Message) -> None:
        if error is not None:
            raise RuntimeError(f"a record was not written: {error}")
        self.num_left -= 1


def _delivered(under_way: deque[_Delivery]) -> dict[Any, int]:
    """Takes batches that are delivered from the front; returns the offsets behind them, by partition."""
    ends: dict[Any, int] = {}
    while under_way and not under_way[0].num_left:
        ends |= under_way.popleft().ends
    return ends


def _produce(producer: Producer, settings: Settings, record: Message, value: bytes, on_delivery: Any) -> None:
    topic, partition = settings.topics.item_vectors, record.partition() or 0
    producer.produce(topic, value, record.key(), partition, on_delivery=on_delivery)


def _consumer(settings: Settings) -> Consumer:
    consumer = Consumer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "group.id": settings.kafka.group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
        }
    )
    consumer.subscribe([settings.topics.items])
    return consumer


def _producer(settings: Settings, linger_ms: float | None = None) -> Producer:
    return Producer(
        {
            "bootstrap.servers": settings.kafka.bootstrap_servers,
            "linger.ms": settings.kafka.linger_ms if linger_ms is None else linger_ms,
            "batch.size": settings.kafka.produce_batch_bytes,
            "enable.idempotence": True,
        }
    )
