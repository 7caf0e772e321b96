"""The parts of the worker, and what a user would write instead of it, each as a process of its own.

    python -m tests.bench.variants NAME

Reads the worker's settings from the environment, as `tests.bench.pipeline` sets it. The loops run until SIGTERM, and
then print the names of their threads as JSON; the parts that need no Kafka run for a while and print rate and cost.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from tests.bench.bytewax_loop import bytewax
from tests.bench.confluent_loops import confluent, confluent_low_latency, confluent_pipelined
from tests.bench.loops import bare, plain, plain_remembering
from tests.bench.parts import calm_interpreter, decoding, model, runtime_of, space_of
from tests.bench.workload import MODALITIES, VECTOR_DIM
from worker.align import Contract, Space
from worker.kafka import make_client
from worker.loop.pipeline import Pipeline
from worker.monitoring.health import Health
from worker.monitoring.metrics import Metrics
from worker.process import service
from worker.records import Change, Item, Record
from worker.roles.items import ItemFormat, ItemsRole
from worker.settings import Settings, load
from worker.stages.decode import DecodedRecords, ItemDecoder
from worker.stages.fuse import Result, Vector
from worker.state import Stores
from worker.topics import topics_of


class IdleDecoder(ItemDecoder):
    """Takes the key for the item and leaves the value alone."""

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        return DecodedRecords(
            [Item(record, (record.key or b"").decode(), 1, record.timestamp, {}) for record in records]
        )


class IdleEmbedder:
    """One constant vector, of the usual size, for every item."""

    def __init__(self) -> None:
        self._vector = Vector(bytes(2 * VECTOR_DIM), MODALITIES)

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        return [self._vector] * len(entries)

    def padded_size(self, num_items: int) -> int:
        return num_items

    def probe(self) -> None:
        """Nothing can fail."""


def transport(settings: Settings, stop: threading.Event) -> None:
    """The worker's own threads and client, with a decoder and a model that do nothing."""
    space = space_of(settings)
    _run_pipeline(settings, stop, space, IdleEmbedder(), IdleDecoder(Contract(space.spec)))


def in_process(settings: Settings, stop: threading.Event) -> None:
    """The whole pipeline, without the service around it."""
    space = space_of(settings)
    embedder = service.ModelEmbedder(runtime_of(settings), settings.publish.vector_dtype)
    _run_pipeline(settings, stop, space, embedder)


def _run_pipeline(
    settings: Settings, stop: threading.Event, space: Space, embedder: Any, decoder: ItemDecoder | None = None
) -> None:
    client = make_client(settings.kafka)
    client.connect()
    topics = topics_of("items", settings)
    output = ItemFormat(topics, space.space_id, settings.publish.vector_dtype, space.spec.dim)
    keep = settings.state.features
    role = ItemsRole(output, Contract(space.spec), embedder, keep_features=keep)
    role._decoder = decoder or role._decoder
    metrics = Metrics(CollectorRegistry(), topics.inputs)
    calm_interpreter()
    Pipeline(settings, client, role, Stores(None, topics.state, topics.group_id), metrics, Health()).run(stop)


def plain_calm(settings: Settings, stop: threading.Event) -> None:
    """The plain loop in an interpreter that is set up as the worker's is."""
    calm_interpreter()
    plain(settings, stop)


def _stop(stop: threading.Event) -> None:
    """Says which thread is which before they end."""
    if not stop.is_set():
        print(json.dumps({thread.native_id: thread.name for thread in threading.enumerate()}), flush=True)
    stop.set()


LOOPS: dict[str, Callable[[Settings, threading.Event], None]] = {
    "transport": transport,
    "in_process": in_process,
    "bare": bare,
    "plain": plain,
    "plain_remembering": plain_remembering,
    "plain_calm": plain_calm,
    "confluent": confluent,
    "confluent_pipelined": confluent_pipelined,
    "confluent_low_latency": confluent_low_latency,
    "bytewax": bytewax,
}
PARTS: dict[str, Callable[[Settings], dict[str, float]]] = {"model": model, "decoding": decoding}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=[*LOOPS, *PARTS])
    name = parser.parse_args().name
    settings = load()
    if name in PARTS:
        print(json.dumps(PARTS[name](settings)))
        return
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: _stop(stop))
    LOOPS[name](settings, stop)


if __name__ == "__main__":
    main()
