"""Reads an output topic as a user would, on a thread of its own."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Self

from confluent_kafka import Consumer, Message, TopicPartition


class TopicReader:
    """Hands every record of a topic to `take`, with when it was read. Starts on entry; stops on exit."""

    def __init__(self, bootstrap_servers: str, topic: str, num_partitions: int) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap_servers, "group.id": "reader", "fetch.wait.max.ms": 10, "log_level": 0}
        )
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(num_partitions)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def take(self, record: Message, value: Any, at_ms: float) -> None:
        raise NotImplementedError

    def _run(self) -> None:
        while not self._stop.is_set():
            records = self._consumer.consume(500, 0.005)
            now_ms = time.time() * 1000
            for record in records:
                self.take(record, record.value(), now_ms)
