"""Where do the microseconds of a record go between the log and the client, step by step?

    python -m tests.bench.hot_path [--rounds 12] [--whole] [--json]
    python -m tests.bench.hot_path --events

The worker's own code on records in memory, in one thread and without a client or a model: decode, accept (merge with
what is remembered), batch, write (vector, changelog value, dead letters), pack (into the record batches of the default
client), receipts, settle (store, books, metrics) and the freeing of all that. Each step counts with its fastest round,
in CPU time of the thread, so that a busy machine hits the sum little. `--events`: of events instead of items, users of
20 events each, their histories pooled.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.structs import TopicPartition as ClientPartition
from prometheus_client import CollectorRegistry

from schemas import UserEvent, encode
from tests.bench.host import host_line
from tests.bench.parts import calm_interpreter
from tests.bench.workload import BATCH, DIMS, MODALITIES, VECTOR_DIM, Items, item_id
from worker.align import Contract
from worker.align.command import create
from worker.align.padding import rising_sizes
from worker.align.weights import build_user_model
from worker.item_vectors.dependents import Dependents
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.item_vectors.waiting import Waiting
from worker.kafka.batches import FetchedRecord
from worker.kafka.kafka_python.packing import _PackedBatch
from worker.kafka.port import Commit, Outbound
from worker.loop.ledger import Ledger
from worker.monitoring.metrics import Metrics
from worker.partitions.tenure import Tenure
from worker.records import Change, Item, TopicPartition
from worker.roles.items import ItemFormat, ItemsRole
from worker.roles.user_pool import UserPool
from worker.roles.users import UserFormat, UsersRole
from worker.settings import Settings
from worker.stages.batch_queue import BatchQueue
from worker.stages.fuse import Result, Vector, fuse
from worker.stages.publish import Publisher, Unacknowledged
from worker.state import MemoryStore
from worker.state.overlay import StateOverlay
from worker.topics import RoleTopics, topics_of

NUM_POLLS = 16
BATCH_BYTES = 2**18
LAST = 20
NUM_USERS, NUM_ITEMS = 500, 2_000


class Steps:
    """CPU seconds of this thread by step."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        started = time.thread_time()
        yield
        self.seconds[name] += time.thread_time() - started


class OneVector:
    """The same vector for every item."""

    def __init__(self) -> None:
        self._vector = Vector(bytes(2 * VECTOR_DIM), MODALITIES)

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        for entry in entries:
            assert isinstance(entry, Item)
            assert len(entry.features) == len(DIMS)  # what a model would look at
        return [self._vector] * len(entries)

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None:
        """Nothing can fail."""


def items_role(folder: Path, *, keep_features: bool) -> ItemsRole:
    space = create(folder, DIMS, VECTOR_DIM)
    output = ItemFormat(topics("items"), space.space_id, "f2", VECTOR_DIM)
    return ItemsRole(output, Contract(space.spec), OneVector(), keep_features=keep_features)


def users_role(folder: Path) -> UsersRole:
    space = create(folder, DIMS, VECTOR_DIM)
    table = ItemTable(VECTOR_DIM, "float16", "cpu")
    vector = np.full(VECTOR_DIM, VECTOR_DIM**-0.5, np.float32)
    table.apply([ItemUpdate(item_id(number), number, vector) for number in range(NUM_ITEMS)])
    catalogue = cast(Any, SimpleNamespace(table=table, step=lambda: None, is_ready=True))
    user = space.spec.user
    assert user is not None
    model = build_user_model(space.spec, space.weights, "cpu")
    pool = UserPool(model, table, user.event_weights, LAST, rising_sizes(BATCH), "f2", "cpu")
    output = UserFormat(topics("users"), space.space_id, "f2", VECTOR_DIM)
    dependents = Dependents(catalogue, Waiting(1_000), follows_changes=False)
    return UsersRole(output, pool, dependents, user.event_weights, LAST)


def topics(role: Any) -> RoleTopics:
    return topics_of(role, Settings())


def item_records() -> list[list[FetchedRecord]]:
    made, now_ms = Items(), time.time_ns() // 1_000_000
    return polls("items", [made.message(number, now_ms) for number in range(NUM_POLLS * BATCH)], now_ms)


def event_records() -> list[list[FetchedRecord]]:
    dice, now_ms = random.Random(1), time.time_ns() // 1_000_000
    events = []
    for number in range(NUM_POLLS * BATCH):
        event = UserEvent(
            event_id=f"event-{number:09d}", user_id=f"user-{dice.randrange(NUM_USERS):06d}",
            item_id=item_id(dice.randrange(NUM_ITEMS)), event_type="like", event_time_ms=now_ms + number,
        )  # fmt: skip
        events.append((event.key, encode(event)))
    return polls("events", events, now_ms)


def polls(topic: str, messages: Sequence[tuple[bytes, bytes]], now_ms: int) -> list[list[FetchedRecord]]:
    records = [FetchedRecord(topic, 0, offset, now_ms, key, value, ()) for offset, (key, value) in enumerate(messages)]
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


def one_round(role: Any, polled: Sequence[Sequence[FetchedRecord]]) -> dict[str, float]:
    """Microseconds per record of each step. The records are kept, as the log keeps them; nothing else is."""
    steps, topic = Steps(), role.topics.inputs
    metrics = Metrics(CollectorRegistry(), topic)
    ledger, unacknowledged = Ledger(metrics, lambda: None), Unacknowledged(10**9)
    publisher = Publisher(role.output, None, unacknowledged, lambda: None)
    tenure = Tenure(TopicPartition(topic, 0), Commit(0))
    tenure.overlay = StateOverlay(MemoryStore(), role.decode_state)
    queue = BatchQueue(Settings().batch)
    queue.set_backlog(True)
    written = 0
    for records in polled:
        with steps.step("decode"):
            decoded = role.decode(records)
        with steps.step("accept"):
            entries = role.accept(decoded.entries, tenure.overlay)
        with steps.step("batch"):
            tenure.consumed(records)
            ledger.consumed(len(records))
            queue.put(tenure, entries)
            batch = queue.take(0)
            assert batch is not None
        with steps.step("fuse"):
            fused = fuse(batch, role.embedder, lambda: None)
        with steps.step("write"):
            outbound = publisher._outbound(fused.slices[0])
            assert outbound is not None
        with steps.step("pack"):
            batches = pack(outbound)
        with steps.step("receipts"):
            fused.slices[0].read.written.expect(len(outbound), lambda: None)
            for each in batches:
                each._receipts.settle((written, None, None))
                written += len(each._receipts)
        with steps.step("settle"):
            for done in tenure.settle():
                ledger.finished(done)
            ledger.check(tenure.in_flight)
        with steps.step("free"):
            del decoded, entries, batch, fused, outbound, batches, each, done
    assert ledger.unaccounted == 0
    assert metrics.accounting.totals.published["upsert"] > 0
    num_records = sum(map(len, polled))
    return {name: seconds / num_records * 1e6 for name, seconds in steps.seconds.items()}


def pack(outbound: Sequence[Outbound]) -> list[_PackedBatch]:
    """Into record batches of the usual size, by topic."""
    by_topic: defaultdict[str, list[Outbound]] = defaultdict(list)
    for each in outbound:
        by_topic[each.topic].append(each)
    now_ms, made = time.time_ns() // 1_000_000, []
    for topic, records in by_topic.items():
        start = 0
        while start < len(records):
            builder = MemoryRecordsBuilder(2, 0, BATCH_BYTES)
            made.append(_PackedBatch(ClientPartition(topic, 0), builder, lambda receipt, error: None))
            start = made[-1].fill(records, start, now_ms)
    return made


def fastest(
    make_role: Callable[[], Any], polled: Sequence[Sequence[FetchedRecord]], num_rounds: int
) -> dict[str, float]:
    role, best = make_role(), dict[str, float]()
    for number in range(num_rounds + 1):
        found = one_round(role, polled)
        if number:  # the first makes caches, and objects that stay
            best = {name: min(cost, best.get(name, cost)) for name, cost in found.items()}
        gc.collect()
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--events", action="store_true", help="events instead of items")
    parser.add_argument("--whole", action="store_true", help="items with `state.features: false`")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    with TemporaryDirectory(prefix="align-bench-") as directory:
        folder, keep = Path(directory, "space"), not given.whole
        polled = event_records() if given.events else item_records()
        make_role: Callable[[], Any] = (
            (lambda: users_role(folder)) if given.events else (lambda: items_role(folder, keep_features=keep))
        )
        torch.set_num_threads(1)
        calm_interpreter()
        best = fastest(make_role, polled, given.rounds)
    if given.json:
        print(json.dumps({"host": host_line(), "us": best}))
        return
    print(f"host: {host_line()}\n{NUM_POLLS * BATCH} records, fastest of {given.rounds} rounds, CPU µs per record")
    for name, cost in best.items():
        print(f"{name:10} {cost:6.2f}")
    print(f"{'sum':10} {sum(best.values()):6.2f}")


if __name__ == "__main__":
    main()
