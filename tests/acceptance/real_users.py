"""Real users through a real Kafka and the real worker: a film catalogue and all its ratings, in order of event time.

    python -m tests.acceptance.real_users                            # about fifteen minutes, most of it training
    python -m tests.acceptance.real_users --keep DIR                 # what it makes stays, and is used again
    python -m tests.acceptance.real_users --epochs 1 --events 6000   # the oldest events, and their films alone

Needs KAFKA_HOME, and `ratings.csv`, `items.csv` and `features.npz`. The ratings are imported, and a space is trained on
them by `align-worker train`. The worker gets the films and what training has made of behaviour, then the ratings: four
fifths as fast as they go, the rest at a steady pace. A user's ratings are seconds apart in truth and here they are not,
so they would meet in a micro-batch, and only the last would have a vector: `batch.max_records` is 1. `--batch 512`
shows what the default makes of such a hurry. With `--trained-share 0.8` training does not see the newest fifth of the
likes, and their figures are those of a space that has not learned what it is asked.

What is checked: the last vectors and states are those of a replay of the logs, and the books balance
(`tests.verifier`); every user's last vector, and those on the way, are what `worker.evaluate` computes of the same
history. What is measured: latency from the Kafka timestamp of a rating until a reader of the output topic has a vector
that holds it; and how well the next liked film is found by the newest published vector, beside that of a job at
midnight (`tests.acceptance.prequential`).

Exit code 0: all of it holds. 1: not so. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from confluent_kafka import Message

from schemas import ItemVector, NewItem, UserEvent, UserVector, decode, encode
from tests.acceptance.prequential import (
    Evaluator,
    Prequential,
    PublishedUsers,
    ask_both,
    published_items,
    whole_histories,
)
from tests.acceptance.reader import TopicReader
from tests.acceptance.real_catalogue import DATA, NUM_PARTITIONS, UNLIMITED, Phase, feed
from tests.bench.host import host_line
from tests.bench.training import import_ratings, worker
from tests.brokers import Outgoing, RealKafka, create_topics, find_distribution, read_topic
from tests.verifier.finals import FinalVerdict, verify_finals
from tests.verifier.reading import scrape
from tests.verifier.rules import unbalanced
from tests.worker_process import ROOT, WorkerProcess, in_group
from worker.align import AlignRuntime, Space
from worker.align.weights import build_user_model
from worker.data import Dataset, load_dataset, split_by_time
from worker.data.files import read_events, read_items, write_events, write_items
from worker.data.lists import read_ids, read_item_list, write_item_list
from worker.evaluate.baselines import Popularity, known_before
from worker.evaluate.questions import replay_questions
from worker.evaluate.spaces import embed_items

TOPICS = {
    name: name.replace("_", "-")
    for name in ("items", "item_vectors", "item_state", "events", "user_vectors", "user_state", "dead_letters")
}
FILES = ("ratings.csv", "items.csv", "features.npz")
ENCODERS = "text=builtin-text,image=builtin-image"
WORDS = "a spaceship and its crew far from home"
LISTS = ("cold_val", "cold_test")
WEIGHTS = {"like": 1.0}
NEWEST_SHARE = 0.2
"""Of the likes: what training has not seen, and what `align-worker evaluate` replays."""
LIVE_PACE = 200.0
CATCH_UP_S, READER_S = 1_800.0, 60.0
TOLERANCE = 2e-3
"""Of an element of a vector: rounding to float16, of items in the table and of users on the wire."""


@dataclass(frozen=True)
class Plan:
    data: Path
    work: Path
    """Where everything is made; what is there from an earlier run of the same plan is used."""
    delivery: str = "at_least_once"
    batch: int = 1
    epochs: int | None = None
    """None: those of the recipe."""
    num_events: int | None = None
    """The oldest, and their items alone. None: all."""
    trained_share: float = 1.0
    """Of the likes, the oldest: what training may see."""
    threads: int = 1
    raw: bool = False
    """Features are made of titles, overviews and posters by the built-in encoders, so that words can be asked for."""


class Material:
    """The imported files, and the space that is trained on them."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.space_path = plan.work / "space"
        self.parts = plan.work / "parts.msgpack"
        self.titles = plan.work / "titles.csv"
        self._all, self._some = plan.work / "imported", plan.work
        self.items, self.events, self.earlier = (
            plan.work / f"{name}.msgpack" for name in ("items", "events", "earlier")
        )

    def make(self) -> None:
        """Import and train, unless that has been done."""
        if not self._all.exists():
            import_ratings(self._plan.data, self._all)
        if not self.earlier.exists():
            self._choose()
        if not (self.space_path / "space.json").exists() or not self.parts.exists():
            epochs = [] if self._plan.epochs is None else ["--epochs", self._plan.epochs]
            lists = [part for name in LISTS for part in (f"--{name.replace('_', '-')}", self._some / f"{name}.txt")]
            worker(
                "train", self.space_path, "--items", self.items, "--events", self.earlier, *lists, "--event", "like=1",
                "--items-out", self.parts, "--threads", self._plan.threads, *epochs,
            )  # fmt: skip

    def _choose(self) -> None:
        """The events in order of time, those to train on, and the items that go with them."""
        events = sorted(read_events(self._all / "events.msgpack"), key=lambda each: (each.event_time_ms, each.event_id))
        events = events[: self._plan.num_events]
        named = {event.item_id for event in events}
        items = [
            item
            for item in read_items(self._all / "items.msgpack")
            if item.item_id in named or not self._plan.num_events
        ]
        there = {item.item_id for item in items}
        if self._plan.raw:
            self._encode(there)
        else:
            write_items(self.items, items)
        for name in LISTS:
            write_item_list(
                self._some / f"{name}.txt", [each for each in read_ids(self._all / f"{name}.txt") if each in there]
            )
        self.titles.write_bytes((self._all / "titles.csv").read_bytes())
        write_events(self.events, events)
        until_ms = self.trained_until_ms([event.event_time_ms for event in events if event.event_type in WEIGHTS])
        write_events(self.earlier, [event for event in events if event.event_time_ms < until_ms])

    def _encode(self, item_ids: Collection[str]) -> None:
        from tests.acceptance.raw_catalogue import Films  # it needs more than the other material does

        raw = self._some / "raw.msgpack"
        write_items(raw, (item for item in Films(self._plan.data).items() if item.item_id in item_ids))
        worker("encode", raw, self.items, "--encode.encoders", ENCODERS, "--device", "cpu")

    def trained_until_ms(self, likes_ms: Sequence[int]) -> int:
        """Of the likes' times, in order: training sees what is before this."""
        count = len(likes_ms) - round((1 - self._plan.trained_share) * len(likes_ms))
        return likes_ms[count] if count < len(likes_ms) else likes_ms[-1] + 1

    def dataset(self) -> Dataset:
        return load_dataset([self.items, self.parts], [self.events], WEIGHTS).dataset

    def cold(self, dataset: Dataset) -> tuple[Any, Any]:
        val_I, test_I = (read_item_list(self._some / f"{name}.txt", dataset.item_ids) for name in LISTS)
        return val_I, test_I


class Arrival(NamedTuple):
    user_id: str
    event_time_ms: int
    at_ms: float


class Reader(TopicReader):
    """Reads the user vectors as they are written, and notes when."""

    def __init__(self, bootstrap_servers: str) -> None:
        super().__init__(bootstrap_servers, TOPICS["user_vectors"], NUM_PARTITIONS)
        self.arrivals: list[Arrival] = []

    def take(self, record: Message, value: Any, at_ms: float) -> None:
        vector = decode(UserVector, value, check_values=False)
        self.arrivals.append(Arrival(vector.user_id, vector.event_time_ms, at_ms))

    def first_at_ms(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Of each user: event times of the vectors, the greatest so far, and when they were read."""
        of_user: dict[str, list[Arrival]] = {}
        for arrival in self.arrivals:
            of_user.setdefault(arrival.user_id, []).append(arrival)
        return {
            user_id: (
                np.maximum.accumulate([each.event_time_ms for each in found]),
                np.array([each.at_ms for each in found]),
            )
            for user_id, found in of_user.items()
        }


@dataclass(frozen=True)
class Report:
    """What came of a run."""

    plan: Plan
    space_id: str
    num_items: int
    num_parts: int
    num_events: int
    catalogue_s: float
    phases: Sequence[Phase]
    finals: FinalVerdict
    unbalanced: Sequence[str]
    num_letters: int
    num_users: int
    worst_item: float
    """Largest difference of an element between a published item vector and the evaluator's."""
    worst_user: Mapping[str, float]
    """The same of users' last vectors, by whose item vectors the evaluator has pooled."""
    num_asked: int
    num_behind: int
    """Liked events that found a vector other than that of all events before them."""
    prequential: Prequential

    @property
    def breaches(self) -> list[str]:
        """What does not hold, in words."""
        found = [self.finals.explain()] * (not self.finals.ok) + [*self.unbalanced]
        if self.num_letters:
            found.append(f"{self.num_letters} dead letters")
        worst = {"item vectors": self.worst_item, **{f"users of {name}": off for name, off in self.worst_user.items()}}
        found += [
            f"{name} are off by up to {off:.4f}, tolerance {TOLERANCE}"
            for name, off in worst.items()
            if not off < TOLERANCE
        ]
        if self.plan.batch == 1 and self.num_behind:
            found.append(f"{self.num_behind} events found a vector that is not that of all events before")
        return found

    def __str__(self) -> str:
        worst = ", ".join(f"{off:.1e} from {name}" for name, off in self.worst_user.items())
        share = 1 - self.num_behind / max(1, self.num_asked)
        return "\n".join(
            [
                f"{self.num_items} items and {self.num_parts} parts in {self.catalogue_s:.0f} s, start included; "
                f"{self.num_events} events; space {self.space_id}, {self.plan.delivery}, batch.max_records "
                f"{self.plan.batch}",
                *map(str, self.phases),
                f"{self.num_users} users: last vectors differ from the evaluator's by up to {worst}; items by up to "
                f"{self.worst_item:.1e} (tolerance {TOLERANCE})",
                f"answered by the vector of all events before: {share:.2%} of {self.num_asked} liked events",
                *self.prequential.lines(),
                *(self.breaches or ["the last vectors and states are those of a replay, and the books balance"]),
            ]
        )


def run_users(plan: Plan) -> Report:
    """All of it, on a Kafka of its own."""
    material = Material(plan)
    material.make()
    space = Space.load(material.space_path)
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka(optimizing=plan.num_events is None))
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, dict.fromkeys(TOPICS.values(), NUM_PARTITIONS))
        settings = {
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            "space.path": str(material.space_path),
            "roles": "items,users",
            "delivery": plan.delivery,
            "dtype": "float32",
            "publish.modality_vectors": "true",
            **in_group("topics", TOPICS),
        }
        catalogue_s, num_parts = feed_catalogue(kafka.bootstrap_servers, settings, material)
        live = {**settings, "batch.max_records": plan.batch}
        process = stack.enter_context(WorkerProcess(live)).wait_ready()
        reader = stack.enter_context(Reader(kafka.bootstrap_servers))
        phases = feed_events(kafka.bootstrap_servers, process, reader, material)
        accounts = scrape(process.url("/metrics"))
        books = [line for name in ("items", "events") for line in unbalanced(accounts, TOPICS[name])]
        finals = verify_finals(options, TOPICS, space, strict=plan.delivery == "exactly_once")
        show_recommendations(kafka.bootstrap_servers, material, plan.work / "published", raw=plan.raw)
        items = {
            record.key.decode(): decode(ItemVector, record.value)
            for record in read_topic(options, TOPICS["item_vectors"])
            if record.value is not None
        }
        users = [decode(UserVector, record.value) for record in read_topic(options, TOPICS["user_vectors"])]
        num_letters = sum(1 for _ in read_topic(options, TOPICS["dead_letters"]))
    return judged(
        material, space, items, users,
        plan=plan, space_id=space.space_id, num_items=len(items), num_parts=num_parts, catalogue_s=catalogue_s,
        num_events=sum(phase.num_inputs for phase in phases), phases=phases, finals=finals, unbalanced=books,
        num_letters=num_letters,
    )  # fmt: skip


def feed_catalogue(servers: str, settings: Mapping[str, Any], material: Material) -> tuple[float, int]:
    """Items, then what training has made of their behaviour, done before any event. Returns seconds and parts."""
    parts = [encoded("items", item) for item in read_items(material.parts)]
    records = [*(encoded("items", item) for item in read_items(material.items)), *parts]
    feed(servers, iter(records), UNLIMITED)
    started = time.monotonic()
    with WorkerProcess(settings, command=("run", "--until-caught-up")) as process:
        code = process.wait(CATCH_UP_S)
        if code:
            raise RuntimeError(f"the worker ended with {code} over the catalogue\n{process.log_tail()}")
    return time.monotonic() - started, len(parts)


def encoded(name: str, message: NewItem | UserEvent) -> Outgoing:
    return Outgoing(TOPICS[name], message.key, encode(message))


def feed_events(servers: str, process: WorkerProcess, reader: Reader, material: Material) -> list[Phase]:
    """Most as fast as they go, the newest at a pace; waits until the reader has what comes of them."""
    events = list(read_events(material.events))
    records = iter([encoded("events", event) for event in events])
    num_load = len(events) - round(NEWEST_SHARE * len(events))
    feeders = []
    for count, pace in ((num_load, UNLIMITED), (len(events) - num_load, LIVE_PACE)):
        num_before = process.metric("align_records_consumed_total")
        feeders.append(feed(servers, islice(records, count), pace))

        def is_finished(num_due: float = num_before + count) -> bool:
            num_consumed = process.metric("align_records_consumed_total")
            return num_consumed >= num_due and not process.metric("align_records_in_flight")

        process.wait_until(is_finished, CATCH_UP_S, "done with the feed")
    likes = [
        (decode(UserEvent, record.value), (record.partition, record.offset))
        for record in read_topic({"bootstrap_servers": servers}, TOPICS["events"])
    ]
    likes = [(event, place) for event, place in likes if event.event_type in WEIGHTS]
    newest = {event.user_id: event.event_time_ms for event, _ in likes}  # each user's lie in order
    deadline = time.monotonic() + READER_S
    while not has_read(reader, newest):
        if time.monotonic() > deadline:
            raise TimeoutError("a reader has not found the newest vector of every user")
        time.sleep(0.2)
    return [phase(name, feeder, likes, reader) for name, feeder in zip(("load", "live"), feeders, strict=True)]


def has_read(reader: Reader, newest: Mapping[str, int]) -> bool:
    """Whether it has a vector of every user that is as new as the user's last like."""
    of_user = reader.first_at_ms()
    return all(user in of_user and of_user[user][0][-1] >= time_ms for user, time_ms in newest.items())


def phase(name: str, feeder: Any, likes: Sequence[tuple[UserEvent, tuple[int, int]]], reader: Reader) -> Phase:
    """When the first vector that holds each like of this stretch was in a reader's hand."""
    of_user = reader.first_at_ms()
    read_ms, waited_ms = [], []
    for event, place in likes:
        if place in feeder.timestamps:
            times_ms, at_ms = of_user[event.user_id]
            read_ms.append(at_ms[np.searchsorted(times_ms, event.event_time_ms)])
            waited_ms.append(read_ms[-1] - feeder.timestamps[place])
    seconds = (max(read_ms) - min(feeder.timestamps.values())) / 1000
    return Phase(name, feeder.num_fed, seconds, np.array(waited_ms))


def show_recommendations(servers: str, material: Material, saved: Path, *, raw: bool) -> None:
    """What the published vectors say, by the command for people; they are kept for questions of one's own."""
    likes = [event for event in read_events(material.events) if event.event_type in WEIGHTS]
    film = likes[-1].item_id
    topics = [part for name in ("item_vectors", "user_vectors", "events") for part in
              (f"--topics.{name}", TOPICS[name])]  # fmt: skip
    align_worker("recommend", "--save", str(saved), "--kafka.bootstrap_servers", servers, *topics)
    files = [part for name in ("item-vectors", "user-vectors", "events") for part in
             (f"--{name}", str(saved / f"{name}.msgpack"))]  # fmt: skip
    asked = [["--user", likes[-1].user_id, "--like", film], ["--like", film, "--by", "text", "--among", "image"]]
    if raw:
        encoding = ["--space.path", str(material.space_path), "--encode.encoders", ENCODERS]
        asked += [["--text", WORDS, *encoding], ["--text", WORDS, "--among", "image", *encoding]]
    for questions in asked:
        questions += ["--count", "5", "--titles", str(material.titles)]
        shown = " ".join(f"'{part}'" if " " in part else part for part in questions)
        print(f"$ align-worker recommend {shown.replace(f'{material.titles.parent}/', '')}")
        print(align_worker("recommend", *questions, *files), flush=True)


def align_worker(*arguments: str) -> str:
    """What the command prints. Raises `RuntimeError` with what it says of a failure."""
    command = [sys.executable, "-m", "worker", *arguments]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"align-worker {arguments[0]} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout


def judged(
    material: Material, space: Space, items: Mapping[str, ItemVector], users: Sequence[UserVector], **known: Any
) -> Report:
    """The published vectors beside the evaluator's, and put to every liked event."""
    dataset, plan = material.dataset(), known["plan"]
    nothing_I = np.zeros(dataset.num_items, bool)
    split = split_by_time(dataset.events, nothing_I, nothing_I)
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=plan.threads)
    own, of_log = embed_items(runtime, dataset), published_items(items, dataset, space.spec.dim)
    user = space.spec.user
    assert user is not None
    model = build_user_model(space.spec, space.weights)
    evaluators = {
        "published items": Evaluator(model, user.last, of_log),
        "its own items": Evaluator(model, user.last, own),
    }
    # What the fallback knows is what the space does: the events of training.
    until_ms = material.trained_until_ms(dataset.events.where(dataset.events.weights_E > 0).times_ms_E.tolist())
    cold = material.cold(dataset)
    trained = split_by_time(dataset.events.where(dataset.events.times_ms_E < until_ms), *cold)
    by_popularity = Popularity().fit(known_before(dataset, trained, "test"), 0, {})
    questions = replay_questions(split, 1.0)
    whole = whole_histories(questions)
    published = PublishedUsers(users, dataset, questions.line, space.spec.dim)
    of_command = split_by_time(dataset.events, *cold)
    prequential = ask_both(
        split, published, of_log, evaluators["its own items"], by_popularity, NEWEST_SHARE, of_command
    )
    off_Q = evaluators["published items"].off_by(published, questions)
    return Report(
        **known,
        num_users=len({each.user_id for each in users}),
        worst_item=float((own.vectors_ID - of_log.vectors_ID).abs().max()),
        worst_user={name: float(each.off_by(published, whole).max()) for name, each in evaluators.items()},
        num_asked=len(questions),
        num_behind=int((off_Q >= TOLERANCE).sum()),
        prequential=prequential,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.real_users",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help=f"where {', '.join(FILES)} are")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make everything there, and use what is there already")
    parser.add_argument("--delivery", choices=["at_least_once", "exactly_once"], default="at_least_once")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="batch.max_records (default: %(default)s)")
    parser.add_argument("--epochs", type=int, metavar="N", help="of training, at most")
    parser.add_argument("--events", type=int, metavar="N", help="the oldest N, and their items alone")
    parser.add_argument(
        "--trained-share", type=float, default=1.0, metavar="SHARE",
        help="of the likes, the oldest, that training may see; 0.8 leaves it ignorant of those that are asked about "
        "first (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of training (default: %(default)s)")
    parser.add_argument(
        "--raw", action="store_true", help="encode titles, overviews and posters here, instead of features.npz"
    )
    given = parser.parse_args(arguments)
    missing = [name for name in FILES if not (given.data / name).is_file()]
    for reason in (f"no {missing[0]} in {given.data}" if missing else None, find_distribution()):
        if isinstance(reason, str):
            print(f"cannot run: {reason}", file=sys.stderr)
            return 2
    print(host_line(), flush=True)
    with ExitStack() as stack:
        work = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="real-users-")))
        work.mkdir(parents=True, exist_ok=True)
        report = run_users(
            Plan(given.data, work.resolve(), given.delivery, given.batch, given.epochs, given.events,
                 given.trained_share, given.threads, given.raw)
        )  # fmt: skip
    print(report)
    return 1 if report.breaches else 0


if __name__ == "__main__":
    sys.exit(main())
