"""What a user would write instead of the worker: one loop, one thread, commits after acknowledgement."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from confluent_kafka import Consumer as ConfluentConsumer
from confluent_kafka import Producer as ConfluentProducer
from kafka import KafkaConsumer, KafkaProducer

from schemas import NewItem, decode, encode_item_vector
from tests.bench.parts import runtime_of
from tests.bench.workload import BATCH, MODALITIES, VECTOR_DIM
from worker.settings import Settings


def bare(settings: Settings, stop: threading.Event) -> None:
    """kafka-python alone, as a loop: poll, send a record of the same size, flush, check, commit."""
    value = bytes(len(_encoded("0" * 16, "item-000000000", 0, bytes(2 * VECTOR_DIM), 0)))
    _loop(settings, stop, lambda records: [value] * len(records))


def plain(settings: Settings, stop: threading.Event) -> None:
    """What one would write on kafka-python: poll → batch → decode → fuse → send → flush → check → commit."""
    _loop(settings, stop, _embedding(settings, lambda record: record.value))


def plain_remembering(settings: Settings, stop: threading.Event) -> None:
    """The plain loop, which writes every item to a changelog besides, as it must where items come in parts. It reads
    none of it, and does not look which revision is the newest."""
    _loop(settings, stop, _embedding(settings, lambda record: record.value), settings.topics.item_state)


def _loop(
    settings: Settings,
    stop: threading.Event,
    outputs: Callable[[Sequence[Any]], Iterable[bytes]],
    changelog: str | None = None,
) -> None:
    kafka, topics = settings.kafka, settings.topics
    servers = kafka.bootstrap_servers.split(",")
    consumer = KafkaConsumer(
        bootstrap_servers=servers,
        group_id=kafka.group_id,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_bytes=kafka.fetch_max_bytes,
    )
    consumer.subscribe([topics.items])
    consumer.partitions_for_topic(topics.items)  # or the first join may hang for ever, as the worker's adapter knows
    producer = KafkaProducer(
        bootstrap_servers=servers, acks="all", linger_ms=kafka.linger_ms, batch_size=kafka.produce_batch_bytes
    )
    while not stop.is_set():
        records = list(chain.from_iterable(consumer.poll(200, max_records=BATCH).values()))
        if not records:
            continue
        sent = [
            producer.send(topics.item_vectors, value, record.key, partition=record.partition)
            for record, value in zip(records, outputs(records), strict=True)
        ]
        if changelog is not None:
            sent += [producer.send(changelog, each.value, each.key, partition=each.partition) for each in records]
        producer.flush()
        if failed := [each for each in sent if each.failed()]:
            raise RuntimeError(f"{len(failed)} records were not written: {failed[0].exception!r}")
        consumer.commit()
    producer.close(timeout=5)
    consumer.close(autocommit=False)


def confluent(settings: Settings, stop: threading.Event) -> None:
    """The plain loop on confluent-kafka: what another client would change."""
    kafka, topics = settings.kafka, settings.topics
    servers = {"bootstrap.servers": kafka.bootstrap_servers}
    consumer = ConfluentConsumer(
        {
            **servers,
            "group.id": kafka.group_id,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "partition.assignment.strategy": "range",
        }
    )
    consumer.subscribe([topics.items])
    producer = ConfluentProducer(
        {
            **servers,
            "linger.ms": kafka.linger_ms,
            "batch.size": kafka.produce_batch_bytes,
            "enable.idempotence": True,
        }
    )
    outputs = _embedding(settings, lambda record: record.value())
    errors: list[Any] = []

    def delivered(error: Any, message: Any) -> None:
        if error is not None:
            errors.append(error)

    while not stop.is_set():
        records = consumer.consume(BATCH, 0.2)
        if not records:
            continue
        for record, value in zip(records, outputs(records), strict=True):
            producer.produce(topics.item_vectors, value, record.key(), record.partition() or 0, on_delivery=delivered)
        if producer.flush(30) or errors:
            raise RuntimeError(f"{len(errors)} records were not written: {errors[:1]}")
        consumer.commit(asynchronous=False)
    consumer.close()


def _embedding(settings: Settings, value_of: Callable[[Any], bytes]) -> Callable[[Sequence[Any]], list[bytes]]:
    """Records to encoded vectors, in one thread, with the worker's own codec and model."""
    runtime = runtime_of(settings)
    space_id = runtime.space.space_id

    def outputs(records: Sequence[Any]) -> list[bytes]:
        items = [decode(NewItem, value_of(record), check_values=False) for record in records]
        rows = runtime.embed([item.features for item in items]).rows(settings.publish.vector_dtype)
        now_ms = time.time_ns() // 1_000_000
        return [
            _encoded(space_id, item.item_id, item.event_time_ms, row, now_ms)
            for item, row in zip(items, rows, strict=True)
        ]

    return outputs


def _encoded(space_id: str, item_id: str, event_time_ms: int, row: bytes, now_ms: int) -> bytes:
    return encode_item_vector(item_id, 1, event_time_ms, space_id, "f2", (VECTOR_DIM,), row, MODALITIES, now_ms, 0)
