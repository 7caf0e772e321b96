"""A producer and a consumer beside the worker, as its users have them: librdkafka's, through the broker alone."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from schemas import ItemVector, UserEvent, UserVector, decode, encode
from worker.errors import WorkerError
from worker.settings import Settings
from worker.synthetic import SyntheticItem

STALL_TIMEOUT_S = 20.0


class ReadUser(NamedTuple):
    """The last vector of a user that has been read."""

    vector: NDArray[np.float32]
    event_time_ms: int
    num_events: int


class _Sent(NamedTuple):
    event_time_ms: int
    at: float


class Outside:
    """Knows what has been sent, and what has come back."""

    def __init__(self, settings: Settings, num_partitions: int) -> None:
        servers = {"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0}
        self._topics = settings.topics
        self._producer = Producer({**servers, "linger.ms": 5, "partitioner": "murmur2_random"})
        self._reader = Consumer({**servers, "group.id": "demo-reader", "fetch.wait.max.ms": 10})
        outputs = [settings.topics.item_vectors]
        if "users" in settings.roles:
            outputs.append(settings.topics.user_vectors)
        self._reader.assign([TopicPartition(topic, number, 0) for topic in outputs for number in range(num_partitions)])
        self.fed: dict[str, SyntheticItem] = {}
        self.items: dict[str, NDArray[np.float32]] = {}
        """Vectors by item id."""
        self.users: dict[str, ReadUser] = {}
        self.item_latencies_ms: list[float] = []
        self.event_latencies_ms: list[float] = []
        """From the send of an event to a vector in hand that has it."""
        self._item_sent_at: dict[str, float] = {}
        self._events_sent: defaultdict[str, list[_Sent]] = defaultdict(list)

    def is_waiting(self, user: str | None = None) -> bool:
        """Whether there are events, of this user or of any, that no vector read so far has."""
        return any(self._events_sent.values() if user is None else self._events_sent[user])

    def send_item(self, item: SyntheticItem) -> None:
        self.fed[item.item_id] = item
        self._item_sent_at[item.item_id] = time.monotonic()
        message = item.message(revision=1, event_time_ms=now_ms())
        self._producer.produce(self._topics.items, key=message.key, value=encode(message))
        self._producer.poll(0)

    def send_event(self, event: UserEvent) -> None:
        """Events of a user are sent in the order of their times."""
        self._events_sent[event.user_id].append(_Sent(event.event_time_ms, time.monotonic()))
        self._producer.produce(self._topics.events, key=event.key, value=encode(event))
        self._producer.poll(0)

    def read(self, timeout_s: float) -> None:
        for record in self._reader.consume(500, timeout_s):
            value = record.value()
            if record.error() is not None or value is None:
                continue
            if record.topic() == self._topics.item_vectors:
                self._took_item(decode(ItemVector, value))
            else:
                self._took_user(decode(UserVector, value))

    def until(self, is_done: Callable[[], bool], awaited: str, on_step: Callable[[], None] = lambda: None) -> None:
        """Read until something is so. Raises `WorkerError` when nothing at all has come for too long."""
        moved = time.monotonic()
        while not is_done():
            before = len(self.item_latencies_ms), len(self.event_latencies_ms)
            self.read(0.002)
            on_step()
            if (len(self.item_latencies_ms), len(self.event_latencies_ms)) != before:
                moved = time.monotonic()
            elif time.monotonic() - moved > STALL_TIMEOUT_S:
                raise WorkerError(f"no vector has come for {STALL_TIMEOUT_S:g} s, waiting for {awaited}")

    def close(self) -> None:
        self._producer.flush(5)
        self._reader.close()

    def _took_item(self, vector: ItemVector) -> None:
        self.items[vector.item_id] = vector.vector.to_numpy().astype(np.float32)
        if (sent_at := self._item_sent_at.pop(vector.item_id, None)) is not None:
            self.item_latencies_ms.append((time.monotonic() - sent_at) * 1000)

    def _took_user(self, vector: UserVector) -> None:
        self.users[vector.user_id] = ReadUser(
            vector.vector.to_numpy().astype(np.float32), vector.event_time_ms, vector.num_events
        )
        sent = self._events_sent[vector.user_id]
        in_it = [each for each in sent if each.event_time_ms <= vector.event_time_ms]
        self._events_sent[vector.user_id] = sent[len(in_it) :]
        self.event_latencies_ms += [(time.monotonic() - each.at) * 1000 for each in in_it]


def now_ms() -> int:
    return time.time_ns() // 1_000_000
