"""How long do vectors stop when a worker joins or leaves, with each assignor?

    python -m tests.bench.assignor [--rate 400] [--rounds 3] [--json]
    python -m tests.bench.assignor --role users [--users 100000] [--heartbeat-ms 1000]

One worker under a steady stream; a second one joins and, some seconds later, is told to leave (SIGTERM). For each of
the two events: the longest time that any input took around it, and the same for the partition that was hit least.
Rounds alternate between the assignors. The second worker's start competes for the same cores, so with few of them
these are upper bounds; compare the assignors.

With `--role users` the changelog holds a history of 20 events of each user, which whoever gets a partition must restore
before it works there; then one user after the other has one event more.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Message

from tests.bench.delivery import EventFeeder, published_catalogue, users_environment
from tests.bench.host import host_line
from tests.bench.idle import free_port, is_ready
from tests.bench.memory import fill, user_states
from tests.bench.stream import TOPIC, Arrival, Place, Stream
from tests.bench.workload import NUM_PARTITIONS, Bed, open_bed, rounds, wait_until, worker

ASSIGNORS = ("range", "roundrobin", "cooperative-sticky")
HISTORY = 20
WARM_UP_S = 4.0
AFTER_S = 8.0
START_TIMEOUT_S = 60.0


class Pause(NamedTuple):
    """Milliseconds."""

    join_ms: float
    """Longest latency of any partition."""
    join_least_ms: float
    """Longest latency of the partition that was hit least."""
    leave_ms: float
    leave_least_ms: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--role", choices=["items", "users"], default="items")
    parser.add_argument("--users", type=int, default=100_000, help="with a history before it begins")
    parser.add_argument("--rate", type=float, default=400.0, help="items or events per second")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--assignors", default="range,cooperative-sticky", help=f"of {', '.join(ASSIGNORS)}")
    parser.add_argument("--heartbeat-ms", type=int, help="kafka.heartbeat_interval_ms, if not the default")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host, names = host_line(), arguments.assignors.split(",")
    found: dict[str, list[Pause]] = {name: [] for name in names}
    with open_bed(arguments.bootstrap_servers) as bed:
        catalogue = published_catalogue(bed) if arguments.role == "users" else ""
        for _, name in rounds(names, arguments.rounds):
            if arguments.role == "users":
                environment, stream = users_stream(bed, catalogue, name, arguments.rate, arguments.users)
            else:
                environment, stream = items_stream(bed, name, arguments.rate)
            if arguments.heartbeat_ms is not None:
                environment["ALIGN_KAFKA__HEARTBEAT_INTERVAL_MS"] = str(arguments.heartbeat_ms)
            found[name].append(measure_pause(environment, stream))
    medians = {
        name: Pause(*(statistics.median(values) for values in zip(*pauses, strict=True)))
        for name, pauses in found.items()
    }
    if arguments.json:
        everything = {name: [pause._asdict() for pause in pauses] for name, pauses in found.items()}
        print(json.dumps({"host": host, "rounds": everything}))
        return
    print(f"host: {host}")
    print(f"{arguments.rate:g} {arguments.role}/s, median of {arguments.rounds} rounds, longest latency in ms")
    print(f"{'':20} {'join':>8} {'least hit':>10} {'leave':>8} {'least hit':>10}")
    for name, pause in medians.items():
        print(f"{name:20} {pause[0]:8.0f} {pause[1]:10.0f} {pause[2]:8.0f} {pause[3]:10.0f}")


def items_stream(bed: Bed, assignor: str, rate: float) -> tuple[dict[str, str], Stream]:
    """A worker's environment, and a stream through it."""
    topic = f"items-{uuid.uuid4().hex[:8]}"
    bed.create_topics([topic], TOPIC)
    environment = bed.worker_environment(topic, kafka__assignor=assignor)
    return environment, Stream(bed, topic, environment["ALIGN_TOPICS__ITEM_VECTORS"], rate)


def users_stream(bed: Bed, catalogue: str, assignor: str, rate: float, num_users: int) -> tuple[dict[str, str], Stream]:
    """The same for users, who have histories already."""
    topic = f"events-{uuid.uuid4().hex[:8]}"
    bed.create_topics([topic], TOPIC)
    environment = users_environment(bed, topic, catalogue, "at_least_once") | {"ALIGN_KAFKA__ASSIGNOR": assignor}
    fill(bed, environment["ALIGN_TOPICS__USER_STATE"], user_states(num_users, HISTORY))
    feeder = EventFeeder(bed, topic, 0.5, in_turn=True)
    return environment, Stream(bed, topic, environment["ALIGN_TOPICS__USER_VECTORS"], rate, feeder, user_place)


def user_place(record: Message) -> Place:
    """Of the one event of a user: that of user n is record n // NUM_PARTITIONS of partition n % NUM_PARTITIONS."""
    number = int((record.key() or b"").removeprefix(b"user-"))
    return number % NUM_PARTITIONS, number // NUM_PARTITIONS


def measure_pause(environment: Mapping[str, str], stream: Stream) -> Pause:
    with worker(environment), stream:
        wait_until(lambda: stream.num_read > 0, START_TIMEOUT_S, "first vector")
        time.sleep(WARM_UP_S)
        port = free_port()
        started_ms = time.time() * 1000
        with worker({**environment, "ALIGN_HTTP__PORT": str(port)}) as second:
            wait_until(lambda: is_ready(second, port), START_TIMEOUT_S, "second worker ready")
            time.sleep(AFTER_S)
            leaving_ms = time.time() * 1000
        time.sleep(AFTER_S)
    arrivals = stream.arrivals()
    join = longest_by_partition(arrivals, started_ms, leaving_ms)
    leave = longest_by_partition(arrivals, leaving_ms, float("inf"))
    return Pause(max(join), min(join), max(leave), min(leave))


def longest_by_partition(arrivals: Sequence[Arrival], begin_ms: float, end_ms: float) -> list[float]:
    return [
        max(each.append_ms for each in arrivals if each.partition == partition and begin_ms <= each.at_ms < end_ms)
        for partition in range(NUM_PARTITIONS)
    ]


if __name__ == "__main__":
    main()
