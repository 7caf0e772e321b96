"""A steady stream of items or events in, and a reader of the vectors that come out: someone's producer and index."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, Protocol

import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition

from schemas import ItemVector, decode
from tests.bench.workload import NUM_PARTITIONS, Bed, Feeder

TICK_S = 0.002
DRAIN_TIMEOUT_S = 60.0
TOPIC = {"message.timestamp.type": "LogAppendTime"}
"""The broker stamps each input when it appends it."""


class Arrival(NamedTuple):
    """One vector, as the reader got it."""

    at_ms: float
    """Wall clock when the reader had it in hand."""
    partition: int
    append_ms: float
    """From the append of the input to the reader, milliseconds. The broker's stamp is a whole millisecond, rounded
    down, so this is up to 1 ms too long."""


Place = tuple[int, int]
"""Partition and offset of an input."""


class Source(Protocol):
    """Writes inputs, each of which becomes one vector."""

    num_fed: int

    def feed(self, count: int, /) -> None: ...

    def flush(self) -> None: ...


def item_place(record: Message) -> Place:
    """The input of an item's vector."""
    return record.partition() or 0, decode(ItemVector, record.value() or b"", check_values=False).source_offset or 0


class Stream:
    """Feeds `topic` and reads the worker's output topic, each on a thread, while the context lasts."""

    def __init__(
        self,
        bed: Bed,
        topic: str,
        output: str,
        rate: float,
        feeder: Source | None = None,
        place: Callable[[Message], Place] = item_place,
    ) -> None:
        """Feeds items unless told otherwise. `place` finds the input of an output."""
        self._servers = bed.bootstrap_servers
        self._topic, self._rate, self._place = topic, rate, place
        self._feeder = feeder or Feeder(bed.bootstrap_servers, topic, linger_ms=0.5)
        self._reader = _reader(bed.bootstrap_servers, output)
        self._read: list[tuple[float, Message]] = []
        self._stop, self._drained = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=self._feed), threading.Thread(target=self._receive)]

    def __enter__(self) -> Stream:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop feeding, and wait for what is still on its way."""
        self._stop.set()
        self._threads[0].join()
        deadline = time.monotonic() + DRAIN_TIMEOUT_S
        while error is None and self.num_read < self._feeder.num_fed and time.monotonic() < deadline:
            time.sleep(0.05)
        self._drained.set()
        self._threads[1].join()
        if error is None and self.num_read < self._feeder.num_fed:
            raise TimeoutError(f"{self.num_read} of {self._feeder.num_fed} vectors within {DRAIN_TIMEOUT_S:g} s")

    @property
    def num_read(self) -> int:
        return len(self._read)

    @property
    def seconds_behind(self) -> float:
        """What has been fed and not been read, by the time that it takes to feed."""
        return (self._feeder.num_fed - self.num_read) / self._rate

    def arrivals(self) -> list[Arrival]:
        """The first vector of each input, in the order of their arrival. Once the context has ended."""
        appended_ms = append_times(self._servers, self._topic, self._feeder.num_fed)
        first_ms: dict[Place, float] = {}
        for at_ms, record in self._read:
            first_ms.setdefault(self._place(record), at_ms)
        return [Arrival(at_ms, place[0], at_ms - appended_ms[place]) for place, at_ms in first_ms.items()]

    def _feed(self) -> None:
        started = time.monotonic()
        while not self._stop.is_set():
            due = int((time.monotonic() - started) * self._rate) - self._feeder.num_fed
            self._feeder.feed(due)
            time.sleep(TICK_S)
        self._feeder.flush()

    def _receive(self) -> None:
        while not self._drained.is_set():
            records = self._reader.consume(1_000, 0.05)
            at_ms = time.time() * 1000
            self._read += [(at_ms, each) for each in records if each.error() is None]
        self._reader.close()


def _reader(servers: str, topic: str) -> Consumer:
    reader = Consumer({"bootstrap.servers": servers, "group.id": "reader", "enable.auto.commit": False, "log_level": 0})
    reader.assign([TopicPartition(topic, number, 0) for number in range(NUM_PARTITIONS)])
    return reader


def append_times(servers: str, topic: str, num_items: int) -> Mapping[tuple[int, int], int]:
    reader = _reader(servers, topic)
    times: dict[tuple[int, int], int] = {}
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while len(times) < num_items and time.monotonic() < deadline:
        for record in reader.consume(5_000, 0.5):
            if record.error() is None:
                times[record.partition() or 0, record.offset() or 0] = record.timestamp()[1]
    reader.close()
    return times


def quantiles_ms(arrivals: list[Arrival]) -> dict[str, float]:
    latencies = np.array([arrival.append_ms for arrival in arrivals])
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99), "max_ms": float(latencies.max())}
