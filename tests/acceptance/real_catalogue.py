"""A real catalogue through a real Kafka and the real worker: 9,742 films, their texts first, their posters later.

    python -m tests.acceptance.real_catalogue

Needs KAFKA_HOME, and `features.npz` with `item_id`, `text`, `image` and `has_image`. Two thirds of the inputs are
fed as fast as they go, the rest at a steady pace. Latency is measured outside the worker: from the Kafka timestamp of
an input until a reader of the output topic has its vector. Exit code 0: all rules of `tests.verifier` hold. 1: one is
broken. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import Message
from numpy.typing import NDArray

from schemas import Feature, ItemVector, NewItem, decode, encode
from tests.acceptance.feeder import Feeder
from tests.acceptance.reader import TopicReader
from tests.brokers import Outgoing, RealKafka, create_topics, find_distribution
from tests.verifier import Verdict, verify_topics
from tests.worker_process import WorkerProcess, in_group
from worker.align import command

DATA = Path(__file__).parents[3] / "shared" / "data" / "ml-small-mm"
VERIFIED = {"items": "items", "item_vectors": "item-vectors", "dead_letters": "dead-letters"}
TOPICS = {**VERIFIED, "item_state": "item-state"}
DIMS = {"text": 256, "image": 128}
NUM_PARTITIONS = 6
DELAY = 500
"""Items between an item's text and its poster."""
LOAD_SHARE = 2 / 3
UNLIMITED, LIVE_PACE = 1e6, 400.0
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Features:
    """The catalogue's features, a row per item."""

    item_ids_N: NDArray[np.int64]
    text_NF: NDArray[np.float16]
    image_NF: NDArray[np.float16]
    has_image_N: NDArray[np.bool_]

    @classmethod
    def load(cls, directory: Path) -> Features | str:
        """The features, or the reason why there are none."""
        path = directory / "features.npz"
        if not path.is_file():
            return f"no features.npz in {directory}"
        with np.load(path) as found:
            return cls(found["item_id"], found["text"], found["image"], found["has_image"])

    def messages(self, now_ms: Callable[[], int]) -> Iterator[NewItem]:
        """Texts as revision 1; as revision 2, `DELAY` items later, text and image of those that have one."""
        for row in range(len(self.item_ids_N) + DELAY):
            if row < len(self.item_ids_N):
                yield self._message(row, 1, now_ms())
            late = row - DELAY
            if late >= 0 and self.has_image_N[late]:
                yield self._message(late, 2, now_ms())

    def _message(self, row: int, revision: int, now_ms: int) -> NewItem:
        features = {"text": _feature("text", self.text_NF[row])}
        if revision == 2:
            features["image"] = _feature("image", self.image_NF[row])
        return NewItem(
            item_id=f"film-{self.item_ids_N[row]}", revision=revision, event_time_ms=now_ms, features=features
        )

    @property
    def num_messages(self) -> int:
        return len(self.item_ids_N) + int(self.has_image_N.sum())


def _feature(name: str, values_F: NDArray[np.float16]) -> Feature:
    return Feature(encoder=f"classical-{name}", dtype="f2", shape=values_F.shape, data=values_F.astype("<f2").tobytes())


class Reader(TopicReader):
    """Reads the item vectors, and notes when each input's was there."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers, TOPICS["item_vectors"], NUM_PARTITIONS)
        self.read_at_ms: dict[tuple[int, int], float] = {}
        """By partition and offset of the input."""
        self.newest: dict[str, int] = {}
        """Revision of the last vector of each item."""
        self.vectors: dict[str, NDArray[np.float32]] = {}
        """The last vector of each item."""

    def take(self, record: Message, value: Any, at_ms: float) -> None:
        vector = decode(ItemVector, value, check_values=False)
        self.newest[vector.item_id] = vector.revision
        self.vectors[vector.item_id] = vector.vector.to_numpy().astype(np.float32)
        self.read_at_ms.setdefault((record.partition() or 0, vector.source_offset or 0), at_ms)


@dataclass(frozen=True)
class Phase:
    """One stretch of the feed."""

    name: str
    num_inputs: int
    seconds: float
    """From the first append until the last vector was read."""
    latencies_ms: NDArray[np.float64]
    """Append to readable. Of inputs that were superseded there is none."""

    def __str__(self) -> str:
        p50, p99 = np.percentile(self.latencies_ms, [50, 99])
        rate = self.num_inputs / self.seconds
        return (
            f"{self.name:<6}{self.num_inputs:>8} inputs  {rate:>8,.0f}/s  append to readable: "
            f"p50 {p50:,.0f} ms, p99 {p99:,.0f} ms"
        )


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    num_items: int
    newest: dict[str, int]
    phases: Sequence[Phase]
    verdict: Verdict

    def __str__(self) -> str:
        counts = self.verdict.counts
        lines = [f"{self.num_items} items, {counts['inputs']} inputs"]
        lines += [str(phase) for phase in self.phases]
        lines += [
            f"published {counts['published']}, superseded {counts['superseded']}, dead-lettered "
            f"{counts['dead_lettered']}, duplicates {counts['duplicates']}",
            self.verdict.explain(),
        ]
        return "\n".join(lines)


def run_catalogue(features: Features) -> Report:
    """Feed the whole catalogue to a worker on a Kafka of its own."""
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka(optimizing=True))
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, dict.fromkeys(TOPICS.values(), NUM_PARTITIONS))
        space_path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="catalogue-"))) / "space"
        space = command.create(space_path, DIMS, dim=128)
        settings = {"kafka.bootstrap_servers": kafka.bootstrap_servers, "space.path": str(space_path)}
        worker = stack.enter_context(WorkerProcess({**settings, **in_group("topics", TOPICS)}))
        worker.wait_ready()
        reader = stack.enter_context(Reader(kafka.bootstrap_servers))
        records = _records(features)
        num_load = int(features.num_messages * LOAD_SHARE)
        phases = [
            feed_phase(kafka.bootstrap_servers, worker, reader, name, islice(records, count), pace)
            for name, count, pace in (("load", num_load, UNLIMITED), ("live", None, LIVE_PACE))
        ]
        verdict = verify_topics(
            options,
            **VERIFIED,
            metrics_urls=[worker.url("/metrics")],
            space_id=space.space_id,
            dims=DIMS,
        )
        return Report(len(features.item_ids_N), reader.newest, phases, verdict)


def _records(features: Features) -> Iterator[Outgoing]:
    for message in features.messages(lambda: time.time_ns() // 1_000_000):
        yield Outgoing(TOPICS["items"], message.key, encode(message))


def feed(servers: str, records: Iterator[Outgoing], pace: float) -> Feeder:
    """Write records and return when they are in the log."""
    with Feeder(servers, records, pace) as feeder:
        while not feeder.is_done:
            time.sleep(0.05)
    return feeder


def feed_phase(
    servers: str,
    worker: WorkerProcess,
    reader: Reader,
    name: str,
    records: Iterator[Outgoing],
    pace: float,
    patience_s: float = PATIENCE_S,
) -> Phase:
    """Feed records and wait until the worker has done with them."""
    num_before = worker.metric("align_records_consumed_total")
    feeder = feed(servers, records, pace)

    def is_finished() -> bool:
        num_consumed = worker.metric("align_records_consumed_total") - num_before
        return num_consumed >= feeder.num_fed and not worker.metric("align_records_in_flight")

    worker.wait_until(is_finished, patience_s, "done with the feed")
    time.sleep(0.5)  # for the reader
    read = {source: reader.read_at_ms[source] for source in feeder.timestamps if source in reader.read_at_ms}
    latencies = np.array([at_ms - feeder.timestamps[source] for source, at_ms in read.items()])
    seconds = (max(read.values()) - min(feeder.timestamps.values())) / 1000
    return Phase(name, feeder.num_fed, seconds, latencies)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.real_catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="where features.npz is")
    features, distribution = Features.load(parser.parse_args(arguments).data), find_distribution()
    for reason in (features, distribution):
        if isinstance(reason, str):
            print(f"cannot run: {reason}", file=sys.stderr)
            return 2
    assert isinstance(features, Features)
    report = run_catalogue(features)
    print(report)
    return 0 if report.verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
