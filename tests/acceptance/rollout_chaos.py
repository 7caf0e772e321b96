"""Is anything lost, stale or mixed while a catalogue and its users move to another space, and workers and brokers die?

    python -m tests.acceptance.rollout_chaos [--items 20000] [--users 2000] [--kills 4] [--broker-restarts 1]
        [--workers 2] [--rate 100] [--backfill-rate 500] [--delivery exactly_once] [--calm]

Items and events are fed at a steady rate all the time. A rollout is begun, workers are ended with SIGKILL and the
broker restarted while it fills the next space, readers are sent over, back and over again. In the end both spaces must
hold what an offline replay of the logs leads to; with `exactly_once` no output of an item may follow on a newer one or
be there twice. `--calm` leaves the faults out, so that the latency of the live space before and during the rollout can
be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from kafka.errors import KafkaError

from schemas import ItemVector, UserVector, decode_vector
from tests.acceptance.fleet import Fleet
from tests.brokers import RealKafka, read_topic
from tests.brokers.broker import real
from tests.conftest import TOPICS
from tests.integration.rollout import TOLERANCE, Rollout
from tests.integration.stream import DIMS, SPACE_DIM, Stream, names
from tests.integration.user_stream import UserStream
from tests.worker_process import WorkerProcess
from worker.align import Space, command
from worker.errors import WorkerError
from worker.item_vectors.source_offset import of_deletion

PATIENCE_S = 900.0
FEED_STEP_S = 0.1
ROLLBACK_STEP_S = 0.02


@dataclass(frozen=True, slots=True)
class Plan:
    items: int = 20_000
    users: int = 2_000
    workers: int = 2
    kills: int = 4
    broker_restarts: int = 1
    rate: float = 100.0
    """Items changed per second, and as many events."""
    backfill_rate: float = 500.0
    delivery: str = "at_least_once"
    partitions: int = 4
    seed: int = 1
    phase_s: float = 15.0
    """How long the stream flows before the rollout; a third of it between the steps of the readers."""


@dataclass
class Report:
    num_inputs: int = 0
    lost: int = 0
    """Keys of a space that lack a vector, or have one too much."""
    wrong: int = 0
    """Keys with another vector than the replay's."""
    stale: int = 0
    """Outputs of an item that follow on newer ones."""
    twice: int = 0
    """Outputs of an item and an input that were there already."""
    mixed: int = 0
    """Vectors of another space than their topic's."""
    exits: list[str] = field(default_factory=list)
    backfill_s: float = 0.0
    rollback_s: float = 0.0
    latency_ms: dict[str, tuple[float, float]] = field(default_factory=dict)
    """p50 and p99 of the live space, from append to append, by phase."""

    def text(self) -> str:
        latencies = "; ".join(
            f"{name}: p50 {p50:.0f}, p99 {p99:.0f} ms" for name, (p50, p99) in self.latency_ms.items()
        )
        return (
            f"{self.num_inputs} inputs: {self.lost} lost, {self.wrong} wrong, {self.stale} stale, {self.twice} twice, "
            f"{self.mixed} mixed; filled in {self.backfill_s:.1f} s, rolled back in {self.rollback_s:.2f} s; "
            f"{latencies}; {len(self.exits)} workers ended by themselves"
        )


def run(plan: Plan, folder: Path, say: Callable[[str], None]) -> Report:
    """Raises `AssertionError` where something does not come to its end."""
    spaces = []
    for seed, name in enumerate(("live", "next")):
        command.create(folder / name, DIMS, dim=SPACE_DIM, seed=seed)
        spaces.append(folder / name)
    run_id = uuid.uuid4().hex[:8]
    topics = {name: f"{name.replace('_', '-')}-{run_id}" for name in TOPICS}
    with RealKafka() as kafka:
        broker = real(kafka.bootstrap_servers)
        stream = Stream(broker, topics, Space.load(spaces[0]), str(spaces[0]), plan.partitions)
        stream.create_topics()
        users = UserStream(stream, plan.partitions)
        users.create_topics()
        campaign = Campaign(plan, kafka, stream, users, Rollout(stream, spaces[1], "items,users"), folder, say)
        try:
            return campaign.run()
        finally:
            stream.close()


class Campaign:
    def __init__(
        self, plan: Plan, kafka: RealKafka, stream: Stream, users: UserStream, rollout: Rollout, folder: Path,
        say: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._plan, self._kafka, self._stream, self._users, self._rollout = plan, kafka, stream, users, rollout
        self._folder, self._say = folder, say
        self._dice = random.Random(plan.seed)
        self._catalogue = list(names(plan.items))
        self._revisions: Counter[str] = Counter()
        self._deleted: set[str] = set()
        self._report = Report()
        self._phases: list[tuple[str, float]] = []
        self._stop = threading.Event()

    def run(self) -> Report:
        plan = self._plan
        self._stream.feed(self._changed(name) for name in self._catalogue)
        self._users.feed(
            self._users.event(f"u{number % plan.users}", self._dice.choice(self._catalogue), number)
            for number in range(plan.users * 5)
        )
        with Fleet(self._worker, self._folder, self._say) as fleet:
            for _ in range(plan.workers):
                fleet.start()
            self._wait_committed(fleet)
            self._say("caught up")
            feeder = threading.Thread(target=self._feed)
            feeder.start()
            try:
                self._phase("before")
                self._tend(fleet, plan.phase_s)
                self._phase("rollout")
                started = time.monotonic()
                self._rollout.begin()
                self._hurt(fleet)
                self._until(fleet, self._rollout.is_complete, "complete")
                self._report.backfill_s = time.monotonic() - started
                self._say(f"complete after {self._report.backfill_s:.1f} s")
                self._phase("both")
                self._rollout.cut_over()
                self._tend(fleet, plan.phase_s / 3)
                self._report.rollback_s = self._timed_rollback()
                self._tend(fleet, plan.phase_s / 3)
                self._rollout.cut_over()
                self._phase("end")
            finally:
                self._stop.set()
                feeder.join()
            self._wait_committed(fleet)
            self._until(fleet, self._is_quiet, "quiet")
            self._report.exits = [str(each) for each in fleet.exits]
        self._judge()
        return self._report

    def _worker(self, slot: int) -> WorkerProcess:
        plan = self._plan
        changes = {
            "delivery": plan.delivery,
            "kafka.group_instance_id": f"member-{slot}",
            "transaction.id": f"member-{slot}",
            "rollout.backfill_rate": plan.backfill_rate,
            "users.follow_changes": True,
            "users.table_dtype": "float32",
        }
        return WorkerProcess(self._users.settings("items,users", changes))

    # ------------------------------------------------------------------ what goes in

    def _changed(self, name: str) -> Any:
        self._revisions[name] += 1
        self._deleted.discard(name)
        return self._stream.upsert(name, self._revisions[name])

    def _feed(self) -> None:
        num_events, per_step = 0, max(1, round(self._plan.rate * FEED_STEP_S))
        while not self._stop.wait(FEED_STEP_S):
            with contextlib.suppress(KafkaError, OSError):  # the log says what has arrived of it
                chosen = self._dice.sample(self._catalogue, min(per_step, len(self._catalogue)))
                self._stream.feed(self._changed(name) for name in chosen)
                num_events += per_step
                self._users.feed(
                    self._users.event(
                        f"u{self._dice.randrange(self._plan.users)}", self._dice.choice(self._catalogue),
                        10**7 + num_events + number, event_id=f"live-{num_events}-{number}",
                    )
                    for number in range(per_step)
                )  # fmt: skip

    # ------------------------------------------------------------------ what happens

    def _hurt(self, fleet: Fleet) -> None:
        faults = ["kill"] * self._plan.kills + ["broker restart"] * self._plan.broker_restarts
        self._dice.shuffle(faults)
        for fault in faults:
            self._tend(fleet, self._plan.phase_s * (0.2 + 0.3 * self._dice.random()))
            self._say(fault)
            if fault == "kill":
                fleet.kill(self._dice.choice(fleet.members), pause_s=0.5)
            else:
                self._kafka.kill()
                self._kafka.start()

    def _timed_rollback(self) -> float:
        """Until a reader that follows the control topic knows of it."""
        started = time.monotonic()
        self._rollout.roll_back()
        while self._rollout.report().standing.plan.readers.space_id != self._stream.space.space_id:  # type: ignore[union-attr]
            time.sleep(ROLLBACK_STEP_S)
        return time.monotonic() - started

    def _phase(self, name: str) -> None:
        self._phases.append((name, time.time() * 1000))

    def _tend(self, fleet: Fleet, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            fleet.tend()
            time.sleep(0.1)

    def _until(self, fleet: Fleet, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not self._holds(condition):
            assert time.monotonic() < deadline, f"not {what}: {self._rollout.report()} {fleet.statuses()}"
            self._tend(fleet, 1.0)

    @staticmethod
    def _holds(condition: Callable[[], bool]) -> bool:
        with contextlib.suppress(WorkerError, KafkaError):  # a broker that is down answers later
            return condition()
        return False

    def _wait_committed(self, fleet: Fleet) -> None:
        ends = self._stream.ends()
        self._until(fleet, lambda: self._stream.is_committed(ends), "committed")
        self._users.wait_committed(timeout=PATIENCE_S)

    def _is_quiet(self) -> bool:
        """Nothing has been published for a while."""
        before = self._num_outputs()
        time.sleep(3.0)
        return self._num_outputs() == before

    def _num_outputs(self) -> int:
        topics = (self._stream.vectors, self._rollout.vectors, self._users.vectors, self._rollout.user_vectors)
        return sum(sum(1 for _ in read_topic(self._stream.broker.options, topic)) for topic in topics)

    # ------------------------------------------------------------------ what has come out

    def _judge(self) -> None:
        stream, rollout, report = self._stream, self._rollout, self._report
        inputs = {(each.partition, each.offset): each.timestamp for each in stream.input_records()}
        report.num_inputs = len(inputs)
        for topic, user_topic, space in (
            (stream.vectors, self._users.vectors, stream.space),
            (rollout.vectors, rollout.user_vectors, rollout.space),
        ):
            replay = rollout.replay(space)
            self._judge_items(topic, space, inputs if space is stream.space else {})
            self._compare(self._last(topic, space, ItemVector), replay.items)
            self._compare(self._last(user_topic, space, UserVector), replay.users())

    def _last(self, topic: str, space: Space, kind: Any) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for record in read_topic(self._stream.broker.options, topic):
            if record.value is None:
                found.pop(record.key.decode(), None)
                continue
            vector = decode_vector(kind, record.value)
            self._report.mixed += vector.space_id != space.space_id
            found[record.key.decode()] = vector.vector.to_numpy().astype(np.float32)
        return found

    def _judge_items(self, topic: str, space: Space, inputs: dict[tuple[int, int], int]) -> None:
        newest: dict[bytes, int] = {}
        seen: set[tuple[bytes, int]] = set()
        waited: dict[str, list[float]] = {}
        for record in read_topic(self._stream.broker.options, topic):
            at = of_deletion(record) if record.value is None else decode_vector(ItemVector, record.value).source_offset
            assert at is not None
            self._report.stale += at < newest.get(record.key, -1) and self._plan.delivery == "exactly_once"
            self._report.twice += (record.key, at) in seen
            seen.add((record.key, at))
            newest[record.key] = max(at, newest.get(record.key, -1))
            appended = inputs.get((record.partition, at))
            if appended is not None:
                begun = ["", *(name for name, began_at in self._phases if began_at <= appended)]
                waited.setdefault(begun[-1], []).append(record.timestamp - appended)
        for phase, each in waited.items():
            if phase in ("before", "rollout", "both"):
                p50, p99 = np.quantile(each, [0.5, 0.99])
                self._report.latency_ms[phase] = float(p50), float(p99)

    def _compare(self, found: dict[str, Any], expected: dict[str, Any]) -> None:
        self._report.lost += len(found.keys() ^ expected.keys())
        for key in found.keys() & expected.keys():
            self._report.wrong += float(np.abs(found[key] - expected[key]).max()) > TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Plan()
    for name in Plan.__slots__:
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--calm", action="store_true")
    given = vars(parser.parse_args())
    if given.pop("calm"):
        given |= {"kills": 0, "broker_restarts": 0}
    with tempfile.TemporaryDirectory(prefix="align-rollout-") as folder:
        report = run(Plan(**given), Path(folder), lambda line: print(line, flush=True))
    print(report.text())
    plan = Plan(**given)
    is_bad = report.lost or report.wrong or report.mixed or report.stale
    sys.exit(bool(is_bad or (plan.delivery == "exactly_once" and report.twice)))


if __name__ == "__main__":
    main()
