"""How soon after an item's vector appears do those who wait for it have theirs?

    python -m tests.bench.waiting [--rate 50] [--seconds 30] [--json]

A real Kafka and the real worker with both roles, commits on, reader and feeder on the same cores; a fresh worker and
fresh topics for each delivery. Every user acts on an item that is not there yet, and is without a vector until the
item comes, `LEAD_S` later. Times are those of a reader of committed records that follows both outputs: from the return
of its `consume` with the item's vector to that with the user's; and from the broker's stamp of the item message to the
latter, which is all of the way.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from schemas import UserEvent, encode
from tests.bench.delivery import DELIVERIES
from tests.bench.host import host_line
from tests.bench.stream import TICK_S, TOPIC, append_times
from tests.bench.workload import NUM_PARTITIONS, Bed, Feeder, item_id, open_bed, wait_until, worker

LEAD_S = 2.0
WARM_UP_S = 3.0
START_TIMEOUT_S = 90.0
DRAIN_TIMEOUT_S = 30.0


class Delays(NamedTuple):
    """Milliseconds, one for each user that waited."""

    after_item_vector: list[float]
    after_item: list[float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="items, and users who wait for them, per second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    host, rows = host_line(), []
    if not given.json:
        print(f"host: {host}\n{'':<15}{'users':>6}  item vector to user vector  item to user vector")
    with open_bed(None) as bed:
        for delivery in DELIVERIES:
            delays = measure(bed, delivery, given.rate, given.seconds)
            rows.append({"delivery": delivery, "users": len(delays.after_item)} | figures(delays))
            if not given.json:
                print(row(rows[-1]), flush=True)
    if given.json:
        print(json.dumps({"host": host, "rate": given.rate, "rows": rows}))


def figures(delays: Delays) -> dict[str, float]:
    return {
        f"{name}_p{q}_ms": float(np.percentile(values, q))
        for name, values in delays._asdict().items()
        for q in (50, 99)
    }


def row(found: dict[str, Any]) -> str:
    cells = (
        f"{found[f'{name}_p50_ms']:>9.1f} / {found[f'{name}_p99_ms']:<9.1f}ms" for name in Delays._fields
    )  # fmt: skip
    return f"{found['delivery']:<15}{found['users']:>6}  {'   '.join(cells)}"


def measure(bed: Bed, delivery: str, rate: float, seconds: float) -> Delays:
    run = uuid.uuid4().hex[:8]
    names = {each: f"{each.replace('_', '-')}-{run}" for each in ("items", "events", "user_vectors", "user_state")}
    bed.create_topics(list(names.values()), TOPIC)
    variables = bed.worker_environment(names["items"], delivery=delivery, roles="items,users")
    variables |= {f"ALIGN_TOPICS__{name.upper()}": topic for name, topic in names.items()}
    outputs = {variables["ALIGN_TOPICS__ITEM_VECTORS"]: "item", names["user_vectors"]: "user"}
    with worker(variables), arrivals(bed, outputs) as first_ms, feeding(bed, names) as feed:
        wait_until(lambda: feed(0) > 0 and ("user", b"user-0") in first_ms, START_TIMEOUT_S, "a first vector")
        started = time.monotonic()
        while (elapsed_s := time.monotonic() - started) < WARM_UP_S + seconds:
            feed(elapsed_s * rate)
            time.sleep(TICK_S)
        num_items = feed(elapsed_s * rate)
        last = ("user", f"user-{num_items - 1}".encode())
        wait_until(lambda: last in first_ms, DRAIN_TIMEOUT_S, "the last vector")
        found = dict(first_ms)
    appended_ms = append_times(bed.bootstrap_servers, names["items"], num_items)
    # Item n is record n // NUM_PARTITIONS of partition n % NUM_PARTITIONS.
    numbers = [n for n in range(int(WARM_UP_S * rate), num_items) if ("user", f"user-{n}".encode()) in found]
    if len(numbers) < num_items - int(WARM_UP_S * rate):
        raise RuntimeError("some users have no vector")
    user_ms = {n: found["user", f"user-{n}".encode()] for n in numbers}
    return Delays(
        [user_ms[n] - found["item", item_id(n).encode()] for n in numbers],
        [user_ms[n] - appended_ms[n % NUM_PARTITIONS, n // NUM_PARTITIONS] for n in numbers],
    )


@contextmanager
def feeding(bed: Bed, names: dict[str, str]) -> Iterator[Any]:
    """Gives a function that, told how many items are due, writes events ahead of them, and returns their number."""
    producer = Producer({"bootstrap.servers": bed.bootstrap_servers, "linger.ms": 0.5, "log_level": 0})
    items = Feeder(bed.bootstrap_servers, names["items"], linger_ms=0.5)
    queue: list[float] = []  # when each event was written, those whose item is still to come

    def feed(due: float) -> int:
        num_events = items.num_fed + len(queue)
        for number in range(num_events, int(due) + 1):
            user_id = f"user-{number}"
            event = UserEvent(
                event_id=f"e{number}", user_id=user_id, item_id=item_id(number), event_type="like",
                event_time_ms=time.time_ns() // 1_000_000,
            )  # fmt: skip
            producer.produce(names["events"], encode(event), event.key, number % NUM_PARTITIONS)
            queue.append(time.monotonic())
        producer.poll(0)
        num_due = sum(1 for at in queue if at <= time.monotonic() - LEAD_S)
        items.feed(num_due)
        del queue[:num_due]
        return items.num_fed

    yield feed
    items.flush()
    if producer.flush(60):
        raise RuntimeError("events were not written")


@contextmanager
def arrivals(bed: Bed, outputs: dict[str, str]) -> Iterator[dict[tuple[str, bytes], float]]:
    """When a reader had the first vector of each key in hand, by what it is and its key; grows meanwhile."""
    reader = Consumer(
        {"bootstrap.servers": bed.bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
         "isolation.level": "read_committed", "fetch.wait.max.ms": 20, "log_level": 0}
    )  # fmt: skip
    reader.assign([TopicPartition(topic, number, 0) for topic in outputs for number in range(NUM_PARTITIONS)])
    first_ms: dict[tuple[str, bytes], float] = {}
    stop = threading.Event()

    def receive() -> None:
        while not stop.is_set():
            records = reader.consume(500, 0.005)
            now_ms = time.time() * 1000
            for record in records:
                first_ms.setdefault((outputs[record.topic() or ""], record.key() or b""), now_ms)

    thread = threading.Thread(target=receive)
    thread.start()
    try:
        yield first_ms
    finally:
        stop.set()
        thread.join()
        reader.close()


if __name__ == "__main__":
    main()
