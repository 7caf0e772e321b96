"""What every benchmark of a running worker needs: a Kafka, a space, topics, and a topic full of items.

The item is that of all benchmarks here: text 768, image 512 and audio 512 as float16, 3.8 KB on the wire.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import KafkaException, Producer

from schemas import Feature, NewItem, encode
from tests.brokers import RealKafka, create_topics, environment
from worker.align.command import create
from worker.topics import MAX_WRAPPED_BYTES

DIMS = {"text": 768, "image": 512, "audio": 512}
MODALITIES = tuple(sorted(DIMS))
VECTOR_DIM = 256
MODELS = {"transformer": "self_attention", "light": "concat_mlp"}
"""Kinds of fusion by the name of the model: one transformer layer, or two dense ones."""
BATCH = 512
NUM_PARTITIONS = 4
MALLOC = {"MALLOC_MMAP_THRESHOLD_": "67108864", "MALLOC_TRIM_THRESHOLD_": "134217728"}
"""As the container image sets them. Every variant runs with them."""
ROOT = Path(__file__).parents[2]
_ID_DIGITS = 9
_NUM_TEMPLATES = 256
_TIME_MS = 1_767_225_600_000  # any time: its bytes are replaced


class Items:
    """Encoded item messages, all with an id of their own, at the cost of joining a few byte strings."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self._templates = [_template(random) for _ in range(_NUM_TEMPLATES)]

    def message(self, number: int, event_time_ms: int = _TIME_MS) -> tuple[bytes, bytes]:
        """Key and value of item `number`."""
        key = item_id(number).encode()
        before, between, after = self._templates[number % _NUM_TEMPLATES]
        return key, b"".join((before, key, between, _packed(event_time_ms), after))


def item_id(number: int) -> str:
    return f"item-{number:0{_ID_DIGITS}d}"


def _template(random: np.random.Generator) -> tuple[bytes, bytes, bytes]:
    """The bytes of a message before its id, between that and its event time, and after it."""
    features = {
        name: Feature.from_numpy(random.standard_normal(dim).astype(np.float16), encoder=f"{name}-encoder")
        for name, dim in DIMS.items()
    }
    message = encode(NewItem(item_id=item_id(0), revision=1, event_time_ms=_TIME_MS, features=features))
    before, _, rest = message.partition(item_id(0).encode())
    between, _, after = rest.partition(_packed(_TIME_MS))
    return before, between, after


def _packed(time_ms: int) -> bytes:
    """As msgpack writes any time from 1970 + 50 days on."""
    return time_ms.to_bytes(8, "big")


@dataclass(frozen=True)
class Bed:
    """A running Kafka, and a space."""

    bootstrap_servers: str
    space: Path
    broker_pids: Sequence[int] = ()
    """Processes of the Kafka, where it is our own."""

    def with_model(self, model: str) -> Bed:
        """The same with a space of another model, one of `MODELS`."""
        space = self.space.parent / model
        if not space.exists():
            create(space, DIMS, VECTOR_DIM, fusion=MODELS[model])
        return replace(self, space=space)

    def create_topics(self, names: Sequence[str], config: Mapping[str, str] | None = None) -> None:
        """Topics that nothing is deleted from or compacted in while a figure is taken."""
        options = {"bootstrap_servers": self.bootstrap_servers.split(",")}
        create_topics(options, dict.fromkeys(names, NUM_PARTITIONS), {"retention.ms": "-1", **(config or {})})

    def worker_environment(self, items: str, **settings: Any) -> dict[str, str]:
        """The environment of one run: a group and output topics that no other run has, which are made here.

        `settings` are names with `__` for the dot, without prefix.
        """
        run = uuid.uuid4().hex[:8]
        topics = {"items": items, "item_vectors": f"item-vectors-{run}", "dead_letters": f"dead-letters-{run}"}
        topics["item_state"] = f"item-state-{run}"
        self.create_topics([topics["item_vectors"], topics["item_state"]])
        self.create_topics([topics["dead_letters"]], {"max.message.bytes": str(MAX_WRAPPED_BYTES)})
        return {
            **{name: value for name, value in os.environ.items() if not name.startswith("ALIGN_")},
            **MALLOC,
            **environment("topics", topics),
            **environment("kafka", {"bootstrap_servers": self.bootstrap_servers, "group_id": f"bench-{run}"}),
            "ALIGN_SPACE__PATH": str(self.space),
            "ALIGN_HTTP__HOST": "127.0.0.1",
            "ALIGN_HTTP__PORT": "0",
            "ALIGN_LOG__LEVEL": "error",  # the topics here are not as they should be, which it would warn of
            "ALIGN_LOG__FORMAT": "text",
            **{f"ALIGN_{name.upper()}": str(value) for name, value in settings.items()},
        }


@contextmanager
def open_bed(bootstrap_servers: str | None) -> Iterator[Bed]:
    """A Kafka of our own on the same machine, unless one is named."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="align-bench-")))
        space = directory / "transformer"
        create(space, DIMS, VECTOR_DIM)
        if bootstrap_servers is not None:
            yield Bed(bootstrap_servers, space)
            return
        kafka = stack.enter_context(RealKafka(optimizing=True))
        pids = [node.process.pid for node in kafka._nodes if node.process is not None]
        yield Bed(kafka.bootstrap_servers, space, pids)


class Feeder:
    """Writes items 0, 1, 2, … to a topic, the partitions in turn."""

    def __init__(self, bootstrap_servers: str, topic: str, linger_ms: float = 20) -> None:
        self.num_fed = 0
        self._topic = topic
        self._items = Items()
        self._errors: list[Any] = []
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "log_level": 0,
                "linger.ms": linger_ms,
                "batch.size": 2**20,
                "queue.buffering.max.kbytes": 64 * 2**10,
            }
        )

    def feed(self, num_items: int) -> None:
        """Hand over the next items; returns before they are written. Event time is now."""
        for number in range(self.num_fed, self.num_fed + num_items):
            key, value = self._items.message(number, time.time_ns() // 1_000_000)
            while True:
                try:
                    self._producer.produce(
                        self._topic, value, key, number % NUM_PARTITIONS, on_delivery=self._on_delivery
                    )
                    break
                except BufferError:
                    self._producer.poll(0.05)
        self._producer.poll(0)
        self.num_fed += num_items

    def flush(self) -> None:
        """Wait until all are written. Raises for any that was not."""
        left = self._producer.flush(60)
        if left or self._errors:
            raise RuntimeError(f"{left} items not written, {len(self._errors)} refused: {self._errors[:1]}")

    def _on_delivery(self, error: Any, message: Any) -> None:
        if error is not None:
            self._errors.append(KafkaException(error))


@contextmanager
def process(
    module: str, *arguments: str, environment: Mapping[str, str], stdout: int | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A Python module in a process of its own, ended with SIGTERM, then SIGKILL."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, env=dict(environment), cwd=ROOT, stdout=stdout)
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def worker(environment: Mapping[str, str]) -> Any:
    """The real worker, as `align-worker run` starts it."""
    return process("worker", "run", environment=environment)


def answer(module: str, *arguments: str, environment: Mapping[str, str]) -> Any:
    """The JSON that a module prints."""
    command = [sys.executable, "-m", module, *arguments]
    return json.loads(subprocess.run(command, env=dict(environment), cwd=ROOT, check=True, capture_output=True).stdout)


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:g} s")
        time.sleep(0.02)


def rounds(names: Sequence[str], num_rounds: int) -> Iterator[tuple[int, str]]:
    """A, B, C, A, B, C, …: a slow spell of the machine hits every variant."""
    return itertools.product(range(num_rounds), names)
