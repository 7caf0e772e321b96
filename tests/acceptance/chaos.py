"""The campaign: workers and broker are hurt while items flow, and nothing may be lost or overwritten by older data.

    python -m tests.acceptance.chaos --items 200000 --kills 20 --stops 5 --broker-restarts 3 --joins 5 --seed 1

It starts a real Kafka (KAFKA_HOME) and workers as processes. Between two faults the fleet must recover: every
partition worked on by one member, all that was in the log at the fault committed, and more. In the end `tests.verifier`
judges the topics and the accounts of the living workers. Exit code 0: all rules hold. 1: one is broken, or the fleet
did not recover. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.acceptance.feeder import Feeder, FeedFailedError
from tests.acceptance.fleet import Exit, Fleet
from tests.acceptance.lives import DIMS, Inputs
from tests.brokers import KafkaFailedError, RealKafka, create_topics, find_distribution
from tests.brokers.broker import QUICK_GROUP
from tests.verifier import Rule, Verdict, verify_topics
from tests.verifier.__main__ import table as verdict_table
from tests.worker_process import WorkerProcess, as_text, in_group
from worker.align import command

VERIFIED = {"items": "items", "item_vectors": "item-vectors", "dead_letters": "dead-letters"}
TOPICS = {**VERIFIED, "item_state": "item-state"}
KAFKA = {**QUICK_GROUP, "request_timeout_ms": 2_500}
SESSION_S = KAFKA["session_timeout_ms"] / 1000
RECOVERY_TIMEOUT_S = 120.0
STEP_S = 0.1
MIN_PACE, MAX_PACE = 20.0, 1_500.0
RESERVE = 0.02
"""Share of the inputs that is fed at the lowest pace, so that no fault meets an idle fleet."""
KILL, STOP, RESTART, JOIN, LEAVE = "kill", "stop", "broker restart", "join", "leave"


@dataclass(frozen=True)
class Plan:
    """What is to happen. The order and the moments follow from the seed."""

    items: int = 200_000
    kills: int = 20
    stops: int = 5
    broker_restarts: int = 3
    joins: int = 5
    seed: int = 1
    workers: int = 2
    partitions: int = 6

    def faults(self) -> list[str]:
        """In order. A member that joins leaves again before the next one joins."""
        counts = {KILL: self.kills, STOP: self.stops, RESTART: self.broker_restarts, JOIN: 2 * self.joins}
        shuffled = [fault for fault, count in counts.items() for _ in range(count)]
        Random(self.seed).shuffle(shuffled)
        changes = iter([JOIN, LEAVE] * self.joins)
        return [next(changes) if fault == JOIN else fault for fault in shuffled]


@dataclass(frozen=True)
class Report:
    """What came of it."""

    faults: Mapping[str, int]
    exits: Sequence[Exit]
    verdict: Verdict
    seconds: float

    @property
    def lost(self) -> int:
        """Inputs without an end, and outputs without a beginning."""
        return self.verdict.breaches.get(Rule.ACCOUNTED, 0)

    @property
    def stale(self) -> int:
        """Outputs after a newer one of their key, and keys that end with an old one."""
        return self.verdict.breaches.get(Rule.ORDER, 0) + self.verdict.breaches.get(Rule.FINAL, 0)

    def table(self) -> str:
        counts = self.verdict.counts
        rows: list[tuple[str, object]] = [(fault, count) for fault, count in self.faults.items()]
        rows += [("exits by themselves", len(self.exits)), ("items", counts["inputs"]), ("keys", counts["keys"])]
        rows += [(name, counts[name]) for name in ("published", "superseded", "dead_lettered", "duplicates")]
        rows += [("duplicate dead letters", counts["duplicate_dead_letters"])]
        rows += [("lost", self.lost), ("stale", self.stale), ("seconds", f"{self.seconds:.0f}")]
        return "\n".join(f"{name.replace('_', '-'):<24}{value!s:>10}" for name, value in rows)


class NotRecoveredError(Exception):
    """The fleet did not come back in time."""


def pace(num_left: int, faults_left: int, seconds_per_fault: float) -> float:
    """Inputs per second, so that they last as long as the faults do."""
    return min(MAX_PACE, max(MIN_PACE, num_left / max(1.0, faults_left * seconds_per_fault)))


def unrecovered(statuses: Mapping[str, Mapping[str, Any]], goal: Mapping[int, int], num_partitions: int) -> str | None:
    """What is missing until every partition has one owner who has committed up to the goal; None if nothing is."""
    owners: dict[int, list[str]] = {partition: [] for partition in range(num_partitions)}
    for name, status in statuses.items():
        for held in status["partitions"]:
            owners[held["partition"]].append(name)
            if held["state"] != "running":
                return f"{name} has partition {held['partition']} {held['state']}: {held['detail']}"
            if held["committed"] < goal.get(held["partition"], 0):
                goal_offset = goal[held["partition"]]
                return f"{name} has committed {held['committed']} of {goal_offset} in partition {held['partition']}"
    wrong = {partition: names for partition, names in owners.items() if len(names) != 1}
    return f"owners of partitions {wrong}" if wrong else None


@dataclass
class Campaign:
    """One run: the parts are started, and feed and fleet are running."""

    plan: Plan
    kafka: RealKafka
    fleet: Fleet
    feeder: Feeder
    say: Callable[[str], None]
    random: Random = field(init=False)
    started: float = field(init=False)
    num_done: int = 0

    def __post_init__(self) -> None:
        self.random = Random(self.plan.seed + 1)
        self.started = time.monotonic()
        self._seconds_per_fault = 12.0
        self._actions = {
            KILL: self._kill,
            STOP: self._stop,
            RESTART: self._restart_broker,
            JOIN: self._join,
            LEAVE: self._leave,
        }

    def run(self) -> None:
        """All faults, then quiet until everything is finished."""
        faults = self.plan.faults()
        self._recover("start")
        began = time.monotonic()
        for number, fault in enumerate(faults):
            self._set_pace(len(faults) - number)
            self._pass(self.random.uniform(0.2, 2.0))
            self._actions[fault]()
            self._recover(fault)
            self.num_done = number + 1
            self._seconds_per_fault = (time.monotonic() - began) / self.num_done
        self.feeder.pace = MAX_PACE
        while not self.feeder.is_done:
            self._pass(STEP_S)
        self._recover("the end of the feed")
        self._wait(self._busy, "the end")

    def _set_pace(self, faults_left: int) -> None:
        left = self.plan.items * (1 - RESERVE) - self.feeder.num_fed
        self.feeder.pace = pace(max(0, int(left)), faults_left, self._seconds_per_fault)

    # The faults.

    def _kill(self) -> None:
        member = self.random.choice(self.fleet.members)
        self._log(f"kill {member.name}")
        self.fleet.kill(member)

    def _stop(self) -> None:
        member = self.random.choice(self.fleet.members)
        seconds = SESSION_S + self.random.uniform(1.0, 4.0)
        self._log(f"stop {member.name} for {seconds:.1f} s")
        self.fleet.freeze(member)
        self._pass(seconds)
        self.fleet.thaw(member)

    def _restart_broker(self) -> None:
        brutal = self.random.random() < 0.5
        away_s = self.random.uniform(0.5, 5.0)
        self._log(f"{'kill' if brutal else 'stop'} the broker for {away_s:.1f} s")
        (self.kafka.kill if brutal else self.kafka.stop)()
        self._pass(away_s)
        self.kafka.start()

    def _join(self) -> None:
        self._log(f"{self.fleet.start().name} joins")

    def _leave(self) -> None:
        member = self.random.choice(self.fleet.members)
        self._log(f"{member.name} leaves")
        self.fleet.leave(member)

    # Waiting.

    def _recover(self, after: str) -> None:
        """Wait until the fleet has finished all there was, and in each partition something new."""
        started, ends = time.monotonic(), dict(self.feeder.ends)
        self._wait(lambda: self._unrecovered({p: end + (not self.feeder.is_done) for p, end in ends.items()}), after)
        self._log(f"recovered from {after} after {time.monotonic() - started:.1f} s")

    def _unrecovered(self, goal: Mapping[int, int]) -> str | None:
        statuses = self.fleet.statuses()
        if len(statuses) < len(self.fleet.members):
            return f"{len(self.fleet.members) - len(statuses)} members do not answer"
        joining = [name for name, status in statuses.items() if not status["group_stable"]]
        return f"not in the group: {joining}" if joining else unrecovered(statuses, goal, self.plan.partitions)

    def _busy(self) -> str | None:
        in_flight = {name: status["accounting"]["in_flight"] for name, status in self.fleet.statuses().items()}
        return f"in flight: {in_flight}" if any(in_flight.values()) else None

    def _wait(self, obstacle: Callable[[], str | None], what: str) -> None:
        deadline = time.monotonic() + RECOVERY_TIMEOUT_S
        while (problem := obstacle()) is not None:
            if time.monotonic() > deadline:
                raise NotRecoveredError(f"{what}: after {RECOVERY_TIMEOUT_S:g} s still {problem}")
            self._pass(STEP_S)

    def _pass(self, seconds: float) -> None:
        """Let time pass, and look after the fleet meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.fleet.tend()
            time.sleep(min(left, STEP_S))

    def _log(self, text: str) -> None:
        elapsed = time.monotonic() - self.started
        self.say(f"{elapsed:7.1f} s  {self.feeder.num_fed:>7} fed at {self.feeder.pace:4.0f}/s  {text}")


def run_campaign(plan: Plan, logs: Path, say: Callable[[str], None]) -> Report:
    """Run it with a Kafka of its own. Raises `NotRecoveredError`, `FeedFailedError` or `KafkaFailedError`."""
    started = time.monotonic()
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka(optimizing=True))
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, dict.fromkeys(TOPICS.values(), plan.partitions))
        space_path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-"))) / "space"
        space = command.create(space_path, DIMS, dim=16)
        settings = worker_settings(kafka.bootstrap_servers, space_path)
        fleet = stack.enter_context(Fleet(lambda: WorkerProcess(settings), logs, say))
        for _ in range(plan.workers):
            fleet.start()
        records = Inputs(TOPICS["items"], plan.seed, lambda: time.time_ns() // 1_000_000).records(plan.items)
        feeder = stack.enter_context(Feeder(kafka.bootstrap_servers, records, MIN_PACE))
        Campaign(plan, kafka, fleet, feeder, say).run()
        verdict = verify_topics(
            options,
            **VERIFIED,
            metrics_urls=[member.worker.url("/metrics") for member in fleet.members],
            space_id=space.space_id,
            dims=DIMS,
        )
        for member in list(fleet.members):
            fleet.leave(member)
        return Report(Counter(plan.faults()), fleet.exits, verdict, time.monotonic() - started)


def worker_settings(bootstrap_servers: str, space_path: Path) -> dict[str, str]:
    settings = {
        **in_group("kafka", {**KAFKA, "bootstrap_servers": bootstrap_servers, "group_id": "campaign"}),
        **in_group("topics", TOPICS),
        "space.path": space_path,
        "device": "cpu",
        "dtype": "float32",
        "commit.interval_ms": 200,
    }
    return {name: as_text(value) for name, value in settings.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    given = vars(_parser().parse_args(arguments))
    logs = Path(given.pop("logs") or tempfile.mkdtemp(prefix="chaos-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    if isinstance(reason := find_distribution(), str):
        print(f"cannot run: {reason}", file=sys.stderr)
        return 2
    print(f"logs of the workers: {logs}", flush=True)
    try:
        report = run_campaign(Plan(**given), logs, lambda line: print(line, flush=True))
    except NotRecoveredError as error:
        print(f"not recovered: {error}", file=sys.stderr)
        return 1
    except (FeedFailedError, KafkaFailedError) as error:
        print(f"cannot run: {error}", file=sys.stderr)
        return 2
    print(f"\n{report.table()}\n\n{verdict_table(report.verdict)}")
    print("".join(f"\n{line}" for line in _exits(report.exits)))
    return 0 if report.verdict.ok else 1


def _exits(exits: Iterable[Exit]) -> list[str]:
    return [f"exit: {each}" for each in exits]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default, what in (
        ("items", Plan.items, "inputs to feed"),
        ("kills", Plan.kills, "SIGKILLs of workers"),
        ("stops", Plan.stops, f"SIGSTOPs of workers, each longer than the session of {SESSION_S:g} s"),
        ("broker-restarts", Plan.broker_restarts, "ends of the broker by SIGKILL or SIGTERM"),
        ("joins", Plan.joins, "members that join and leave"),
        ("seed", Plan.seed, "of inputs, order and moments"),
        ("workers", Plan.workers, "members, not counting one that joins"),
        ("partitions", Plan.partitions, "of each topic"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument("--logs", metavar="DIR", help="where the workers' logs are kept (default: a new directory)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
