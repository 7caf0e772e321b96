"""`align-worker demo`: an embedded broker, a generated catalogue, the real worker, and what came of it.

Nothing is simulated but the catalogue: the worker is the one that `align-worker run` runs, records travel over the
Kafka protocol, and latencies are measured by a reader of the output topic.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition
from numpy.typing import NDArray

from schemas import ItemVector, decode, encode
from worker import logs
from worker.errors import WorkerError
from worker.kafka.embedded import EmbeddedBroker
from worker.service import Service
from worker.settings import Settings
from worker.synthetic import MODALITIES, THEMES, Catalogue, SyntheticItem
from worker.topics import needed_topics

NUM_PARTITIONS = 4
MAX_OUTSTANDING = 3_000  # the embedded broker keeps 5 MB per partition, so the feed must not run away
LIVE_RATE = 300  # items per second in the second part
LIVE_SECONDS = 6.0
NUM_SHOWN = 3
NUM_NEIGHBORS = 5
START_TIMEOUT_S = 30.0
STALL_TIMEOUT_S = 20.0


def run_demo(load_settings: Callable[[Mapping[str, str]], Settings], *, num_items: int, seed: int, keep: bool) -> int:
    """Run it; with `keep`, until interrupted. Returns the exit code."""
    with EmbeddedBroker() as broker, tempfile.TemporaryDirectory(prefix="align-demo-") as directory:
        space_path = Path(directory) / "space"
        settings = load_settings(_defaults(broker, space_path))
        logs.configure("error", "text")
        # Connections to the embedded broker come and go at the start and the end, which the client reports as errors.
        logging.getLogger("kafka").setLevel(logging.CRITICAL)
        for topic in needed_topics(settings):
            broker.create_topic(topic, NUM_PARTITIONS)
        if settings.space.path == space_path:
            _create_space(space_path)
        with _worker(settings) as service:
            _say(f"worker ready; status page: {service.http.address}/")
            demo = Demo(settings, Catalogue(seed))
            demo.load(num_items)
            demo.live(LIVE_RATE, LIVE_SECONDS)
            demo.show_neighbors()
            demo.close()
            _show_accounting(service)
            if keep:
                _keep(settings, service)
    return 0


def _defaults(broker: EmbeddedBroker, space_path: Path) -> dict[str, str]:
    return {
        "kafka.bootstrap_servers": broker.bootstrap_servers,
        "kafka.api_version": ",".join(map(str, broker.settings["api_version"])),
        "kafka.check_crcs": str(broker.settings["check_crcs"]),
        "kafka.fetch_max_wait_ms": str(broker.settings["fetch_max_wait_ms"]),
        "space.path": str(space_path),
        "http.host": "127.0.0.1",
        "http.port": "0",
        "log.format": "text",
    }


def _create_space(path: Path) -> None:
    from worker.align import command

    command.create(path, MODALITIES, dim=128)


@contextmanager
def _worker(settings: Settings) -> Iterator[Service]:
    """The real worker on a thread of this process, drained at the end."""
    service, stop = Service(settings), threading.Event()
    failed: list[WorkerError] = []

    def run() -> None:
        try:
            service.run(stop)
        except WorkerError as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="worker")
    thread.start()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while not service.health.readyz().ok and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        if failed:
            raise failed[0]
        yield service
    finally:
        stop.set()
        thread.join()
    if failed:
        raise failed[0]


@dataclass
class _Received:
    """What the reader of the output topic has seen."""

    vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    latencies_ms: list[float] = field(default_factory=list)


class Demo:
    """Feeds items and reads vectors, as a user's producer and consumer would."""

    def __init__(self, settings: Settings, catalogue: Catalogue) -> None:
        servers = {"bootstrap.servers": settings.kafka.bootstrap_servers, "log_level": 0}
        self._topic = settings.topics.items
        self._producer = Producer({**servers, "linger.ms": 5, "partitioner": "murmur2_random"})
        self._reader = Consumer({**servers, "group.id": "demo-reader", "fetch.wait.max.ms": 10})
        self._reader.assign([TopicPartition(settings.topics.item_vectors, n, 0) for n in range(NUM_PARTITIONS)])
        self._items = catalogue.items(2**40)
        self._fed: dict[str, SyntheticItem] = {}
        self._fed_at: dict[str, float] = {}
        self._received = _Received()

    def load(self, num_items: int) -> None:
        """A whole catalogue as fast as the worker takes it."""
        _say(f"\nfeeding {num_items} items with {', '.join(MODALITIES)} ({NUM_PARTITIONS} partitions)")
        progress = Progress(num_items)
        started = moved = time.monotonic()
        while len(self._received.vectors) < num_items:
            room = min(
                MAX_OUTSTANDING - (len(self._fed) - len(self._received.vectors)),
                num_items - len(self._fed),
                500,
            )
            self._feed(max(0, room))
            before = len(self._received.vectors)
            self._read(0.02)
            if len(self._received.vectors) > before:
                moved = time.monotonic()
            elif time.monotonic() - moved > STALL_TIMEOUT_S:
                raise WorkerError(f"no vector has come for {STALL_TIMEOUT_S:g} s")
            progress.show(len(self._received.vectors), self._received.latencies_ms)
        elapsed = time.monotonic() - started
        progress.done(f"{num_items / elapsed:,.0f} items/s over {elapsed:.1f} s")

    def live(self, rate: float, seconds: float) -> None:
        """A steady trickle: what a new item's vector takes to be readable."""
        _say(f"\nnow {rate:.0f} new items a second for {seconds:.0f} s")
        self._received.latencies_ms.clear()
        progress = Progress(int(rate * seconds))
        started, num_fed, base = time.monotonic(), 0, len(self._received.vectors)
        while (elapsed := time.monotonic() - started) < seconds:
            due = int(elapsed * rate) - num_fed
            self._feed(due)
            num_fed += due
            self._read(0.002)
            progress.show(len(self._received.vectors) - base, self._received.latencies_ms)
        deadline = time.monotonic() + STALL_TIMEOUT_S
        while len(self._received.vectors) - base < num_fed and time.monotonic() < deadline:
            self._read(0.02)
        p50, p99 = np.percentile(self._received.latencies_ms, [50, 99])
        progress.done(f"produce → readable vector: p50 {p50:.0f} ms, p99 {p99:.0f} ms ({num_fed} items)")

    def show_neighbors(self) -> None:
        """That the structure of the catalogue is found again among the vectors."""
        ids = list(self._received.vectors)
        vectors_ND = np.stack([self._received.vectors[item_id] for item_id in ids])
        themes_N = np.array([self._fed[item_id].theme for item_id in ids])
        _say("\nnearest neighbours by cosine, among all vectors read from the output topic")
        for row in _first_of_themes(themes_N, NUM_SHOWN):
            _say(f"  {self._fed[ids[row]].title}")
            for other in _nearest(vectors_ND, row, NUM_NEIGHBORS):
                _say(f"      {vectors_ND[row] @ vectors_ND[other]:.3f}  {self._fed[ids[other]].title}")
        sample = range(0, len(ids), max(1, len(ids) // 300))
        same = np.mean([np.mean(themes_N[_nearest(vectors_ND, row, 10)] == themes_N[row]) for row in sample])
        _say(f"of the 10 nearest, {same:.0%} share the item's theme; by chance it would be {1 / len(THEMES):.0%}")

    def close(self) -> None:
        self._producer.flush(5)
        self._reader.close()

    def _feed(self, num_items: int) -> None:
        for _, item in zip(range(num_items), self._items, strict=False):
            self._fed[item.item_id] = item
            self._fed_at[item.item_id] = time.monotonic()
            message = item.message(revision=1, event_time_ms=time.time_ns() // 1_000_000)
            self._producer.produce(self._topic, key=message.key, value=encode(message))
        self._producer.poll(0)

    def _read(self, timeout_s: float) -> None:
        for record in self._reader.consume(500, timeout_s):
            value = record.value()
            if record.error() is None and value is not None:
                vector = decode(ItemVector, value)
                self._received.vectors[vector.item_id] = vector.vector.to_numpy().astype(np.float32)
                latency = time.monotonic() - self._fed_at.get(vector.item_id, time.monotonic())
                self._received.latencies_ms.append(latency * 1000)


class Progress:
    """One line that is written over on a terminal, one line a second elsewhere."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._started = time.monotonic()
        self._next = 0.0
        self._width = 0

    def show(self, count: int, latencies_ms: list[float]) -> None:
        now = time.monotonic()
        if now < self._next or not latencies_ms:
            return
        self._next = now + (0.2 if sys.stdout.isatty() else 1.0)
        p50, p99 = np.percentile(latencies_ms[-2_000:], [50, 99])
        rate = count / max(1e-9, now - self._started)
        self._write(f"  {count:>7} / {self._total}  {rate:>8,.0f} items/s  p50 {p50:>5.0f} ms  p99 {p99:>5.0f} ms")

    def done(self, text: str) -> None:
        self._write(f"  {text}")
        if sys.stdout.isatty():
            print()

    def _write(self, line: str) -> None:
        if sys.stdout.isatty():
            print("\r" + line.ljust(self._width), end="", flush=True)
            self._width = len(line)
        else:
            _say(line)


def _nearest(vectors_ND: NDArray[np.float32], row: int, count: int) -> NDArray[np.int64]:
    scores_N = vectors_ND @ vectors_ND[row]
    scores_N[row] = -np.inf
    best = np.argpartition(-scores_N, count)[:count]
    nearest: NDArray[np.int64] = best[np.argsort(-scores_N[best])]
    return nearest


def _first_of_themes(themes_N: NDArray[np.int64], count: int) -> Iterable[int]:
    return [int(np.flatnonzero(themes_N == theme)[0]) for theme in sorted(set(themes_N.tolist()))[:count]]


def _show_accounting(service: Service) -> None:
    totals = service.metrics["items"].accounting.totals
    _say(
        f"\n{totals.consumed} consumed = {sum(totals.published.values())} published + "
        f"{sum(totals.superseded.values())} superseded + {sum(totals.dead_lettered.values())} dead-lettered + "
        f"{totals.abandoned} abandoned + {totals.in_flight} in flight"
    )


def _keep(settings: Settings, service: Service) -> None:
    _say(
        f"\nleft running; attach your own producer:\n"
        f"  bootstrap servers  {settings.kafka.bootstrap_servers}\n"
        f"  topic              {settings.topics.items}, the format is in schemas/README.md\n"
        f"  status page        {service.http.address}/\n"
        f"Ctrl-C ends it"
    )
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        _say("")


def _say(line: str) -> None:
    print(line, flush=True)
