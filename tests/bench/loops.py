"""What a user would write on kafka-python instead of the worker: one thread, commits after acknowledgement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

from kafka import KafkaConsumer, KafkaProducer

from tests.bench.embedding import embedding, encoded_vector
from tests.bench.workload import BATCH, VECTOR_DIM
from worker.settings import Settings


def bare(settings: Settings, stop: threading.Event) -> None:
    """kafka-python alone, as a loop: poll, send a record of the same size, flush, check, commit."""
    value = bytes(len(encoded_vector("0" * 16, "item-000000000", 0, bytes(2 * VECTOR_DIM), 0, 0)))
    _loop(settings, stop, lambda records: [value] * len(records))


def plain(settings: Settings, stop: threading.Event) -> None:
    """What one would write on kafka-python: poll → batch → decode → fuse → send → flush → check → commit."""
    _loop(settings, stop, embedding(settings, lambda record: (record.value, record.offset)))


def plain_remembering(settings: Settings, stop: threading.Event) -> None:
    """The plain loop, which writes every item to a changelog besides, as it must where items come in parts. It reads
    none of it, and does not look which revision is the newest."""
    _loop(settings, stop, embedding(settings, lambda record: (record.value, record.offset)), settings.topics.item_state)


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
