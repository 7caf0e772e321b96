"""Every kind of fusion, trained alike: what it finds, and what it costs to serve.

    python -m tests.bench.fusions                  # a real catalogue, one vector per modality
    python -m tests.bench.fusions --parts CACHE    # the same films: posters cut into patches, texts into sentences
    python -m tests.bench.fusions --cluttered      # a generated one, several vectors, of which many are clutter

`several` are items with all their vectors, in places that matter where the fusion can tell them; `mean` the same items
with the mean of each modality's vectors for one. In the generated catalogue a modality brings up to six vectors of an
item, and most of them are the same for all items, as captions and logos are: there, to weigh tokens by what they hold
has something to do.

The epoch that is kept is chosen by validation (`val`: the geometric mean of NDCG@20 of known and of withheld items);
the other figures are those of the test. What was encoded for `--parts` is kept in CACHE for the next run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas import Feature
from tests.bench.film_parts import Cutter, missing, text_encoder
from tests.bench.host import host_line
from tests.bench.training import DATA, import_ratings
from worker.align import AlignRuntime, Contract, Space
from worker.align.cores import available_cores
from worker.align.users import NO_ROW
from worker.align.weights import build_model
from worker.data import Dataset, Features, Split, load_dataset, split_by_time
from worker.data.dataset import Bools
from worker.data.load import assemble
from worker.data.withheld import split_dataset
from worker.evaluate.baselines import baselines
from worker.evaluate.baselines.choice import chosen
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.report import table
from worker.evaluate.spaces import embed_items, neighbor_rows, space_score
from worker.synthetic import Audience, Catalogue
from worker.train.run import train
from worker.train.settings import TrainSettings
from worker.train.trainer import EpochReport

KINDS = ("concat_mlp", "concat_mlp+graph", "self_attention", "cross_attention", "gated")
BATCH = 512
HOUR_MS = 3_600_000
CLUTTERED = {"text": 48, "image": 32}


class Watcher:
    """Remembers the epoch that is kept, and how much CPU time each took: other work changes that least."""

    def __init__(self, name: str) -> None:
        self.best: EpochReport | None = None
        self.cpu_s: list[float] = []
        self._name = name
        self._begun = 0.0

    def epoch(self, number: int, num_steps: int) -> Any:
        self._begun = time.process_time()
        return nullcontext(lambda: None)

    def tell(self, report: EpochReport, is_best: bool) -> None:
        self.cpu_s.append(time.process_time() - self._begun)
        if is_best:
            self.best = report
        told = (
            f"{self._name}: epoch {report.epoch}, {report.merit:.4f}{' *' if is_best else ''}, {self.cpu_s[-1]:.1f} s"
        )
        print(told, file=sys.stderr, flush=True)


def real(source: Path, directory: Path) -> tuple[Dataset, Split]:
    import_ratings(source, directory)
    dataset = load_dataset([directory / "items.msgpack"], [directory / "events.msgpack"], {"like": 1.0}).dataset
    return dataset, split_dataset(dataset, directory / "cold_val.txt", directory / "cold_test.txt", 0.1, 0)


def cluttered() -> tuple[Dataset, Split]:
    """2,000 items, 400 users, 40,000 events."""
    catalogue = Catalogue(
        0, modalities=CLUTTERED, missing_share=0.1, max_vectors=dict.fromkeys(CLUTTERED, 6), clutter_share=0.8
    )
    items = list(catalogue.items(2_000))
    audience = Audience(catalogue, 400, seed=0, start_ms=0, drift_ms=10_000 * HOUR_MS)
    events = (event.message() for event in audience.events(items, 40_000, end_ms=1_000 * HOUR_MS))
    dataset = assemble((item.message(1, 0) for item in items), events, {"like": 1.0}).dataset
    return dataset, split_dataset(dataset, None, None, 0.1, 0)


def with_means(dataset: Dataset) -> Dataset:
    """The same items with one vector per modality, the mean of those they had."""
    features = {
        name: Features(
            f"{each.encoder}-mean",
            each.mean_IK()[each.present_I],
            np.concatenate([[0], np.cumsum(each.present_I)]).astype(np.int64),
        )
        for name, each in dataset.features.items()
    }
    return replace(dataset, features=features)


def most_rated(dataset: Dataset, split: Split, among_I: Bools, num: int) -> tuple[Dataset, Split]:
    """The catalogue of those items alone, with the same ones withheld."""
    counts_I = np.bincount(dataset.events.items_E, minlength=dataset.num_items)
    kept = np.sort(np.argsort(np.where(among_I, -counts_I, 1), kind="stable")[:num])
    number_I = np.full(dataset.num_items, -1)
    number_I[kept] = np.arange(len(kept))
    events = dataset.events.where(number_I[dataset.events.items_E] >= 0)
    events = replace(events, items_E=number_I[events.items_E])
    features = {
        name: Features(
            each.encoder,
            np.concatenate([each.vectors_NK[each.starts[item] : each.starts[item + 1]] for item in kept]),
            np.concatenate([[0], np.cumsum(each.counts_I[kept])]).astype(np.int64),
        )
        for name, each in dataset.features.items()
    }
    ids = [dataset.item_ids[item] for item in kept]
    smaller = Dataset(ids, dataset.user_ids, features, events, [()] * len(ids), f"{dataset.fingerprint}-{num}")
    return smaller, split_by_time(events, split.cold_val_I[kept], split.cold_test_I[kept])


def us_per_item(space: Space, dataset: Dataset) -> float:
    """CPU time from features to vectors, in batches, by the code that serves, on one thread. The best of several
    rounds."""
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=BATCH)
    contract, items = Contract(space.spec), []
    for item in range(BATCH):
        features = {}
        for name, each in dataset.features.items():
            start, end = each.starts[item], each.starts[item + 1]
            if start < end:
                features[name] = Feature.from_numpy(each.vectors_NK[start:end], "f2", encoder=each.encoder)
        items.append(contract.check(features))
    runtime.warm_up()
    with_neighbors = neighbor_step(space, dataset)
    rounds = []
    for _ in range(20):
        started = time.process_time()
        with_neighbors(torch.from_numpy(runtime.embed(items).vectors))
        rounds.append(time.process_time() - started)
    return min(rounds) / BATCH * 1e6


def neighbor_step(space: Space, dataset: Dataset) -> Callable[[torch.Tensor], object]:
    """What graph fusion adds for the first items, with the vectors of all at hand; nothing for a space without it."""
    if space.spec.graph is None:
        return lambda vectors_BD: None
    graph = build_model(space.spec, space.weights).graph
    usable_I = torch.ones(dataset.num_items, dtype=torch.bool)
    rows_BN = neighbor_rows(dataset.neighbors[:BATCH], usable_I, space.spec.graph.max_neighbors)
    vectors_ID = torch.nn.functional.normalize(torch.ones(dataset.num_items, space.spec.dim), dim=1)

    @torch.inference_mode()
    def step(vectors_BD: torch.Tensor) -> object:
        return graph(vectors_BD, vectors_ID[rows_BN.clamp(min=0)], rows_BN != NO_ROW)

    return step


def judged(dataset: Dataset, split: Split, settings: TrainSettings, out: Path, threads: int) -> list[str]:
    torch.set_num_threads(threads)  # the code that serves has set its own
    watcher = Watcher(out.name)
    space, learned = train(dataset, split, settings, out, "cpu", watcher)
    whole = replace(dataset, features=learned.features, neighbors=learned.neighbors or dataset.neighbors)
    score = space_score(space, embed_items(AlignRuntime(space, device="cpu", dtype="float32", threads=1), whole))
    assert watcher.best is not None
    return [
        f"{watcher.best.merit:.4f}",
        *figures(split, score),
        f"{us_per_item(space, whole):.1f}",
        f"{watcher.best.epoch}/{len(watcher.cpu_s)}",
        f"{np.mean(watcher.cpu_s):.1f}",
    ]


def figures(split: Split, score: Any) -> list[str]:
    found = []
    for questions in (warm_questions(split, "test"), cold_questions(split, "test")):
        ranking = ask(questions, score)
        found += [f"{ranking.recall(20).mean():.4f}", f"{ranking.ndcg(20).mean():.4f}"]
    return found


def settings_of(kind: str, ordered: Sequence[str], seed: int, epochs: int) -> TrainSettings:
    fusion, _, graph = kind.partition("+")
    return TrainSettings.model_validate(
        {
            "event_weights": {"like": 1.0},
            "fusion": fusion,
            "graph": graph == "graph",
            "ordered": () if fusion == "concat_mlp" else tuple(ordered),
            "seed": seed,
            "epochs": epochs,
        }
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--cluttered", action="store_true")
    source.add_argument("--parts", type=Path, metavar="CACHE")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="where the real catalogue is")
    parser.add_argument(
        "--grid", type=int, default=2, help="patches along each side of a poster (default: %(default)s)"
    )
    parser.add_argument(
        "--text", default=text_encoder(), help="with --parts: encoder of sentences (default: %(default)s)"
    )
    parser.add_argument(
        "--components", type=int, metavar="N", help="with --parts: of each encoder's vectors, keep so many"
    )
    parser.add_argument("--films", type=int, metavar="N", help="the most rated films that have a poster, and no others")
    parser.add_argument("--kinds", default=",".join(KINDS), help="(default: %(default)s)")
    parser.add_argument("--variants", help="several, mean, or both with a comma (default: both)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=available_cores())
    given = parser.parse_args(arguments)
    if not given.cluttered and (problem := missing(given.data, with_parts=given.parts is not None)):
        print(f"cannot run: {problem}", file=sys.stderr)
        return 2
    torch.set_num_threads(given.threads)
    print(host_line(), flush=True)
    header = ["", "val", "warm R@20", "N@20", "cold R@20", "N@20", "us/item", "epoch", "CPU s each"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        variants, split, ordered = catalogue(given, out / "data")
        print("  ".join(header), flush=True)
        for variant, dataset in variants.items():
            for baseline in baselines(["content"], set(dataset.features)):
                found = figures(split, chosen(baseline, dataset, split, 0).score)
                rows.append([" ".join(filter(None, [baseline.name, variant])), "", *found, "", "", ""])
                print("  ".join(rows[-1]), flush=True)
        for kind, (variant, dataset) in product(given.kinds.split(","), variants.items()):
            name = " ".join(filter(None, [kind, variant]))
            settings = settings_of(kind, ordered if variant == "several" else (), given.seed, given.epochs)
            rows.append([name, *judged(dataset, split, settings, out / name.replace(" ", "_"), given.threads)])
            print("  ".join(rows[-1]), flush=True)
    print(table(header, rows))
    return 0


def catalogue(given: argparse.Namespace, directory: Path) -> tuple[dict[str, Dataset], Split, Sequence[str]]:
    """What to learn from, by variant, and the modalities of which the places matter."""
    if given.cluttered:
        dataset, split = cluttered()
    else:
        dataset, split = real(given.data, directory)
        if given.parts is not None:
            cutter = Cutter(given.data, given.parts, grid=given.grid, text=given.text, components=given.components)
            dataset = replace(dataset, features=cutter.features(dataset.item_ids))
        if given.films is not None:
            dataset, split = most_rated(dataset, split, dataset.features["image"].present_I, given.films)
        if given.parts is None:
            return {"": dataset}, split, ()
    every = {"several": dataset, "mean": with_means(dataset)}
    wanted = given.variants.split(",") if given.variants else every
    return {name: every[name] for name in wanted}, split, () if given.cluttered else sorted(dataset.features)


if __name__ == "__main__":
    sys.exit(main())
