"""What other formats cost: CPU per record, beside msgpack in the same run, and what the relay does per core.

    python -m tests.bench.formats --items 20000

Every figure is CPU time of this process, all threads, the best of the rounds; the broker is another process. Items have
text and an embedding, as features of a space with two modalities: in JSON as numbers and, in a second form, as base64.
"""

from __future__ import annotations

import argparse
import base64
import json
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from schemas import Feature, NewItem, encode
from tests.brokers import Outgoing, RealKafka, produce
from tests.brokers.broker import real
from tests.fakes import FakeRecord
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import in_group
from worker.align import Contract, Space, command
from worker.mapping.source import event_source, item_source
from worker.roles.relay import events_translator, items_translator
from worker.settings import TopicSettings
from worker.stages.decode import ItemDecoder

DIMS = {"text": 128, "image": 128}
TIME_MS = 1_767_225_600_000
MAPPING = """\
items:
  item_id: sku
  revision: rev
  event_time: {path: ts, unit: ms}
  features: {text: {path: text, encoder: e%s}, image: {path: image, encoder: e%s}}
  attributes: {price: price, category: cat}
events:
  user_id: session
  item_id: sku
  event_type: {path: type, rename: {cart: save, buy: purchase}}
  event_time: {path: at, unit: iso}
"""


def catalogue(count: int) -> list[tuple[bytes, bytes, bytes, bytes]]:
    """Key, message, JSON with numbers and JSON with base64 of each item."""
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        vectors = {name: random.standard_normal(dim).astype("<f4") for name, dim in DIMS.items()}
        name = f"sku-{number:06d}"
        item = NewItem(
            item_id=name, revision=1, event_time_ms=TIME_MS, attributes={"price": 9.5, "category": "kitchen"},
            features={key: Feature.from_numpy(vector, "f4", encoder="e") for key, vector in vectors.items()},
        )  # fmt: skip
        row: dict[str, Any] = {"sku": name, "rev": 1, "ts": TIME_MS, "price": 9.5, "cat": "kitchen"}
        numbers = {key: [round(float(each), 6) for each in vector] for key, vector in vectors.items()}
        packed = {key: base64.b64encode(vector.tobytes()).decode() for key, vector in vectors.items()}
        made.append(
            (name.encode(), encode(item), json.dumps(row | numbers).encode(), json.dumps(row | packed).encode())
        )
    return made


def cpu_us(run: Callable[[], Any], count: int, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best / count * 1e6


def decoding(items: Sequence[tuple[bytes, bytes, bytes, bytes]], directory: Path, space: Path) -> None:
    contract = Contract(Space.load(space).spec)
    files = {name: directory / f"{name}.yaml" for name in ("numbers", "base64")}
    files["numbers"].write_text(MAPPING % (", dtype: f4", ", dtype: f4"))
    files["base64"].write_text(MAPPING % (", stored: f4", ", stored: f4"))
    decoders = {
        "msgpack": (1, ItemDecoder(contract)),
        "JSON, numbers": (2, ItemDecoder(contract, foreign=item_source("input.items", "json", files["numbers"], None))),
        "JSON, base64": (3, ItemDecoder(contract, foreign=item_source("input.items", "json", files["base64"], None))),
    }
    print(f"decoding, items with {DIMS}: CPU µs per item")
    for name, (form, decoder) in decoders.items():
        records = [FakeRecord("items", 0, n, TIME_MS, each[0], each[form]) for n, each in enumerate(items[:2_000])]
        assert len(decoder.decode(records[:10]).entries) == 10
        print(f"  {name:<16}{cpu_us(lambda d=decoder, r=records: d.decode(r), len(records)):8.1f}")


def translating(directory: Path) -> None:
    """What the relay does of its own, without the loop around it."""
    mapping = directory / "shop.yaml"
    mapping.write_text(
        MAPPING.replace("  features: {text: {path: text, encoder: e%s}, image: {path: image, encoder: e%s}}",
                        '  content: {text: "{title}. {desc}", image: {uri: img}}')
    )  # fmt: skip
    row = {"sku": "sku-1", "rev": 1, "ts": TIME_MS, "price": 9.5, "cat": "kitchen", "title": "Kettle",
           "desc": "It whistles", "img": "http://shop.example/1.jpg"}  # fmt: skip
    click = {"session": "s-1", "sku": "sku-1", "type": "buy", "at": "2026-01-01T00:00:00Z"}
    print("relay, a record to the bytes of a message: CPU µs")
    for name, translate, value in (
        ("product", items_translator(item_source("relay.items", "json", mapping, None)), row),
        ("click", events_translator(event_source("relay.events", "json", mapping, None)), click),
    ):
        each = FakeRecord("x", 0, 1, TIME_MS, None, json.dumps(value).encode())
        run = lambda t=translate, r=each: [t(r) for _ in range(2_000)]  # noqa: E731
        print(f"  {name:<16}{cpu_us(run, 2_000):8.1f}")


def streams(items: Sequence[tuple[bytes, bytes, bytes, bytes]], directory: Path, space: Path, rounds: int) -> None:
    """The whole worker, and the whole relay, on a real broker."""
    with RealKafka() as kafka:
        broker = real(kafka.bootstrap_servers)
        best: dict[str, tuple[float, float]] = {}
        for _ in range(rounds):
            for name, form in (("msgpack", 1), ("JSON, numbers", 2), ("JSON, base64", 3), ("relay of clicks", 0)):
                cpu_s, wall_s = once(broker, items, directory, space, name, form)
                before = best.get(name, (float("inf"), 0.0))
                best[name] = min(before, (cpu_s / len(items) * 1e6, len(items) / wall_s))
        print(
            f"the whole process on a real broker, {len(items):,} records: CPU µs per record, records/s per core, wall"
        )
        for name, (cpu, rate) in best.items():
            print(f"  {name:<16}{cpu:8.1f}{1e6 / cpu:12,.0f}{rate:10,.0f}/s")


def once(
    broker: Any, items: Sequence[tuple[bytes, bytes, bytes, bytes]], directory: Path, space: Path, name: str, form: int
) -> tuple[float, float]:
    run = uuid.uuid4().hex[:8]
    topics = {name: f"{name.replace('_', '-')}-{run}" for name in TopicSettings.model_fields}
    broker.create_topics(dict.fromkeys([*topics.values(), f"clicks-{run}"], 2))
    settings: dict[str, Any] = {
        **in_group("kafka", broker.client_settings), **in_group("topics", topics), "kafka.group_id": run,
        "space.path": str(space), "device": "cpu", "threads": 1, "http.port": 0, "http.host": "127.0.0.1",
    }  # fmt: skip
    if form:
        source = [Outgoing(topics["items"], each[0], each[form], n % 2) for n, each in enumerate(items)]
    else:
        click = {"session": "s-1", "sku": "sku-1", "type": "buy", "at": "2026-01-01T00:00:00Z"}
        source = [
            Outgoing(f"clicks-{run}", None, json.dumps({**click, "session": f"s-{n}"}).encode(), n % 2)
            for n in range(len(items))
        ]
        settings |= {"roles": "relay", "relay.events.topic": f"clicks-{run}", "relay.events.format": "json",
                     "relay.events.mapping": directory / "shop.yaml"}  # fmt: skip
    if form > 1:
        file = directory / f"{'numbers' if form == 2 else 'base64'}.yaml"
        settings |= {"input.items.format": "json", "input.items.mapping": file}
    produce(broker.options, source)
    worker = WorkerThread(settings, until_caught_up=True)
    with worker:
        worker.until(worker.service.running.is_set)
        started, at = time.process_time(), time.monotonic()
        role = "items" if form else "relay-events"
        worker.until(lambda: worker.status.role(role).accounting.published >= len(items) or worker.error is not None)
        return time.process_time() - started, time.monotonic() - at


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    made = catalogue(arguments.items)
    with tempfile.TemporaryDirectory() as made_in:
        here = Path(made_in)
        command.create(here / "space", DIMS, dim=64)
        decoding(made, here, here / "space")
        translating(here)
        streams(made, here, here / "space", arguments.rounds)
