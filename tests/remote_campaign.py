"""A server that encodes goes through everything that servers go through, and no item is lost, wrong or refused for it.

    python -m tests.remote_campaign --items 20000 [--slow 10] [--protocol openai] [--real]

A worker encodes the texts of a catalogue by a server (`tests/remote_server.py`) that, meanwhile and in turn, is
killed and started again, answers 500 and 429, takes `--slow` seconds for each request, answers nonsense of every
kind, breaks off connections, is deployed with another model of the same name, and stands behind a balancer of two
models. On the embedded broker, or with `--real` on the Apache Kafka of KAFKA_HOME.

Printed: items lost, vectors that are not those of their text by the right model, dead letters, and what the worker's
books and the log's rules say. Exit code 0: 0 of all.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schemas import Content, Feature, ItemVector, NewItem, decode, encode
from tests.brokers import Broker, Outgoing, RealKafka
from tests.brokers.broker import embedded, real
from tests.integration.stream import Stream
from tests.integration.worker_thread import WorkerThread
from tests.remote_server import DIM, MODEL, RemoteServer, vector
from tests.verifier import verify_topics
from worker.align import AlignRuntime, Space, command
from worker.kafka.embedded import EmbeddedBroker
from worker.partitions.state import StopReason

SPACE_DIM = 16
TOPICS = {name: f"remote-{name.replace('_', '-')}" for name in ("items", "item_vectors", "item_state", "dead_letters")}
WELL = {
    "status": 200, "garbage_share": 0.0, "error_share": 0.0, "other_share": 0.0, "weights": MODEL, "seconds": 0.01,
    "retry_after": "",
}  # fmt: skip
PATIENCE_S = 180.0


@dataclass
class Outcome:
    items: int
    seconds: float
    lost: int
    wrong: int
    dead_letters: int
    stopped: int
    """Times that a partition was seen waiting for the server."""
    verdict: str
    is_ok: bool

    def text(self) -> str:
        return (
            f"{self.items} items in {self.seconds:.0f} s: {self.lost} lost, {self.wrong} wrong, {self.dead_letters} "
            f"dead letters; partitions waited for the server: {self.stopped > 0}; rules and books: {self.verdict}"
        )


def make_space(directory: Path, encoder: str = f"{MODEL}@5f1c") -> Path:
    path = directory / "space"
    command.create(path, {"text": DIM}, dim=SPACE_DIM, encoders={"text": encoder})
    return path


def message(stream: Stream, name: str, text: str) -> Outgoing:
    item = NewItem(item_id=name, revision=1, event_time_ms=1, content={"text": Content(text=text)})
    return stream.record(name, encode(item))


def text_of(number: int) -> str:
    return f"item {number}: " + "words of it " * (1 + number % 11)


def campaign(
    broker: Broker,
    server: RemoteServer,
    topics: Mapping[str, str],
    space: Path,
    *,
    items: int,
    slow_s: float,
    protocol: str = "openai",
    pace: float = 1.0,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """`pace`: of how long troubles last."""
    for name, value in WELL.items():
        setattr(server.manners, name, value)
    server.manners.seconds_each = 0.002
    stream = Stream(broker, topics, Space.load(space), str(space), num_partitions=4)
    stream.create_topics()
    texts = {f"item-{number:06}": text_of(number) for number in range(items)}
    changes = {
        "encode.encoders": f"text={server.url(protocol)}",
        "encode.remote.hosts": f"127.0.0.1:{server.port}",
        "encode.remote.deadline_s": 3.0,
        "encode.remote.check_s": 2.0,
        "encode.cache_bytes": 0,
        "publish.vector_dtype": "f4",
        "batch.max_records": 256,
        "batch.queue_records": 2_048,
    }
    started = time.monotonic()
    stopped = 0
    with WorkerThread(stream.settings(changes)) as worker:
        worker.wait_ready()
        planned = list(troubles(server, slow_s))
        names = sorted(texts)
        for number, (name, trouble, seconds) in enumerate(planned):
            # A part of the catalogue for each, most of which comes while it is in trouble.
            share = names[number * items // len(planned) : (number + 1) * items // len(planned)]
            say(f"{time.monotonic() - started:6.1f} s  {worker.items.accounting.published} published; {name}")
            stream.feed(message(stream, each, texts[each]) for each in share[: len(share) // 4])
            trouble()
            stream.feed(message(stream, each, texts[each]) for each in share[len(share) // 4 :])
            deadline = time.monotonic() + pace * seconds
            while time.monotonic() < deadline:
                worker.require_alive()
                stopped += worker.metric("align_stopped_partitions", reason=StopReason.ENCODER_DOWN) > 0
                time.sleep(0.05)
            for field, value in WELL.items():
                setattr(server.manners, field, value)
            # Half of that is worked on before the next trouble comes, which so finds the worker in the middle of it.
            goal, deadline = (number + 0.5) * items / len(planned), time.monotonic() + PATIENCE_S
            while worker.items.accounting.published < goal and server.is_up:
                worker.require_alive()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name}: nothing has gone on for {PATIENCE_S:g} s")
                time.sleep(0.05)
        say(f"{time.monotonic() - started:6.1f} s  {worker.items.accounting.published} published; all is well")
        stream.wait_committed(worker, timeout=PATIENCE_S)
        seconds = time.monotonic() - started
        verdict = verify_topics(
            broker.options,
            items=stream.items,
            item_vectors=stream.vectors,
            dead_letters=stream.letters,
            metrics_urls=[worker.metrics_url],
            space_id=stream.space.space_id,
        )
    found = {
        record.key.decode(): decode(ItemVector, record.value).vector.to_numpy().astype(np.float32)
        for record in stream.output_records()
    }
    letters = len(stream.dead_letters())
    stream.close()
    lost = len(texts.keys() - found.keys())
    wrong = num_wrong(found, texts, stream.space)
    is_ok = verdict.ok and not (lost or wrong or letters)
    said = "in order" if verdict.ok else verdict.explain()
    return Outcome(items, seconds, lost, wrong, letters, stopped, said, is_ok)


def troubles(server: RemoteServer, slow_s: float) -> Iterator[tuple[str, Callable[[], None], float]]:
    """What happens, and for how long."""

    def now(**manners: Any) -> Callable[[], None]:
        def begin() -> None:
            for name, value in manners.items():
                setattr(server.manners, name, value)

        return begin

    yield "killed", server.stop, 2.0
    yield "started again", server.start, 0.5
    yield "answers 500", now(status=500), 1.5
    yield "answers 429", now(status=429, retry_after="1"), 1.5
    yield f"takes {slow_s:g} s", now(seconds=slow_s), 1.2 * slow_s
    yield "answers nonsense, all of the time", now(garbage_share=1.0), 1.5
    yield "answers nonsense and 500, half of the time", now(garbage_share=0.25, error_share=0.25), 1.5
    yield "has another model of the same name", now(weights="acme/other"), 2.0
    yield "has another model in one answer of three", now(other_share=0.33), 1.5
    yield "killed", server.stop, 1.0
    yield "started again", server.start, 0.5


def num_wrong(found: Mapping[str, NDArray[np.float32]], texts: Mapping[str, str], space: Space) -> int:
    """Vectors that are not what the model makes of the text that its server should have encoded."""
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=512)
    names, wrong = sorted(found), 0
    for start in range(0, len(names), 512):
        mine = names[start : start + 512]
        features = [
            {"text": Feature.from_numpy(vector(texts[name]), encoder=space.spec.modalities["text"].encoder or "")}
            for name in mine
        ]
        expected = runtime.embed(features).vectors
        wrong += sum(float(np.abs(found[name] - row).max()) > 1e-3 for name, row in zip(mine, expected, strict=True))
    return wrong


@contextlib.contextmanager
def a_broker(is_real: bool) -> Iterator[Broker]:
    if not is_real:
        with EmbeddedBroker() as broker:
            yield embedded(broker)
        return
    with RealKafka() as kafka:
        yield real(kafka.bootstrap_servers)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--slow", type=float, default=10.0)
    parser.add_argument("--protocol", choices=["openai", "tei", "kserve"], default="openai")
    parser.add_argument("--real", action="store_true")
    chosen = parser.parse_args(arguments)
    with a_broker(chosen.real) as broker, RemoteServer() as server, tempfile.TemporaryDirectory() as directory:
        space = make_space(Path(directory))
        outcome = campaign(
            broker, server, TOPICS, space, items=chosen.items, slow_s=chosen.slow, protocol=chosen.protocol,
            say=lambda line: print(line, flush=True),
        )  # fmt: skip
    print(outcome.text())
    return 0 if outcome.is_ok else 1


if __name__ == "__main__":
    threading.current_thread().name = "campaign"
    sys.exit(main())
