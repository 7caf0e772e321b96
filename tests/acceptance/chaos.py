"""The campaign: workers and brokers are hurt while items and events flow, and nothing may be lost, overwritten by older
data or, with exactly_once, seen twice.

    python -m tests.acceptance.chaos --delivery exactly_once --nodes 3 --workers 3 --items 300000 --events 1000000 \\
        --kills 20 --restore-kills 6 --stops 8 --joins 5 --leader-kills 7 --coordinator-kills 7 --rolling-restarts 2

With `--as-shipped` the workers have the settings that they come with, and names as in `deploy/base`; without it,
sessions and commits are shorter, so that more faults go into an hour. With `--graph` items have neighbours, which move
them.

It starts a real Kafka (KAFKA_HOME) and workers of both roles as processes. Between two faults the fleet must recover:
every partition worked on by one member, all that was in the log at the fault committed, and more. In the end
`tests.verifier` judges: the topics and the accounts of the living workers by the rules, and the last vectors and states
against a replay of the inputs. Exit code 0: all holds. 1: something is broken, or the fleet did not recover. 2: it
could not be run.
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

from kafka.errors import KafkaError

from tests.acceptance.feeder import Feeder, FeedFailedError
from tests.acceptance.fleet import Exit, Fleet
from tests.acceptance.lives import DIMS, NEIGHBOR_SHARE, PART_SHARE, Events, Inputs
from tests.brokers import KafkaFailedError, RealKafka, create_topics, find_distribution, leaders, library, log_ranges
from tests.brokers.broker import QUICK_GROUP
from tests.verifier import Rule, Verdict, verify_topics
from tests.verifier.__main__ import table as verdict_table
from tests.verifier.finals import FinalVerdict, verify_finals
from tests.worker_process import WorkerProcess, as_text, in_group
from worker.align import Space, command, create_space
from worker.align.spec import GraphSpec, SpaceSpec
from worker.settings import KafkaSettings

VERIFIED = {"items": "items", "item_vectors": "item-vectors", "dead_letters": "dead-letters"}
TOPICS = {
    **VERIFIED,
    "events": "events",
    "user_vectors": "user-vectors",
    "item_state": "item-state",
    "user_state": "user-state",
}
INPUTS = {"items": "items", "users": "events"}
GROUP = "campaign"
NUM_TRANSACTION_PARTITIONS = 4  # of the brokers that `RealKafka` starts
QUIET_LOOKS, QUIET_STEP_S = 3, 1.0
KAFKA = {**QUICK_GROUP, "request_timeout_ms": 2_500}
KAFKA_SESSIONS = {"group.consumer.session.timeout.ms": "45000", "group.consumer.heartbeat.interval.ms": "5000"}
"""Kafka's own, where tests have shorter ones."""
RECOVERY_S = 60.0
"""What a recovery may take beyond the longest rebalance and what is to be worked off."""
SINGLE_BROKER = (
    "exactly_once with faults of brokers needs --nodes 3 (or no such faults: --broker-restarts 0): a single broker "
    "that comes back leaves the transactions open that it had (worker/README.md)"
)
RESTORE_WAIT_S = 20.0
STEP_S = 0.1
MIN_PACE, MAX_PACE = 20.0, 1_500.0
RESERVE = 0.02
"""Share of the inputs that is fed at the lowest pace, so that no fault meets an idle fleet."""
KILL, STOP, RESTART, JOIN, LEAVE = "kill", "stop", "broker restart", "join", "leave"
KILL_RESTORE, KILL_LEADER, KILL_COORDINATOR, ROLL = "restore kill", "leader kill", "coordinator kill", "rolling restart"


@dataclass(frozen=True)
class Plan:
    """What is to happen. The order and the moments follow from the seed."""

    items: int = 200_000
    kills: int = 20
    stops: int = 5
    broker_restarts: int = 3
    joins: int = 5
    restore_kills: int = 0
    leader_kills: int = 0
    coordinator_kills: int = 0
    rolling_restarts: int = 0
    seed: int = 1
    workers: int = 2
    partitions: int = 6
    nodes: int = 1
    events: int = 0
    users: int = 2_000
    delivery: str = "at_least_once"
    as_shipped: bool = False
    graph: bool = False
    client: str = library.LIBRARIES[0]
    group_protocol: str = "classic"

    @property
    def kafka(self) -> KafkaSettings:
        """Of the workers' client."""
        chosen: dict[str, Any] = {"client": self.client, "group_protocol": self.group_protocol}
        return KafkaSettings(**chosen) if self.as_shipped else KafkaSettings(**KAFKA, **chosen)

    @property
    def brokers(self) -> Mapping[str, str]:
        """Properties of the brokers: with the new group protocol it is them who say how long a session is."""
        return KAFKA_SESSIONS if self.as_shipped else {}

    def faults(self) -> list[str]:
        """In order. A member that joins leaves again before the next one joins."""
        counts = {
            KILL: self.kills,
            STOP: self.stops,
            RESTART: self.broker_restarts,
            JOIN: 2 * self.joins,
            KILL_RESTORE: self.restore_kills,
            KILL_LEADER: self.leader_kills,
            KILL_COORDINATOR: self.coordinator_kills,
            ROLL: self.rolling_restarts,
        }
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
    finals: FinalVerdict
    delivery: str
    seconds: float
    feed_errors: Sequence[str] = ()
    """After each of them a new producer fed, and what had no receipt was sent again: it may be in the log twice."""

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.finals.ok and not self.repeated

    @property
    def repeated(self) -> int:
        """What exactly_once must not show twice."""
        counts = self.verdict.counts
        return (counts["duplicates"] + counts["duplicate_dead_letters"]) * (self.delivery == "exactly_once")

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
        rows += [("lost", self.lost), ("stale", self.stale)]
        rows += [(name, count) for name, count in sorted(self.finals.counts.items())]
        rows += [(f"{name} off by up to", f"{worst:.1e}") for name, worst in self.finals.worst.items()]
        rows += [("delivery", self.delivery), ("seconds", f"{self.seconds:.0f}")]
        return "\n".join(f"{name.replace('_', '-'):<28}{value!s:>14}" for name, value in rows)


class NotRecoveredError(Exception):
    """The fleet did not come back in time."""


def hurts_brokers(plan: Plan) -> bool:
    return any((plan.broker_restarts, plan.leader_kills, plan.coordinator_kills, plan.rolling_restarts))


def pace(num_left: int, faults_left: int, seconds_per_fault: float) -> float:
    """Inputs per second, so that they last as long as the faults do."""
    return min(MAX_PACE, max(MIN_PACE, num_left / max(1.0, faults_left * seconds_per_fault)))


def java_hash(text: str) -> int:
    """What the broker takes a transactional id's partition from."""
    value = 0
    for character in text:
        value = (31 * value + ord(character)) & 0xFFFFFFFF
    return value - 2**32 if value >= 2**31 else value


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
    feeders: Mapping[str, Feeder]
    """By role."""
    say: Callable[[str], None]
    random: Random = field(init=False)
    started: float = field(init=False)
    num_done: int = 0
    num_restore_kills: int = 0
    """Successors that were killed while they restored."""
    _outputs: float = -1.0
    _num_quiet: int = 0

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
            KILL_RESTORE: self._kill_restoring,
            KILL_LEADER: self._kill_leader,
            KILL_COORDINATOR: self._kill_coordinator,
            ROLL: self._roll,
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
        for feeder in self.feeders.values():
            feeder.pace = MAX_PACE
        while not self._is_fed():
            self._pass(STEP_S)
        self._recover("the end of the feed")
        self._wait(self._busy, "the end")

    def _set_pace(self, faults_left: int) -> None:
        for role, count in (("items", self.plan.items), ("users", self.plan.events)):
            left = count * (1 - RESERVE) - self.feeders[role].num_fed
            self.feeders[role].pace = pace(max(0, int(left)), faults_left, self._seconds_per_fault)

    def _is_fed(self) -> bool:
        return all(feeder.is_done for feeder in self.feeders.values())

    # The faults.

    def _kill(self) -> None:
        member = self.random.choice(self.fleet.members)
        self._log(f"kill {member.name}")
        self.fleet.kill(member)

    def _stop(self) -> None:
        member = self.random.choice(self.fleet.members)
        seconds = self.plan.kafka.session_timeout_ms / 1000 + self.random.uniform(1.0, 4.0)
        self._log(f"stop {member.name} for {seconds:.1f} s")
        self.fleet.freeze(member)
        self._pass(seconds)
        self.fleet.thaw(member)

    def _restart_broker(self) -> None:
        self._take_away(self.random.randrange(self.plan.nodes), brutal=self.random.random() < 0.5)

    def _take_away(self, node: int, *, brutal: bool, what: str = "broker") -> None:
        away_s = self.random.uniform(0.5, 5.0)
        self._log(f"{'kill' if brutal else 'stop'} {what} {node} for {away_s:.1f} s")
        (self.kafka.kill if brutal else self.kafka.stop)(node)
        self._pass(away_s)
        self.kafka.start(node, wait=False)
        while not self.kafka.is_ready(node):
            self._pass(STEP_S)

    def _kill_leader(self) -> None:
        topic = self.random.choice(sorted(TOPICS.values()))
        self._take_away(self._leader(topic, self.random.randrange(self.plan.partitions)), brutal=True, what="leader")

    def _kill_coordinator(self) -> None:
        """The broker that keeps the transactions of some member; of its consumer group where there are none."""
        role, member = self.random.choice(["", "-users"]), self.random.choice(self.fleet.members)
        topic, name = "__consumer_offsets", GROUP + role
        if self.plan.delivery == "exactly_once":
            topic, name = "__transaction_state", f"{GROUP}{role}-{transaction_id(member.slot)}"
        partition = (java_hash(name) & 0x7FFFFFFF) % NUM_TRANSACTION_PARTITIONS
        self._take_away(self._leader(topic, partition), brutal=True, what="coordinator")

    def _leader(self, topic: str, partition: int) -> int:
        return leaders({"bootstrap_servers": self.kafka.bootstrap_servers}, topic)[partition]

    def _roll(self) -> None:
        for node in range(self.plan.nodes):
            self._take_away(node, brutal=False)

    def _kill_restoring(self) -> None:
        """Twice: the successor dies as soon as it has partitions to restore."""
        member = self.random.choice(self.fleet.members)
        self._log(f"kill {member.name}, and its successor while it restores")
        self.fleet.kill(member)
        deadline = time.monotonic() + RESTORE_WAIT_S
        while time.monotonic() < deadline:
            roles = self.fleet.statuses().get(member.name, ())
            states = {held["state"] for role in roles for held in role["partitions"]}
            if states & {"new", "restoring"} or "running" in states:
                self.num_restore_kills += "restoring" in states
                break
            time.sleep(0.005)
        self.fleet.kill(member)

    def _join(self) -> None:
        self._log(f"{self.fleet.start().name} joins")

    def _leave(self) -> None:
        member = self.random.choice(self.fleet.members)
        self._log(f"{member.name} leaves")
        self.fleet.leave(member)

    # Waiting.

    def _recover(self, after: str) -> None:
        """Wait until the fleet has finished all there was, and in each partition something new."""
        started, ends = time.monotonic(), {role: self._log_ends(topic) for role, topic in INPUTS.items()}

        def goal(role: str) -> dict[int, int]:
            return {partition: end + (not self.feeders[role].is_done) for partition, end in ends[role].items()}

        self._wait(lambda: self._unrecovered({role: goal(role) for role in self.feeders}), after)
        self._log(f"recovered from {after} after {time.monotonic() - started:.1f} s")

    def _log_ends(self, topic: str) -> dict[int, int]:
        """Where the log ends. The feed cannot say: its receipts have been more than there were records, at rest too."""
        options, deadline = {"bootstrap_servers": self.kafka.bootstrap_servers}, time.monotonic() + RECOVERY_S
        while True:
            try:
                return {number: log.end for number, log in log_ranges(options, topic).items()}
            except KafkaError as error:
                if time.monotonic() > deadline:
                    raise NotRecoveredError(f"{topic} cannot be asked for its ends: {error!r}") from error
                self._pass(STEP_S)

    def _unrecovered(self, goals: Mapping[str, Mapping[int, int]]) -> str | None:
        statuses = self.fleet.statuses()
        if len(statuses) < len(self.fleet.members):
            return f"{len(self.fleet.members) - len(statuses)} members do not answer"
        for role, goal in goals.items():
            found = {name: each for name, roles in statuses.items() for each in roles if each["role"] == role}
            joining = [name for name, status in found.items() if not status["group_stable"]]
            if joining or len(found) < len(statuses):
                return f"{role}: not in the group: {joining}"
            if problem := unrecovered(found, goal, self.plan.partitions):
                return f"{role}: {problem}"
        return None

    def _busy(self) -> str | None:
        """Until nothing has been in flight, waiting or recomputed for a while."""
        statuses = [role for roles in self.fleet.statuses().values() for role in roles]
        busy = [role["accounting"]["in_flight"] or role["queue_records"] or role["unacknowledged"] for role in statuses]
        outputs = sum(
            member.worker.metric("align_recomputed_total")
            + member.worker.metric("align_transactions_total", result="committed")
            for member in self.fleet.members
        )
        is_quiet = not any(busy) and outputs == self._outputs
        self._outputs = outputs
        self._num_quiet = self._num_quiet + 1 if is_quiet else 0
        if self._num_quiet < QUIET_LOOKS:
            self._pass(QUIET_STEP_S)
            return f"in work: {busy}"
        return None

    def _wait(self, obstacle: Callable[[], str | None], what: str) -> None:
        timeout_s = 2 * self.plan.kafka.longest_rebalance_s + RECOVERY_S
        deadline = time.monotonic() + timeout_s
        while (problem := obstacle()) is not None:
            if time.monotonic() > deadline:
                raise NotRecoveredError(f"{what}: after {timeout_s:g} s still {problem}")
            self._pass(STEP_S)

    def _pass(self, seconds: float) -> None:
        """Let time pass, and look after the fleet meanwhile."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.fleet.tend()
            time.sleep(min(left, STEP_S))

    def _log(self, text: str) -> None:
        elapsed = time.monotonic() - self.started
        fed = ", ".join(f"{each.num_fed:>7} at {each.pace:4.0f}/s" for each in self.feeders.values())
        self.say(f"{elapsed:7.1f} s  {fed}  {text}")


def run_campaign(plan: Plan, logs: Path, say: Callable[[str], None]) -> Report:
    """Run it with a Kafka of its own. Raises `NotRecoveredError`, `FeedFailedError` or `KafkaFailedError`."""
    started = time.monotonic()
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka(nodes=plan.nodes, optimizing=True, properties=plan.brokers))
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, dict.fromkeys(TOPICS.values(), plan.partitions))
        space_path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="campaign-"))) / "space"
        space = make_space(space_path, graph=plan.graph)
        settings = worker_settings(kafka.bootstrap_servers, space_path, plan)

        def make(slot: int) -> WorkerProcess:
            return WorkerProcess({**settings, **names(slot, as_shipped=plan.as_shipped)})

        fleet = stack.enter_context(Fleet(make, logs, say))
        for _ in range(plan.workers):
            fleet.start()
        inputs = Inputs(
            TOPICS["items"], plan.seed, lambda: time.time_ns() // 1_000_000, part_share=PART_SHARE,
            neighbor_share=NEIGHBOR_SHARE * plan.graph,
        )  # fmt: skip
        events = Events(TOPICS["events"], plan.seed, plan.users, plan.items // 4)
        feeders = {
            role: stack.enter_context(Feeder(kafka.bootstrap_servers, records, MIN_PACE))
            for role, records in (("items", inputs.records(plan.items)), ("users", events.records(plan.events)))
        }
        campaign = Campaign(plan, kafka, fleet, feeders, say)
        campaign.run()
        verdict = verify_topics(
            options,
            **VERIFIED,
            metrics_urls=[member.worker.url("/metrics") for member in fleet.members],
            space_id=space.space_id,
            dims=DIMS,
            ignored_prefix=b"part-",
        )
        for member in list(fleet.members):
            fleet.leave(member)
        say("comparing with a replay of the inputs")
        finals = verify_finals(options, TOPICS, space, strict=plan.delivery == "exactly_once")
        faults = Counter(plan.faults())
        if plan.restore_kills:
            faults["restore kill that hit"] = campaign.num_restore_kills
        errors = [f"{role}: {error}" for role, feeder in feeders.items() for error in feeder.fatal_errors]
        return Report(faults, fleet.exits, verdict, finals, plan.delivery, time.monotonic() - started, errors)


def transaction_id(slot: int) -> str:
    return f"slot-{slot}"


def names(slot: int, *, as_shipped: bool) -> dict[str, str]:
    """Of a process, the same for whoever takes its slot. As shipped they are as in `deploy/base`."""
    if as_shipped:
        return {"kafka.group_instance_id": transaction_id(slot), "kafka.leave_group": "true"}
    return {"transaction.id": transaction_id(slot)}


def make_space(path: Path, *, graph: bool) -> Space:
    """An untrained space; with `graph`, one in which neighbours move an item."""
    if not graph:
        return command.create(path, DIMS, dim=16)
    plain = command.create(path.with_name("plain"), DIMS, dim=16)
    fields = plain.spec.model_dump(include=set(SpaceSpec.model_fields))
    return create_space(
        path, SpaceSpec.model_validate({**fields, "graph": GraphSpec(width=8, max_neighbors=3)}), seed=1
    )


def worker_settings(bootstrap_servers: str, space_path: Path, plan: Plan) -> dict[str, str]:
    quick = {**in_group("kafka", KAFKA), "transaction.timeout_ms": 10_000, "commit.interval_ms": 200}
    settings = {
        **({} if plan.as_shipped else quick),
        **in_group("kafka", {"bootstrap_servers": bootstrap_servers, "group_id": GROUP}),
        **in_group("kafka", {"client": plan.client, "group_protocol": plan.group_protocol}),
        **in_group("topics", TOPICS),
        "roles": "items,users",
        "users.follow_changes": True,
        "graph.follow_changes": plan.graph,
        "delivery": plan.delivery,
        "space.path": space_path,
        "device": "cpu",
        "dtype": "float32",
    }
    return {name: as_text(value) for name, value in settings.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    given = vars(_parser().parse_args(arguments))
    logs = Path(given.pop("logs") or tempfile.mkdtemp(prefix="chaos-logs-"))
    logs.mkdir(parents=True, exist_ok=True)
    plan = Plan(**given)
    if plan.delivery == "exactly_once" and plan.nodes < 3 and hurts_brokers(plan):
        print(SINGLE_BROKER, file=sys.stderr)
        return 2
    if isinstance(reason := find_distribution(), str):
        print(f"cannot run: {reason}", file=sys.stderr)
        return 2
    print(f"logs of the workers: {logs}", flush=True)
    try:
        report = run_campaign(plan, logs, lambda line: print(line, flush=True))
    except NotRecoveredError as error:
        print(f"not recovered: {error}", file=sys.stderr)
        return 1
    except (FeedFailedError, KafkaFailedError) as error:
        print(f"cannot run: {error}", file=sys.stderr)
        return 2
    print(f"\n{report.table()}\n\n{verdict_table(report.verdict)}")
    print(report.finals.explain() or "the last vectors and states are those of a replay")
    print("".join(f"\n{line}" for line in _exits(report.exits)))
    print("".join(f"\nfeed begun anew: {error}" for error in report.feed_errors))
    return 0 if report.ok else 1


def _exits(exits: Iterable[Exit]) -> list[str]:
    return [f"exit: {each}" for each in exits]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default, what in (
        ("items", Plan.items, "messages of items to feed, a third of them in parts"),
        ("events", Plan.events, "events to feed"),
        ("users", Plan.users, "users that they are of"),
        ("kills", Plan.kills, "SIGKILLs of workers"),
        ("stops", Plan.stops, "SIGSTOPs of workers, each longer than a session"),
        ("broker-restarts", Plan.broker_restarts, "ends of the broker by SIGKILL or SIGTERM"),
        ("joins", Plan.joins, "members that join and leave"),
        ("restore-kills", Plan.restore_kills, "SIGKILLs of a worker and then of its successor while it restores"),
        ("leader-kills", Plan.leader_kills, "SIGKILLs of the broker that leads some partition"),
        (
            "coordinator-kills",
            Plan.coordinator_kills,
            "SIGKILLs of the broker that coordinates a member's transactions",
        ),
        ("rolling-restarts", Plan.rolling_restarts, "times that all brokers are stopped, one after the other"),
        ("nodes", Plan.nodes, "brokers; with three of them one may be away without an outage"),
        ("seed", Plan.seed, "of inputs, order and moments"),
        ("workers", Plan.workers, "members, not counting one that joins"),
        ("partitions", Plan.partitions, "of each topic"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    parser.add_argument(
        "--delivery", choices=["at_least_once", "exactly_once"], default=Plan.delivery, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--client", choices=library.LIBRARIES, default=Plan.client, help="client library of the workers"
    )
    parser.add_argument(
        "--group-protocol", choices=("classic", "consumer"), default=Plan.group_protocol, help="how members share"
    )
    parser.add_argument("--as-shipped", action="store_true", help="with the settings that the workers come with")
    parser.add_argument(
        "--graph", action="store_true", help="in a space with graph fusion, with items that name others"
    )
    parser.add_argument("--logs", metavar="DIR", help="where the workers' logs are kept (default: a new directory)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
