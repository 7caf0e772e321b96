"""What a sink into pgvector does: rows per second by what they are, and the time from append to searchable.

    python -m tests.bench.sink [--rows 20000] [--dim 128]

Rows per second are those of the store alone, one connection, batches of 1,000, with CPU time of this process and of the
database beside them: filled with the index made behind, as the sink does it, for several amounts of memory
(`sink.index_memory_mb`); without an index over vectors; and into an index that is there. The latencies are of records
appended one by one to an embedded broker, a sink as a process, until a second connection sees the row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np
import psutil
import psycopg

from schemas import ItemVector, Tensor, encode
from tests.bench.host import host_line
from tests.brokers import Outgoing, produce
from tests.brokers.broker import embedded
from tests.stores.postgres import Postgres
from tests.worker_process import WorkerProcess, in_group
from worker.kafka.embedded import EmbeddedBroker
from worker.settings import SinkSettings
from worker.sink.pgvector import PgVector
from worker.sink.row import Collection, Place, Row

BATCH = 1_000
MEMORIES_MB = (8, 64, 256)
NUM_APPENDS, PAUSE_S = 200, 0.05
TOPICS = {"item_vectors": "item-vectors", "dead_letters": "dead-letters"}


def unit_rows(num_rows: int, dim: int, seed: int) -> np.ndarray:
    rows_ND = np.random.default_rng(seed).standard_normal((num_rows, dim)).astype(np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def rows(collection: Collection, vectors_ND: np.ndarray, offset: int) -> list[Row]:
    def row(number: int, vector: np.ndarray) -> Row:
        place = Place("log", 0, offset + number, offset + number, offset, offset)
        attributes = {"price": number + offset / 7, "category": f"c{number % 50}"}
        return Row(f"item-{number}", place, collection, vector, 1, ("text",), None, attributes)

    return [row(number, vector) for number, vector in enumerate(vectors_ND)]


def cpu_s(server: psutil.Process) -> tuple[float, float]:
    """Of this process, and of the database's: of those that have ended, too."""
    ended = server.cpu_times()
    times = [ended, *(process.cpu_times() for process in server.children(recursive=True))]
    ended_s = ended.children_user + ended.children_system
    return time.process_time(), ended_s + sum(each.user + each.system for each in times)


def write(store: PgVector, collection: Collection, found: Sequence[Row], postgres: Postgres, name: str) -> None:
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    started, (own, theirs) = time.monotonic(), cpu_s(server)
    for start in range(0, len(found), BATCH):
        store.write(collection, found[start : start + BATCH])
    took_s, (own_end, theirs_end) = time.monotonic() - started, cpu_s(server)
    figures = (len(found) / took_s, 1e6 * (own_end - own) / len(found), 1e6 * (theirs_end - theirs) / len(found))
    print(f"| {name} |", " | ".join(f"{each:,.0f}" for each in figures), "|", flush=True)


def throughput(postgres: Postgres, num_rows: int, dim: int) -> None:
    print("| rows | per second | µs of CPU, sink | µs of CPU, PostgreSQL |")
    print("|---|---|---|---|")
    for memory_mb in MEMORIES_MB:
        fill(postgres, num_rows, dim, memory_mb)
    for index in ("none", "hnsw"):
        url = postgres.create_database(f"bench-{index}")
        store = PgVector(SinkSettings(url=url, index=index))
        store.connect()
        collection = Collection("items", "bench", dim)
        store.prepare(collection)
        if index == "hnsw":
            made(store)
        count = num_rows if index == "none" else num_rows // 5
        first_ND, second_ND = unit_rows(count, dim, 1), unit_rows(count, dim, 2)
        write(store, collection, rows(collection, first_ND, 0), postgres, f"new, index {index}")
        write(store, collection, rows(collection, first_ND, 10**6), postgres, f"price alone, index {index}")
        write(store, collection, rows(collection, second_ND, 10**7), postgres, f"another vector, index {index}")
        write(store, collection, rows(collection, second_ND, 10**7), postgres, f"the same again, index {index}")
        store.close()


def fill(postgres: Postgres, num_rows: int, dim: int, memory_mb: int) -> None:
    """All rows, and then the index."""
    assert postgres.pid is not None
    server = psutil.Process(postgres.pid)
    url = postgres.create_database(f"bench-fill-{memory_mb}")
    store = PgVector(SinkSettings(url=url, index_memory_mb=memory_mb))
    store.connect()
    collection = Collection("items", "bench", dim)
    store.prepare(collection)
    found = rows(collection, unit_rows(num_rows, dim, 1), 0)
    started, (own, theirs) = time.monotonic(), cpu_s(server)
    for start in range(0, num_rows, BATCH):
        store.write(collection, found[start : start + BATCH])
    made(store)
    took_s, (own_end, theirs_end) = time.monotonic() - started, cpu_s(server)
    figures = (
        num_rows / took_s,
        1e6 * (own_end - own) / num_rows,
        1e6 * (theirs_end - theirs) / num_rows,
    )
    print(
        f"| filled, then index hnsw in {memory_mb} MB |",
        " | ".join(f"{each:,.0f}" for each in figures),
        "|",
        flush=True,
    )
    store.close()


def made(store: PgVector) -> None:
    """Until the index is there."""
    while not store.tick(is_caught_up=True):
        time.sleep(0.05)


def latency(postgres: Postgres, dim: int) -> None:
    url = postgres.create_database("latency")
    vectors_ND = unit_rows(NUM_APPENDS, dim, 3)
    with EmbeddedBroker() as started:
        broker = embedded(started)
        broker.create_topics(dict.fromkeys(TOPICS.values(), 1))
        settings = {**in_group("kafka", broker.client_settings), **in_group("topics", TOPICS), "sink.url": url}
        taken_ms: list[float] = []
        with (
            WorkerProcess(settings, command=("sink", "pgvector")) as sink,
            psycopg.connect(url, autocommit=True) as seen,
        ):
            sink.wait_ready()
            for number, vector in enumerate(vectors_ND):
                message = ItemVector(
                    item_id=f"item-{number}", revision=1, event_time_ms=1, space_id="bench", modalities=("text",),
                    vector=Tensor(dtype="f4", shape=(dim,), data=vector.tobytes()), produced_at_ms=1,
                    source_offset=number,
                )  # fmt: skip
                started_at = time.monotonic()
                produce(broker.options, [Outgoing(TOPICS["item_vectors"], message.key, encode(message), 0)])
                while not _is_seen(seen, message.item_id):
                    time.sleep(0.001)
                taken_ms.append((time.monotonic() - started_at) * 1000)
                time.sleep(PAUSE_S)
    p50, p99 = np.percentile(taken_ms[20:], [50, 99])
    print(f"append → searchable: p50 {p50:.0f} ms, p99 {p99:.0f} ms, a producer's start included")


def _is_seen(connection: psycopg.Connection, item_id: str) -> bool:
    try:
        return connection.execute("SELECT 1 FROM item_vectors WHERE item_id = %s", [item_id]).fetchone() is not None
    except psycopg.errors.UndefinedTable:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000, help="(default: %(default)s)")
    parser.add_argument("--dim", type=int, default=128, help="(default: %(default)s)")
    arguments = parser.parse_args()
    print(host_line())
    with Postgres() as postgres:
        throughput(postgres, arguments.rows, arguments.dim)
        latency(postgres, arguments.dim)


if __name__ == "__main__":
    main()
