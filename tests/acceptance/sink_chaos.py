"""The campaign of the sink: sink, worker and store are killed while items flow, and in the end the store holds the last
vector of every item, row by row, and nothing else.

    python -m tests.acceptance.sink_chaos --kills 200 --updates 200000 --deletes 10000
    python -m tests.acceptance.sink_chaos --kind files --kills 200 --updates 200000 --deletes 10000

It starts a real Kafka (KAFKA_HOME), a worker, a PostgreSQL with pgvector and a sink as processes, and for the middle
third of the kills a second sink. Between two kills a share of the updates is sent: items whose revision, text and price
change, prices alone, and deletes. Files have no process of their own to kill, and one sink at a time.

Exit code 0: the store is what the topic says. 1: it is not, or it did not get there. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pyarrow.parquet as pq

from schemas import Feature, ItemVector, NewItem, decode_vector, encode
from tests.brokers import KafkaFailedError, Outgoing, RealKafka, create_topics, find_distribution, produce, read_topic
from tests.brokers.broker import QUICK_GROUP
from tests.stores.postgres import Postgres
from tests.worker_process import WorkerProcess, in_group
from worker.align import command

TOPICS = {name: name.replace("_", "-") for name in ("items", "item_vectors", "item_state", "dead_letters")}
DIM, PARTITIONS = 8, 4
PATIENCE_S = 300.0
PROGRESS_S = 15.0
MAX_EXAMPLES = 10
HEADER = "align-source-offset"
HNSW_MAX = 20_000
"""Updates up to which the table has an index: with more, the index is what is measured."""


@dataclass(frozen=True)
class Plan:
    kills: int = 20
    updates: int = 4_000
    deletes: int = 200
    items: int = 1_000
    kind: str = "pgvector"
    seed: int = 1


class Kept(NamedTuple):
    """What there is to know of an item in the end."""

    source_offset: int
    revision: int
    vector: tuple[float, ...]
    attributes: Mapping[str, Any]


@dataclass
class Verdict:
    counts: Counter[str] = field(default_factory=Counter)
    breaches: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not (self.counts["lost"] or self.counts["stale"] or self.counts["ghosts"])

    def __str__(self) -> str:
        figures = ", ".join(f"{count:,} {name}" for name, count in self.counts.items())
        return "\n".join([figures, *self.breaches[:MAX_EXAMPLES]])


def judge(expected: Mapping[str, Kept], found: Mapping[str, Kept]) -> Verdict:
    """The store, row by row, against the topic."""
    verdict = Verdict()
    verdict.counts.update(rows=len(found), expected=len(expected), lost=0, stale=0, ghosts=0)
    for name in expected.keys() - found.keys():
        verdict.counts["lost"] += 1
        verdict.breaches.append(f"{name} is lost: the topic ends in {expected[name]}")
    for name in found.keys() - expected.keys():
        verdict.counts["ghosts"] += 1
        verdict.breaches.append(f"{name} is a ghost: {found[name]}")
    for name in expected.keys() & found.keys():
        if expected[name] != found[name]:
            verdict.counts["stale"] += 1
            verdict.breaches.append(f"{name} is {found[name]}, the topic ends in {expected[name]}")
    return verdict


def last_vectors(records: Iterator[Any]) -> dict[str, Kept]:
    """What the topic ends in: of each key the greatest source offset, and of equal ones the later."""
    newest: dict[str, tuple[int, Kept | None]] = {}
    for record in records:
        name, kept = record.key.decode(), None
        if record.value is None:
            source = int(dict(record.headers)[HEADER])
        else:
            vector = decode_vector(ItemVector, record.value)
            source = vector.source_offset or 0
            elements = tuple(vector.vector.to_numpy().astype("<f4").tolist())
            attributes = {
                name: list(value) if isinstance(value, tuple) else value for name, value in vector.attributes.items()
            }
            kept = Kept(source, vector.revision, elements, attributes)
        if source >= newest.get(name, (-1, None))[0]:
            newest[name] = source, kept
    return {name: kept for name, (_, kept) in newest.items() if kept is not None}


def _float32(numbers: Sequence[float]) -> tuple[float, ...]:
    """Numbers as text has them, as the elements that they stand for."""
    return tuple(np.array(numbers, "<f4").tolist())


class Changes:
    """Items that come, change and go; each has a revision that grows."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._random = plan, Random(plan.seed)
        self._revisions: Counter[int] = Counter()
        self.num_deletes = 0

    def some(self, num_updates: int, num_deletes: int) -> Iterator[Outgoing]:
        kinds = ["update"] * num_updates + ["delete"] * num_deletes
        self._random.shuffle(kinds)
        for kind in kinds:
            number = self._random.randrange(self._plan.items)
            key, partition = f"item-{number}".encode(), number % PARTITIONS
            if kind == "delete":
                self.num_deletes += 1
                yield Outgoing(TOPICS["items"], key, None, partition)
                continue
            self._revisions[number] += 1
            is_price = self._random.random() < 0.3
            features = {} if is_price else {"text": Feature.from_numpy(self._elements(), encoder="chaos")}
            attributes: dict[str, Any] = {
                "price": round(self._random.random() * 100, 2),
                "tags": ["a", str(number % 7)],
            }
            message = NewItem(
                item_id=key.decode(), revision=self._revisions[number], event_time_ms=time.time_ns() // 1_000_000,
                features=features, attributes=attributes, partial=is_price,
            )  # fmt: skip
            yield Outgoing(TOPICS["items"], key, encode(message), partition)

    def _elements(self) -> np.ndarray[Any, Any]:
        return np.array([self._random.uniform(-1, 1) for _ in range(DIM)], np.float32)


class Scene:
    def __init__(self, plan: Plan, kafka: RealKafka, directory: Path, postgres: Postgres | None) -> None:
        self._plan, self._postgres, self._directory = plan, postgres, directory
        self.options = {"bootstrap_servers": kafka.bootstrap_servers.split(",")}
        space = directory / "space"
        command.create(space, {"text": DIM}, dim=DIM)
        self._settings = {
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            **in_group("kafka", QUICK_GROUP),
            **in_group("topics", TOPICS),
            "space.path": str(space),
            "publish.vector_dtype": "f4",
            "device": "cpu",
            "commit.interval_ms": 100,
            "log.format": "text",
        }
        self._sink_settings = {name: value for name, value in self._settings.items() if not name.startswith("publish.")}
        self._sink_settings |= {
            "sink.max_records": 200,
            "sink.snapshot_interval_s": 1,
            "sink.path": str(directory / "snapshots"),
            "sink.index": "hnsw" if plan.updates <= HNSW_MAX else "none",
        }
        if postgres is not None:
            self._sink_settings["sink.url"] = postgres.url
        self._seen: Any = None
        self.processes: dict[str, WorkerProcess] = {}
        """By name, as `sink-1`."""

    def start(self, name: str) -> None:
        """A worker, or a sink."""
        named = {"kafka.group_instance_id": name}
        if name.startswith("worker"):
            self.processes[name] = WorkerProcess({**self._settings, **named}).start()
        else:
            settings = {**self._sink_settings, **named}
            self.processes[name] = WorkerProcess(settings, command=("sink", self._plan.kind)).start()

    def end(self, name: str) -> None:
        """As the kernel ends it. Raises where it has ended by itself: a kill is all that may."""
        process = self.processes.pop(name)
        if (code := process.exit_code) is not None:
            raise RuntimeError(f"{name} has ended by itself with {code}: {process.stderr[-2_000:]}")
        process.close()

    def kill(self, kind: str, random: Random) -> None:
        """One of a kind, and start another in its place."""
        if kind == "store":
            assert self._postgres is not None
            self._postgres.kill()
            self._postgres.start()
            return
        name = random.choice(sorted(each for each in self.processes if each.startswith(kind)))
        self.end(name)
        self.start(name)

    def feed(self, records: Iterator[Outgoing]) -> int:
        return produce(self.options, records)

    def found(self) -> dict[str, Kept]:
        """What the store holds now."""
        if self._postgres is None:
            return self._in_files()
        try:
            with psycopg.connect(self._postgres.url) as connection:
                rows = connection.execute(
                    "SELECT item_id, source_offset, revision, vector::real[], attributes FROM item_vectors"
                ).fetchall()
        except psycopg.errors.UndefinedTable:
            return {}
        return {
            name: Kept(source, revision, _float32(vector), attributes)
            for name, source, revision, vector, attributes in rows
        }

    def wait_for_progress(self) -> None:
        """Until the store has taken something since the last call, or enough time has passed."""
        deadline = time.monotonic() + PROGRESS_S
        while (now := self._progress()) == self._seen and time.monotonic() < deadline:
            time.sleep(0.1)
        self._seen = now

    def _progress(self) -> Any:
        if self._postgres is None:
            return sorted(str(path.resolve()) for path in (self._directory / "snapshots").glob("*/current"))
        try:
            return self._postgres.query("SELECT count(*), sum(log_offset) FROM item_vectors")
        except psycopg.errors.UndefinedTable:
            return None

    def _in_files(self) -> dict[str, Kept]:
        found = {}
        for path in (self._directory / "snapshots").glob("*/current/rows.parquet"):
            vectors_ND = np.load(path.parent / "vectors.npy")
            for row, vector in zip(pq.read_table(path).to_pylist(), vectors_ND, strict=True):
                kept = Kept(
                    row["source_offset"], row["revision"], tuple(vector.tolist()), json.loads(row["attributes"])
                )
                found[row["id"]] = kept
        return found

    def close(self) -> None:
        for each in self.processes.values():
            each.close()


def run(plan: Plan, say: Any = print) -> Verdict:
    """Raises `KafkaFailedError` where no Kafka can be started."""
    random, changes = Random(plan.seed), Changes(plan)
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(Postgres()) if plan.kind == "pgvector" else None
        scene = Scene(plan, kafka, directory, postgres)
        create_topics(scene.options, dict.fromkeys(TOPICS.values(), PARTITIONS))
        stack.callback(scene.close)
        scene.start("worker-0")
        scene.start("sink-0")
        killed: Counter[str] = Counter()
        num_sent, started = 0, time.monotonic()
        kinds = ["sink", "sink", "worker", "store"] if postgres is not None else ["sink", "sink", "worker"]
        for turn in range(plan.kills):
            if postgres is not None and turn == plan.kills // 3:
                scene.start("sink-1")
            if postgres is not None and turn == 2 * plan.kills // 3:
                scene.end("sink-1")
            share = [
                part * (turn + 1) // plan.kills - part * turn // plan.kills for part in (plan.updates, plan.deletes)
            ]
            num_sent += scene.feed(changes.some(*share))
            if random.random() < 0.75:
                scene.wait_for_progress()
            time.sleep(random.uniform(0, 1.0))  # at any moment of the work, and of a start as well
            kind = random.choice(kinds)
            scene.kill(kind, random)
            killed[kind] += 1
            if (turn + 1) % 10 == 0:
                say(f"{turn + 1} kills ({dict(killed)}), {num_sent:,} records sent, {time.monotonic() - started:.0f} s")
        verdict = _settled(scene)
        verdict.counts.update({f"{kind} kills": count for kind, count in killed.items()})
        verdict.counts.update(updates=num_sent - changes.num_deletes, deletes=changes.num_deletes)
        verdict.counts["dead letters"] = sum(1 for _ in read_topic(scene.options, TOPICS["dead_letters"]))
        verdict.counts["outputs"] = sum(1 for _ in read_topic(scene.options, TOPICS["item_vectors"]))
        return verdict


def _settled(scene: Scene) -> Verdict:
    """Once everything has come to rest: everything sent is an output, and the store has followed."""
    deadline, quiet_since, before = time.monotonic() + PATIENCE_S, time.monotonic(), -1
    while True:
        records = list(read_topic(scene.options, TOPICS["item_vectors"]))
        inputs = {record.partition: record.offset for record in read_topic(scene.options, TOPICS["items"])}
        done: dict[Any, Any] = {}
        for record in records:
            value = None if record.value is None else decode_vector(ItemVector, record.value)
            source = int(dict(record.headers)[HEADER]) if value is None else (value.source_offset or 0)
            done[record.partition] = max(done.get(record.partition, -1), source)
        if len(records) != before:
            quiet_since, before = time.monotonic(), len(records)
        verdict = judge(last_vectors(iter(records)), scene.found())
        is_quiet = time.monotonic() - quiet_since > 5.0
        if (verdict.ok and is_quiet and done.keys() == inputs.keys()) or time.monotonic() > deadline:
            return verdict
        time.sleep(1.0)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("kills", "updates", "deletes", "items", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Plan, name), help="(default: %(default)s)")
    parser.add_argument("--kind", choices=["pgvector", "files"], default="pgvector")
    plan = Plan(**vars(parser.parse_args(argv)))
    if isinstance(found := find_distribution(), str):
        print(found, file=sys.stderr)
        return 2
    try:
        verdict = run(plan)
    except KafkaFailedError as error:
        print(error, file=sys.stderr)
        return 2
    print(verdict)
    return 0 if verdict.ok else 1


if __name__ == "__main__":
    sys.exit(main())
