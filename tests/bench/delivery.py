"""What does exactly-once cost against at-least-once, and how soon does a user's vector follow an event?

    python -m tests.bench.delivery [--items 40000] [--events 60000] [--rounds 2] [--rates 200,half] [--json]

A real Kafka, the real worker, feeder and reader on the same cores. Both deliveries take turns, each as a fresh process
with a fresh group and fresh output topics, on logs that are full before anything is measured. Progress is the group's
committed offsets, which both move alike, seen from outside between 10 % and 95 %. Freshness is measured at half of the
slower delivery's rate of events, with commits on: from the broker's stamp of an event to the return of the
`consume` of a reader of committed records; the time includes the wait for the transaction.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import psutil
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas import UserEvent, UserVector, decode, encode
from tests.bench.host import host_line
from tests.bench.pipeline import fill
from tests.bench.workload import NUM_PARTITIONS, Bed, item_id, open_bed, rounds, wait_until, worker

DELIVERIES = ("at_least_once", "exactly_once")
FIRST, LAST = 0.10, 0.95
NUM_USERS, NUM_CATALOGUE = 5_000, 2_000
INTERVAL_S = 0.1
STALL_S = 120.0
TICK_S = 0.002
_NOT_YET = (KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_LOAD_IN_PROGRESS)  # of a group that is new
WARM_UP_S = 3.0
CAUGHT_UP_S = 0.5


class Rate(NamedTuple):
    per_s: float
    cpu_us: float
    """Of the worker, per record."""
    broker_us: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=40_000)
    parser.add_argument("--events", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rates", default="200,half", help="events per second; `half`: of the slower delivery's rate")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement of freshness")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    say = (lambda text: None) if given.json else (lambda text: print(text, flush=True))
    host = host_line()
    say(f"host: {host}")
    with open_bed(None) as bed:
        figures = {"items": items(bed, given.items, given.rounds, say)}
        catalogue = published_catalogue(bed)
        fill_events(bed, "events", given.events)
        figures["events"] = events(bed, catalogue, given.events, given.rounds, say)
        half = min(rate.per_s for rate in figures["events"].values()) / 2
        fresh = [
            {"delivery": name, "rate": rate, **freshness(bed, catalogue, name, rate, given.seconds, say)}
            for rate in (half if each == "half" else float(each) for each in given.rates.split(","))
            for name in DELIVERIES
        ]
    if given.json:
        print(json.dumps({"host": host, "figures": {kind: {name: rate._asdict() for name, rate in each.items()}
                          for kind, each in figures.items()}, "freshness_ms": fresh}))  # fmt: skip
        return
    for kind, each in figures.items():
        loose, strict = (each[name] for name in DELIVERIES)
        print(f"{kind}: exactly_once / at_least_once: rate {strict.per_s / loose.per_s:.2f}, "
              f"CPU of the worker {strict.cpu_us / loose.cpu_us:.2f}, of the broker "
              f"{strict.broker_us / loose.broker_us:.2f}")  # fmt: skip


def items(bed: Bed, count: int, num_rounds: int, say: Any) -> dict[str, Rate]:
    fill(bed, "items", count)
    return alternate(
        num_rounds, "items", say, lambda name: measure(bed, "items", count, environment(bed, "items", name))
    )


def events(bed: Bed, catalogue: str, count: int, num_rounds: int, say: Any) -> dict[str, Rate]:
    return alternate(
        num_rounds, "events", say,
        lambda name: measure(bed, "events", count, users_environment(bed, "events", catalogue, name)),
    )  # fmt: skip


def alternate(num_rounds: int, kind: str, say: Any, one: Any) -> dict[str, Rate]:
    measured: dict[str, list[Rate]] = {name: [] for name in DELIVERIES}
    for _, name in rounds(DELIVERIES, num_rounds):
        measured[name].append(one(name))
        rate = measured[name][-1]
        say(f"  {kind:7} {name:14} {rate.per_s:9,.0f}/s {rate.cpu_us:8.1f} µs, broker {rate.broker_us:6.1f} µs")
    return {name: Rate(*map(statistics.median, zip(*each, strict=True))) for name, each in measured.items()}


def environment(bed: Bed, topic: str, delivery: str) -> dict[str, str]:
    return bed.worker_environment(topic, delivery=delivery)


def users_environment(bed: Bed, topic: str, catalogue: str, delivery: str) -> dict[str, str]:
    run = uuid.uuid4().hex[:8]
    names = {"user_vectors": f"user-vectors-{run}", "user_state": f"user-state-{run}"}
    bed.create_topics(list(names.values()))
    changes = {f"ALIGN_TOPICS__{name.upper()}": topic for name, topic in names.items()}
    made = bed.worker_environment("items", delivery=delivery, roles="users")
    return {**made, **changes, "ALIGN_TOPICS__EVENTS": topic, "ALIGN_TOPICS__ITEM_VECTORS": catalogue}


def measure(bed: Bed, topic: str, count: int, variables: dict[str, str]) -> Rate:
    group = variables["ALIGN_KAFKA__GROUP_ID"] + ("-users" if variables.get("ALIGN_ROLES") == "users" else "")
    with worker(variables) as child:
        process, brokers = psutil.Process(child.pid), [psutil.Process(pid) for pid in bed.broker_pids]
        samples: list[tuple[float, int, float, float]] = []
        with committed(bed, group, topic) as total:
            moved_at = time.monotonic()
            while not samples or samples[-1][1] < count:
                require_running(child)
                done = total()
                if samples and done > samples[-1][1]:
                    moved_at = time.monotonic()
                if time.monotonic() - moved_at > STALL_S:
                    raise TimeoutError(f"nothing committed for {STALL_S:g} s after {done}")
                samples.append((time.monotonic(), done, cpu_s([process]), cpu_s(brokers)))
                time.sleep(INTERVAL_S)
    begin = next(each for each in samples if each[1] >= FIRST * count)
    last = max(each[1] for each in samples if each[1] <= LAST * count)
    # When it was first seen: after that follows the wait for the next commit.
    end = next(each for each in samples if each[1] == last)
    num = end[1] - begin[1]
    if num <= 0:
        raise ValueError("too few commits in between: feed more")
    return Rate(num / (end[0] - begin[0]), (end[2] - begin[2]) / num * 1e6, (end[3] - begin[3]) / num * 1e6)


def require_running(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is not None:
        raise RuntimeError(f"the worker ended with {child.returncode}")


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(each.cpu_times().user + each.cpu_times().system for each in processes)


@contextmanager
def committed(bed: Bed, group: str, topic: str) -> Iterator[Any]:
    """Tells what a group has committed of a topic."""
    observer = Consumer({"bootstrap.servers": bed.bootstrap_servers, "group.id": group, "enable.auto.commit": False})
    partitions = [TopicPartition(topic, number) for number in range(NUM_PARTITIONS)]
    last = 0

    def total() -> int:
        nonlocal last
        try:
            last = sum(max(0, each.offset) for each in observer.committed(partitions, timeout=10))
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
        return last

    try:
        yield total
    finally:
        observer.close()


def published_catalogue(bed: Bed) -> str:
    """A topic with item vectors that users can act on."""
    fill(bed, "catalogue", NUM_CATALOGUE)
    variables = environment(bed, "catalogue", "at_least_once")
    with worker(variables), committed(bed, variables["ALIGN_KAFKA__GROUP_ID"], "catalogue") as total:
        wait_until(lambda: total() >= NUM_CATALOGUE, 120, "the catalogue")
    return variables["ALIGN_TOPICS__ITEM_VECTORS"]


class EventFeeder:
    """Events of users at random, or each of another user, about some item of the catalogue."""

    def __init__(
        self, bed: Bed, topic: str, linger_ms: float, num_users: int = NUM_USERS, *, in_turn: bool = False
    ) -> None:
        self._topic, self._in_turn = topic, in_turn
        self._num_users = num_users
        self._dice = random.Random(1)
        self._producer = Producer(
            {"bootstrap.servers": bed.bootstrap_servers, "linger.ms": linger_ms, "log_level": 0,
             "queue.buffering.max.messages": 2_000_000}
        )  # fmt: skip
        self.num_fed = 0
        self.last_ms = 0

    def feed(self, count: int) -> None:
        now_ms = time.time_ns() // 1_000_000
        for number in range(self.num_fed, self.num_fed + count):
            self.last_ms = max(self.last_ms + 1, now_ms)
            user = number if self._in_turn else int(self._num_users * self._dice.random() ** 2)
            event = UserEvent(
                event_id=f"e{number}", user_id=f"user-{user}", item_id=item_id(self._dice.randrange(NUM_CATALOGUE)),
                event_type="like", event_time_ms=self.last_ms,
            )  # fmt: skip
            self._producer.produce(self._topic, encode(event), event.key, user % NUM_PARTITIONS)
        self._producer.poll(0)
        self.num_fed += count

    def flush(self) -> None:
        if self._producer.flush(60):
            raise RuntimeError("events were not written")


def fill_events(bed: Bed, topic: str, count: int) -> None:
    bed.create_topics([topic])
    feeder = EventFeeder(bed, topic, 20)
    feeder.feed(count)
    feeder.flush()


def freshness(bed: Bed, catalogue: str, delivery: str, rate: float, seconds: float, say: Any) -> dict[str, float]:
    """Milliseconds from the append of an event to the first vector that holds it, in a reader's hand."""
    topic = f"events-{uuid.uuid4().hex[:8]}"
    bed.create_topics([topic], {"message.timestamp.type": "LogAppendTime"})
    variables = users_environment(bed, topic, catalogue, delivery)
    feeder, stop = EventFeeder(bed, topic, 0.5), threading.Event()
    reader = Consumer({
        "bootstrap.servers": bed.bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
        "isolation.level": "read_committed", "auto.offset.reset": "earliest", "fetch.wait.max.ms": 50,
    })  # fmt: skip
    reader.assign([TopicPartition(variables["ALIGN_TOPICS__USER_VECTORS"], n, 0) for n in range(NUM_PARTITIONS)])
    read: list[tuple[float, bytes]] = []

    def feed() -> None:
        started = time.monotonic()
        while not stop.wait(TICK_S):
            feeder.feed(int((time.monotonic() - started) * rate) - feeder.num_fed)

    def receive() -> None:
        while not stop.is_set():
            for record in reader.consume(500, 0.05):
                read.append((time.time() * 1000, record.value() or b""))

    def seconds_behind() -> float:
        """Event times run ahead of the clock, one millisecond per event, where there are more of them than that."""
        newest = decode(UserVector, read[-1][1], check_values=False)
        return (feeder.last_ms - newest.event_time_ms) / max(1_000, rate)

    with worker(variables):
        threads = [threading.Thread(target=feed), threading.Thread(target=receive)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: bool(read), 90, "a first vector")
            # What came while the worker started takes seconds to catch up with at half of the full rate.
            wait_until(lambda: seconds_behind() < CAUGHT_UP_S, 90, "a worker that has caught up")
            time.sleep(WARM_UP_S)
            begin_ms = time.time() * 1000
            time.sleep(seconds)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    reader.close()
    feeder.flush()
    delays = first_seen(bed, topic, read, begin_ms)
    found = {f"p{q}_ms": float(np.percentile(delays, q)) for q in (50, 99)} | {"events": len(delays)}
    say(f"  fresh   {delivery:14} {rate:9,.0f}/s p50 {found['p50_ms']:6.1f} ms, p99 {found['p99_ms']:6.1f} ms")
    return found


def first_seen(bed: Bed, topic: str, read: Sequence[tuple[float, bytes]], begin_ms: float) -> list[float]:
    """Of each event since then: how long after its append a reader had a vector that is no older.

    Event times of a user rise in the log, so a vector whose newest event is at T holds all events of the user up to T.
    """
    seen: dict[str, list[tuple[int, float]]] = {}
    for at_ms, value in read:
        vector = decode(UserVector, value, check_values=False)
        seen.setdefault(vector.user_id, []).append((vector.event_time_ms, at_ms))
    delays = []
    for event, appended_ms in appended(bed, topic):
        if appended_ms >= begin_ms:
            later = [at_ms for time_ms, at_ms in seen.get(event.user_id, ()) if time_ms >= event.event_time_ms]
            if later:
                delays.append(later[0] - appended_ms)
    return delays


def appended(bed: Bed, topic: str) -> Iterator[tuple[UserEvent, int]]:
    reader = Consumer({
        "bootstrap.servers": bed.bootstrap_servers, "group.id": uuid.uuid4().hex, "enable.auto.commit": False,
        "auto.offset.reset": "earliest", "enable.partition.eof": True,
    })  # fmt: skip
    reader.assign([TopicPartition(topic, number, 0) for number in range(NUM_PARTITIONS)])
    ended = 0
    while ended < NUM_PARTITIONS:
        for record in reader.consume(1_000, 1.0):
            if record.error():
                ended += 1
            else:
                yield decode(UserEvent, record.value() or b""), record.timestamp()[1]
    reader.close()


if __name__ == "__main__":
    main()
