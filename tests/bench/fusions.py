"""Every kind of fusion, trained alike: what it finds, and what it costs to serve.

    python -m tests.bench.fusions                  # a real catalogue, one vector per modality
    python -m tests.bench.fusions --cluttered      # a generated one, several vectors, of which many are clutter

In the generated catalogue a modality brings up to six vectors of an item, and most of them are the same for all items,
as captions and logos are: there, to weigh tokens by what they hold has something to do. `mean` are the same items with
the mean of each modality's vectors for one.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from schemas import Feature
from tests.bench.host import host_line
from tests.bench.training import DATA, import_ratings
from worker.align import AlignRuntime, Contract, Space
from worker.align.cores import available_cores
from worker.data import Dataset, Features, Split, load_dataset
from worker.data.load import assemble
from worker.data.withheld import split_dataset
from worker.evaluate.baselines import baselines
from worker.evaluate.baselines.choice import chosen
from worker.evaluate.questions import ask, cold_questions, warm_questions
from worker.evaluate.report import table
from worker.evaluate.spaces import embed_items, space_score
from worker.synthetic import Audience, Catalogue
from worker.train.run import train
from worker.train.settings import TrainSettings

KINDS = ("concat_mlp", "self_attention", "cross_attention", "gated")
BATCH = 512
HOUR_MS = 3_600_000
CLUTTERED = {"text": 48, "image": 32}


class Watcher:
    def epoch(self, number: int, num_steps: int) -> Any:
        return nullcontext(lambda: None)

    def tell(self, report: Any, is_best: bool) -> None:
        pass


def real(directory: Path) -> tuple[Dataset, Split]:
    import_ratings(DATA, directory)
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


def us_per_item(space: Space, dataset: Dataset) -> float:
    """From features to vectors, in batches, by the code that serves. The best of several rounds."""
    runtime = AlignRuntime(space, device="cpu", dtype="float32", max_batch=BATCH)
    contract, items = Contract(space.spec), []
    for item in range(BATCH):
        features = {}
        for name, each in dataset.features.items():
            start, end = each.starts[item], each.starts[item + 1]
            if start < end:
                features[name] = Feature.from_numpy(each.vectors_NK[start:end], "f2", encoder=each.encoder)
        items.append(contract.check(features))
    runtime.warm_up()
    rounds = []
    for _ in range(20):
        started = time.perf_counter()
        runtime.embed(items)
        rounds.append(time.perf_counter() - started)
    return min(rounds) / BATCH * 1e6


def judged(dataset: Dataset, split: Split, settings: TrainSettings, out: Path) -> list[str]:
    started = time.monotonic()
    space, learned = train(dataset, split, settings, out, "cpu", Watcher())
    seconds = time.monotonic() - started
    whole = replace(dataset, features=learned.features, neighbors=learned.neighbors or dataset.neighbors)
    score = space_score(space, embed_items(AlignRuntime(space, device="cpu", dtype="float32"), whole))
    return [*figures(split, score), f"{us_per_item(space, whole):.1f}", f"{seconds:.0f}"]


def figures(split: Split, score: Any) -> list[str]:
    found = []
    for questions in (warm_questions(split, "test"), cold_questions(split, "test")):
        ranking = ask(questions, score)
        found += [f"{ranking.recall(20).mean():.4f}", f"{ranking.ndcg(20).mean():.4f}"]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluttered", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--no-graph", action="store_true")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    print(host_line(), flush=True)
    header = ["", "warm R@20", "N@20", "cold R@20", "N@20", "us/item", "train s"]
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        dataset, split = cluttered() if given.cluttered else real(out / "data")
        variants = {"several": dataset, "mean": with_means(dataset)} if given.cluttered else {"": dataset}
        for baseline in baselines(["content"], set(dataset.features)):
            rows.append([baseline.name, *figures(split, chosen(baseline, dataset, split, 0).score), "", ""])
        for variant, data in variants.items():
            for kind in KINDS:
                for graph in (False,) if given.no_graph or kind != KINDS[0] else (False, True):
                    name = " ".join(filter(None, [kind, "+ graph" if graph else "", variant]))
                    settings = TrainSettings.model_validate(
                        {"event_weights": {"like": 1.0}, "fusion": kind, "graph": graph, "seed": given.seed,
                         "epochs": given.epochs}
                    )  # fmt: skip
                    rows.append([name, *judged(data, split, settings, out / name.replace(" ", "_"))])
                    print("  ".join(rows[-1]), flush=True)
    print(table(header, rows))


if __name__ == "__main__":
    main()
