"""What does it take to remember a million users, in memory and on disk?

    python -m tests.bench.memory [--users 1000000] [--events 50] [--fed 100000] [--json]
    python -m tests.bench.memory --items 200000

Histories as the worker writes them are put into the changelog, and the real worker is started on it: with nobody to
remember, with everybody in memory, and with `state.dir`; the latter once more, on what it has left there. Looked at
when all is restored and then again when it has worked through events of users at random: resident memory of the process
(anonymous, and mapped from files, which the kernel takes back when it needs it), and what it says of its state. With
`--items` the same for the features of items, without the events. Needs twice the room of the states in the temporary
directory.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Producer

from schemas import Feature, NewItem, decode
from tests.bench.delivery import NUM_CATALOGUE, EventFeeder, committed, published_catalogue, users_environment
from tests.bench.host import host_line
from tests.bench.idle import free_port
from tests.bench.progress import process_cpu_s, resident_mb
from tests.bench.workload import NUM_PARTITIONS, Bed, Items, item_id, open_bed, wait_until, worker
from worker.align.history import Event
from worker.state.items import ItemState, ModalityState
from worker.state.users import UserState

START_TIMEOUT_S, WORK_TIMEOUT_S = 900.0, 300.0
SETTLE_S = 3.0
_TIME_MS = 1_767_225_600_000

State = tuple[bytes, int, bytes]
"""Key, partition and value of a changelog record."""


class Row(NamedTuple):
    """One start of the worker."""

    name: str
    start_s: float
    """From the start of the process to the last state restored."""
    anonymous_mb: float
    mapped_mb: float
    state_bytes: float
    """Of each state, by the worker's own account."""
    cpu_us_per_event: float | None = None
    anonymous_after_mb: float | None = None
    mapped_after_mb: float | None = None
    """After the events."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--events", type=int, default=50, help="in each history; 50 is the most by default")
    parser.add_argument("--fed", type=int, default=100_000, help="events to work through, of users at random")
    parser.add_argument("--items", type=int, help="remember items instead")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host = host_line()
    say = (lambda text: None) if arguments.json else (lambda text: print(text, flush=True))
    say(f"host: {host}")
    with open_bed(None) as bed, tempfile.TemporaryDirectory(prefix="align-memory-") as directory:
        if arguments.items is None:
            states, count = user_states(arguments.users, arguments.events), arguments.users
            runs: Runs = UserRuns(bed, published_catalogue(bed), count, arguments.fed)
        else:
            states, count = item_states(arguments.items), arguments.items
            runs = ItemRuns(bed)
        num_bytes = fill(bed, runs.changelog, states) / count
        on_disk = {**runs.environment(runs.changelog), "ALIGN_STATE__DIR": directory}
        rows = []
        for name, environment, expected, feeds in (
            ("nothing", runs.environment(runs.empty), 0, True),
            ("in memory", runs.environment(runs.changelog), count, True),
            ("state.dir", on_disk, count, True),
            ("state.dir, again", on_disk, count, False),
        ):
            rows.append(runs.measure(name, environment, expected, feeds=feeds))
            say(as_text(rows[-1]))
        disk_bytes = sum(file.stat().st_blocks * 512 for file in Path(directory).rglob("*") if file.is_file()) / count
    if arguments.json:
        made = [row._asdict() for row in rows]
        print(json.dumps({"host": host, "encoded_bytes": num_bytes, "disk_bytes": disk_bytes, "rows": made}))
        return
    print(f"{count:,} states of {num_bytes:,.0f} bytes; on the disk {disk_bytes:,.0f} bytes each")


def as_text(row: Row) -> str:
    after = "" if row.cpu_us_per_event is None else (
        f"; after the events {row.anonymous_after_mb:,.0f} and {row.mapped_after_mb:,.0f} MB, "
        f"{row.cpu_us_per_event:.1f} µs CPU each"
    )  # fmt: skip
    return (
        f"{row.name:17} restored after {row.start_s:6.1f} s: {row.anonymous_mb:6,.0f} MB anonymous, "
        f"{row.mapped_mb:6,.0f} MB mapped, {row.state_bytes:6,.0f} bytes of state each{after}"
    )


class Runs:
    """Starts of the worker, each with outputs of its own."""

    def __init__(self, bed: Bed) -> None:
        self.bed = bed
        self.changelog, self.empty = "filled-changelog", "empty-changelog"
        bed.create_topics([self.changelog, self.empty])

    def environment(self, changelog: str) -> dict[str, str]:
        raise NotImplementedError

    def work(self, environment: Mapping[str, str], child: psutil.Process) -> float | None:
        """Give it something to do; CPU time per record in microseconds."""
        return None

    def measure(self, name: str, environment: Mapping[str, str], count: int, *, feeds: bool = True) -> Row:
        port, started = free_port(), time.monotonic()
        with worker({**environment, "ALIGN_HTTP__PORT": str(port)}) as child:
            wait_until(lambda: self._is_restored(child, port, count), START_TIMEOUT_S, f"{count} states restored")
            start_s = time.monotonic() - started
            time.sleep(SETTLE_S)
            before, num_bytes = resident_mb(child.pid), metric(port, "align_state_bytes")
            row = Row(name, start_s, *before, num_bytes / max(1, count))
            cost = self.work(environment, psutil.Process(child.pid)) if feeds else None
            return row if cost is None else Row(*row[:5], cost, *resident_mb(child.pid))

    def _is_restored(self, child: subprocess.Popen[bytes], port: int, count: int) -> bool:
        if child.poll() is not None:
            raise RuntimeError(f"the worker ended with {child.returncode}")
        try:
            is_held = metric(port, "align_assigned_partitions") == NUM_PARTITIONS
            return is_held and metric(port, "align_state_values") == count
        except (OSError, LookupError):
            return False


class UserRuns(Runs):
    def __init__(self, bed: Bed, catalogue: str, num_users: int, num_fed: int) -> None:
        super().__init__(bed)
        self._catalogue = catalogue
        self._num_users, self._num_fed = num_users, num_fed

    def environment(self, changelog: str) -> dict[str, str]:
        topic = f"events-{uuid.uuid4().hex[:8]}"
        self.bed.create_topics([topic])
        return {
            **users_environment(self.bed, topic, self._catalogue, "at_least_once"),
            "ALIGN_TOPICS__USER_STATE": changelog,
        }

    def work(self, environment: Mapping[str, str], child: psutil.Process) -> float | None:
        topic, group = environment["ALIGN_TOPICS__EVENTS"], environment["ALIGN_KAFKA__GROUP_ID"] + "-users"
        feeder = EventFeeder(self.bed, topic, 20, self._num_users)
        before_s = process_cpu_s(child)
        feeder.feed(self._num_fed)
        feeder.flush()
        with committed(self.bed, group, topic) as total:
            wait_until(lambda: total() >= self._num_fed, WORK_TIMEOUT_S, "events worked through")
        return (process_cpu_s(child) - before_s) / self._num_fed * 1e6


class ItemRuns(Runs):
    def __init__(self, bed: Bed) -> None:
        super().__init__(bed)
        bed.create_topics(["items"])

    def environment(self, changelog: str) -> dict[str, str]:
        return {**self.bed.worker_environment("items"), "ALIGN_TOPICS__ITEM_STATE": changelog}


def user_states(num_users: int, num_events: int) -> Iterator[State]:
    """Histories whose events have ids of 16 characters and are about items of 14. There are a thousand, given out in
    turn: what each takes does not depend on what the others hold."""
    dice = random.Random(0)
    histories = [
        UserState(0, [
            Event(_TIME_MS + position, f"{dice.getrandbits(64):016x}", item_id(dice.randrange(NUM_CATALOGUE)), "like")
            for position in range(num_events)
        ]).encode()
        for _ in range(min(num_users, 1_000))
    ]  # fmt: skip
    for number in range(num_users):
        yield f"user-{number}".encode(), number % NUM_PARTITIONS, histories[number % len(histories)]


def item_states(num_items: int) -> Iterator[State]:
    items = Items()
    for number in range(num_items):
        key, value = items.message(number)
        features: Mapping[str, Feature] = decode(NewItem, value, check_values=False).features
        parts = {name: ModalityState(1, feature) for name, feature in sorted(features.items())}
        yield key, number % NUM_PARTITIONS, ItemState(0, 1, 1, _TIME_MS, parts).encode()


def fill(bed: Bed, topic: str, states: Iterator[State]) -> int:
    """Returns the bytes of all values."""
    options: dict[str, Any] = {"bootstrap.servers": bed.bootstrap_servers, "linger.ms": 20, "batch.size": 2**20}
    producer = Producer({**options, "log_level": 0, "queue.buffering.max.kbytes": 64 * 2**10})
    num_bytes = 0
    for key, partition, value in states:
        num_bytes += len(value)
        producer.poll(0)
        while True:
            try:
                producer.produce(topic, value, key, partition)
                break
            except BufferError:
                producer.poll(0.05)
    if producer.flush(120):
        raise RuntimeError("the changelog was not written")
    return num_bytes


def metric(port: int, name: str) -> float:
    """Of the only role of a worker."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        found = re.search(rf"^{name}{{.*}} (\S+)$", response.read().decode(), re.MULTILINE)
    if found is None:
        raise LookupError(name)
    return float(found[1])


if __name__ == "__main__":
    main()
