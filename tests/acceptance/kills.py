"""What does one killed worker cost the others?

    python -m tests.acceptance.kills [--kills 10] [--workers 3] [--nodes 1] [--delivery exactly_once]
    python -m tests.acceptance.kills --set kafka.session_timeout_ms=45000 --set kafka.remember_member=false

Workers with the settings as shipped, on a real Kafka (KAFKA_HOME), with a steady feed into every partition. Again and
again one of them is ended with SIGKILL and started again after a second, as Kubernetes does with a container. Per kill:

- exits: processes that ended by themselves, which none should;
- foreign: the longest time that a partition which was not the dead one's stood still, in seconds;
- recovery: from the kill until every partition has published an input that came after it.

`--set NAME=VALUE` changes a setting, to see what it is worth. `--pause` is how long a killed worker stays away. Exit
code 0: nobody ended, foreign partitions stood still for 5 s at most, and all worked again within a session and 5 s. 1:
not so. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Message

from schemas import Feature, ItemVector, NewItem, decode, encode
from tests.acceptance.feeder import Feeder
from tests.acceptance.fleet import Fleet
from tests.acceptance.reader import TopicReader
from tests.brokers import Outgoing, RealKafka, create_topics, find_distribution
from tests.worker_process import WorkerProcess, in_group
from worker.align import command
from worker.settings import Settings, load

TOPICS = {name: name.replace("_", "-") for name in ("items", "item_vectors", "item_state", "dead_letters")}
DIMS = {"text": 16}
MAX_FOREIGN_S, MARGIN_S = 5.0, 5.0
STEP_S = 0.1
SETTLE_S = 3.0
"""Watched before each kill and after each recovery."""
START_TIMEOUT_S = 120.0


class Cost(NamedTuple):
    """What one kill has cost. Seconds."""

    exits: int
    foreign_s: float
    recovery_s: float


@dataclass(frozen=True)
class Plan:
    kills: int = 10
    workers: int = 3
    partitions: int = 6
    nodes: int = 1
    rate: float = 20.0
    """Items per second and partition."""
    pause_s: float = 1.0
    delivery: str = "at_least_once"
    seed: int = 1


def steady(num_partitions: int) -> Iterator[Outgoing]:
    """Items for every partition in turn, without an end."""
    vector = Feature.from_numpy(np.arange(DIMS["text"]) / DIMS["text"], encoder="steady")
    for number in itertools.count():
        for partition in range(num_partitions):
            item = NewItem(
                item_id=f"{partition}-{number % 1_000}",
                revision=number + 1,
                event_time_ms=time.time_ns() // 1_000_000,
                features={"text": vector},
            )
            yield Outgoing(TOPICS["items"], item.key, encode(item), partition)


class Arrivals(TopicReader):
    """When vectors came, and when their items had been sent, by partition. Milliseconds since 1970."""

    def __init__(self, bootstrap_servers: str, topic: str, num_partitions: int) -> None:
        super().__init__(bootstrap_servers, topic, num_partitions)
        self.by_partition: dict[int, list[tuple[float, int]]] = {number: [] for number in range(num_partitions)}

    def take(self, record: Message, value: Any, at_ms: float) -> None:
        if value is not None:
            number = record.partition()
            assert number is not None
            self.by_partition[number].append((at_ms, decode(ItemVector, value).event_time_ms))

    def first_after(self, number: int, sent_ms: float) -> float | None:
        """When the first vector came of an item that was sent later than this."""
        return next((at_ms for at_ms, sent in self.by_partition[number] if sent > sent_ms), None)


def longest_gap_s(arrivals: Sequence[tuple[float, int]], begin_ms: float, end_ms: float) -> float:
    """The longest time between two arrivals, or between an edge and the next one, within a stretch of time."""
    times = [begin_ms, *(at_ms for at_ms, _ in arrivals if begin_ms <= at_ms <= end_ms), end_ms]
    return max(after - before for before, after in pairwise(times)) / 1000


class Scene:
    """Fleet, feed and what comes of it."""

    def __init__(self, plan: Plan, fleet: Fleet, arrivals: Arrivals, limit_s: float) -> None:
        """`limit_s`: by when after a kill all must work again; twice that is waited for."""
        self._plan, self._fleet, self._arrivals, self._limit_s = plan, fleet, arrivals, limit_s
        self._random = Random(plan.seed)

    def settle(self) -> None:
        """Wait until every partition has one owner, and vectors come from all of them."""
        began_ms, deadline = time.time() * 1000, time.monotonic() + START_TIMEOUT_S
        while not (self._is_shared_out() and self._works_since(range(self._plan.partitions), began_ms)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the fleet does not come to rest within {START_TIMEOUT_S:g} s")
            self._pass(STEP_S)
        self._pass(SETTLE_S)

    def kill_one(self) -> Cost:
        victim = self._random.choice(self._fleet.members)
        own = {held["partition"] for held in self._fleet.statuses()[victim.name][0]["partitions"]}
        num_exits = len(self._fleet.exits)
        killed_ms = time.time() * 1000
        self._fleet.kill(victim, pause_s=self._plan.pause_s)
        deadline = time.monotonic() + 2 * self._limit_s
        while not self._works_since(range(self._plan.partitions), killed_ms) and time.monotonic() < deadline:
            self._pass(STEP_S)
        firsts = [self._arrivals.first_after(number, killed_ms) for number in range(self._plan.partitions)]
        recovery_s = max(float("inf") if at_ms is None else (at_ms - killed_ms) / 1000 for at_ms in firsts)
        self.settle()
        end_ms = time.time() * 1000
        foreign = [number for number in range(self._plan.partitions) if number not in own]
        gaps = [longest_gap_s(self._arrivals.by_partition[number], killed_ms, end_ms) for number in foreign]
        return Cost(len(self._fleet.exits) - num_exits, max(gaps, default=0.0), recovery_s)

    def _is_shared_out(self) -> bool:
        statuses = self._fleet.statuses()
        held = [each for roles in statuses.values() for each in roles[0]["partitions"] if each["state"] == "running"]
        return len(statuses) == len(self._fleet.members) and sorted(each["partition"] for each in held) == list(
            range(self._plan.partitions)
        )

    def _works_since(self, numbers: Sequence[int], sent_ms: float) -> bool:
        return all(self._arrivals.first_after(number, sent_ms) is not None for number in numbers)

    def _pass(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self._fleet.tend()
            time.sleep(min(left, STEP_S))


def run(plan: Plan, changes: Mapping[str, str], logs: Path, say: Callable[[str], None]) -> tuple[list[Cost], Settings]:
    """The cost of each kill, and the settings that were in force."""
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka(nodes=plan.nodes))
        create_topics({"bootstrap_servers": kafka.bootstrap_servers}, dict.fromkeys(TOPICS.values(), plan.partitions))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-")))
        command.create(directory / "space", DIMS, dim=16)
        given = {
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            **in_group("topics", TOPICS),
            "space.path": str(directory / "space"),
            "delivery": plan.delivery,
            **changes,
        }
        settings = load(given)
        fleet = stack.enter_context(Fleet(lambda slot: WorkerProcess(given), logs, say))
        for _ in range(plan.workers):
            fleet.start()
        servers = kafka.bootstrap_servers
        arrivals = stack.enter_context(Arrivals(servers, TOPICS["item_vectors"], plan.partitions))
        stack.enter_context(Feeder(servers, steady(plan.partitions), plan.rate * plan.partitions))
        scene = Scene(plan, fleet, arrivals, limit_s(settings))
        scene.settle()
        costs = []
        for number in range(1, plan.kills + 1):
            costs.append(scene.kill_one())
            say(row(number, costs[-1]))
        for member in list(fleet.members):
            fleet.leave(member)
        return costs, settings


def limit_s(settings: Settings) -> float:
    """By when after a kill all must work again."""
    return settings.kafka.session_timeout_ms / 1000 + MARGIN_S


def is_borne(cost: Cost, settings: Settings) -> bool:
    """Whether a kill has cost no more than it may."""
    return not cost.exits and cost.foreign_s <= MAX_FOREIGN_S and cost.recovery_s <= limit_s(settings)


def row(name: object, cost: Cost) -> str:
    return f"{name!s:>6} {cost.exits:6d} {cost.foreign_s:9.1f} {cost.recovery_s:9.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=Plan.kills)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--partitions", type=int, default=Plan.partitions)
    parser.add_argument("--nodes", type=int, default=Plan.nodes, help="brokers")
    parser.add_argument("--rate", type=float, default=Plan.rate, help="items per second and partition")
    parser.add_argument("--pause", dest="pause_s", type=float, default=Plan.pause_s, help="seconds until the restart")
    parser.add_argument("--delivery", choices=["at_least_once", "exactly_once"], default=Plan.delivery)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--logs", help="directory for the logs of the workers; default: a new one")
    given = vars(parser.parse_args(arguments))
    changes = dict(each.split("=", 1) for each in given.pop("changes"))
    logs = Path(given.pop("logs") or tempfile.mkdtemp(prefix="kills-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    if isinstance(reason := find_distribution(), str):
        print(f"cannot run: {reason}", file=sys.stderr)
        return 2
    print(f"logs of the workers: {logs}\n  kill  exits   foreign  recovery", flush=True)
    costs, settings = run(Plan(**given), changes, logs, lambda line: print(line, flush=True))
    print(row("worst", Cost(sum(cost.exits for cost in costs), *map(max, list(zip(*costs, strict=True))[1:]))))
    return 0 if all(is_borne(cost, settings) for cost in costs) else 1


if __name__ == "__main__":
    sys.exit(main())
