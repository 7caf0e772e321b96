"""Every kind of fusion, trained alike: what it finds, and what it costs to serve.

    python -m tests.bench.fusions                  # a real catalogue, one vector per modality
    python -m tests.bench.fusions --items FILE     # the same films, several: what `tests.bench.film_parts` wrote
    python -m tests.bench.fusions --cluttered      # a generated one, several vectors, of which many are clutter

`several` are items with all their vectors, in places that matter where the fusion can tell them; `mean` the same items
with the mean of each modality's vectors for one. In the generated catalogue a modality brings up to six vectors of an
item, and most of them are the same for all items, as captions and logos are: there, to weigh tokens by what they hold
has something to do.

The epoch that is kept is chosen by validation (`val`: the geometric mean of NDCG@20 of known items, of these by
content alone, and of withheld items), and kinds are listed in its order; the other figures are those of the test,
mean ± standard deviation over seeds. Below them, what one way finds more than another, user by user: mean over seeds
± standard error over users.

`--serving` trains nothing: it prints what an item costs in spaces of these shapes, on one thread of a CPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from schemas import Feature
from tests.bench.film_parts import DATA
from tests.bench.fusion_runs import MEASURES, Outcome, Training, Trainings, by_user
from tests.bench.host import host_line
from tests.bench.training import import_ratings
from worker.align import AlignRuntime, Contract, Space
from worker.align.cores import available_cores
from worker.align.device import device_name, resolve_device
from worker.align.space import write_space
from worker.align.users import NO_ROW
from worker.align.weights import build_model
from worker.data import Dataset, Features, Split, load_dataset, split_by_time
from worker.data.dataset import Bools
from worker.data.load import assemble
from worker.data.withheld import Withheld, split_dataset
from worker.evaluate.baselines import baselines
from worker.evaluate.baselines.choice import chosen
from worker.evaluate.report import table
from worker.synthetic import Audience, Catalogue
from worker.train.content import Block
from worker.train.run import learn_from_events
from worker.train.settings import TrainSettings
from worker.train.start import space_spec, starting_weights

DEFAULT_KIND = "concat_mlp"
KINDS = (DEFAULT_KIND, "concat_mlp+graph", "self_attention", "cross_attention", "gated")
BATCH = 512
HOUR_MS = 3_600_000
CLUTTERED = {"text": 48, "image": 32}


def real(source: Path, directory: Path, items: Path | None) -> tuple[Dataset, Split]:
    """The films and their ratings, with the features of `items` instead of their own, if given."""
    import_ratings(source, directory)
    loaded = load_dataset([items or directory / "items.msgpack"], [directory / "events.msgpack"], {"like": 1.0})
    dataset = loaded.dataset
    return dataset, split_dataset(dataset, Withheld(directory / "cold_val.txt", directory / "cold_test.txt"))


def cluttered() -> tuple[Dataset, Split]:
    """2,000 items, 400 users, 40,000 events."""
    catalogue = Catalogue(
        0, modalities=CLUTTERED, missing_share=0.1, max_vectors=dict.fromkeys(CLUTTERED, 6), clutter_share=0.8
    )
    items = list(catalogue.items(2_000))
    audience = Audience(catalogue, 400, seed=0, start_ms=0, drift_ms=10_000 * HOUR_MS)
    events = (event.message() for event in audience.events(items, 40_000, end_ms=1_000 * HOUR_MS))
    dataset = assemble((item.message(1, 0) for item in items), events, {"like": 1.0}).dataset
    return dataset, split_dataset(dataset, Withheld())


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
    with_neighbors = neighbor_step(space, dataset.num_items)
    rounds = []
    for _ in range(20):
        started = time.process_time()
        with_neighbors(torch.from_numpy(runtime.embed(items).vectors))
        rounds.append(time.process_time() - started)
    return min(rounds) / BATCH * 1e6


def neighbor_step(space: Space, num_items: int) -> Callable[[torch.Tensor], object]:
    """What graph fusion adds to a batch whose items have as many neighbours as they may, with the vectors of all items
    at hand; nothing for a space without it."""
    if space.spec.graph is None:
        return lambda vectors_BD: None
    graph = build_model(space.spec, space.weights).graph
    drawn = np.random.default_rng(0).integers(num_items, size=(BATCH, space.spec.graph.max_neighbors))
    rows_BN = torch.from_numpy(drawn)
    vectors_ID = torch.nn.functional.normalize(torch.ones(num_items, space.spec.dim), dim=1)

    @torch.inference_mode()
    def step(vectors_BD: torch.Tensor) -> object:
        return graph(vectors_BD, vectors_ID[rows_BN], rows_BN != NO_ROW)

    return step


BLOCK = Block(share=0.5, whitening=0.5)


def untrained(dataset: Dataset, split: Split, settings: TrainSettings, out: Path) -> tuple[Space, Dataset]:
    """A space as training would begin with, and the items with the behaviour that it would find."""
    learned = learn_from_events(dataset, split, settings)
    spec = space_spec(learned.features, settings, BLOCK)
    space = write_space(out, spec, starting_weights(spec, learned.features, settings.seed, BLOCK))
    return space, replace(dataset, features=learned.features)


def settings_of(kind: str, ordered: Sequence[str], seed: int, epochs: int) -> TrainSettings:
    fusion, _, graph = kind.partition("+")
    return TrainSettings.model_validate(
        {
            "event_weights": {"like": 1.0},
            "recipes": "plain",
            "final_fit": False,
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
    source.add_argument("--items", type=Path, metavar="FILE", help="the same films with these features")
    parser.add_argument("--data", type=Path, default=DATA, metavar="DIR", help="where the real catalogue is")
    parser.add_argument("--films", type=int, metavar="N", help="the most rated films that have a poster, and no others")
    parser.add_argument("--kinds", default=",".join(KINDS), help="(default: %(default)s)")
    parser.add_argument("--variants", help="several, mean, or both with a comma (default: both)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="of each (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=25, help="at most (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="to train on: auto, cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="of each training (default: a share of the cores)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at once (default: %(default)s)")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="remember what was trained there, and go on from it"
    )
    parser.add_argument("--serving", action="store_true", help="what each costs to serve, and no training")
    given = parser.parse_args(arguments)
    absent = [name for name in ("ratings.csv", "items.csv", "features.npz") if not (given.data / name).is_file()]
    if absent and not given.cluttered:
        print(f"cannot run: no {' and no '.join(absent)} in {given.data}", file=sys.stderr)
        return 2
    print(host_line(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        datasets, split, ordered = catalogue(given, Path(temporary))
        if given.serving:
            print_serving(given.kinds.split(","), datasets, split, ordered, Path(temporary))
            return 0
        trainings = [
            Training(kind, variant, settings_of(kind, ordered if variant == "several" else (), seed, given.epochs))
            for seed, kind, variant in product(range(given.seeds), given.kinds.split(","), datasets)
        ]
        device, threads = resolve_device(given.device), given.threads or max(1, available_cores() // given.jobs)
        print(f"training on {device} ({device_name(device)}), {given.jobs} at once with {threads} threads each")
        started = time.monotonic()
        outcomes = []
        for outcome in Trainings(datasets, split, device, threads, given.results).run(trainings, given.jobs):
            outcomes.append(outcome)
            print(one_line(outcome), flush=True)
        print(f"{len(outcomes)} trainings in {time.monotonic() - started:.0f} s")
        print("\n" + "\n".join(tables(outcomes, contents(datasets, split))))
    return 0


def catalogue(given: argparse.Namespace, directory: Path) -> tuple[dict[str, Dataset], Split, Sequence[str]]:
    """What to learn from, by variant, and the modalities of which the places matter."""
    dataset, split = cluttered() if given.cluttered else real(given.data, directory, given.items)
    if given.films is not None:
        dataset, split = most_rated(dataset, split, dataset.features["image"].present_I, given.films)
    if all(each.counts_I.max() == 1 for each in dataset.features.values()):
        return {"": dataset}, split, ()
    every = {"several": dataset, "mean": with_means(dataset)}
    wanted = given.variants.split(",") if given.variants else every
    return {name: every[name] for name in wanted}, split, () if given.cluttered else sorted(dataset.features)


def print_serving(
    kinds: Sequence[str], datasets: dict[str, Dataset], split: Split, ordered: Sequence[str], directory: Path
) -> None:
    for kind, (variant, dataset) in product(kinds, datasets.items()):
        settings = settings_of(kind, ordered if variant == "several" else (), 0, 1)
        space, whole = untrained(dataset, split, settings, directory / f"{kind}-{variant}")
        print(f"{f'{kind} {variant}'.strip()}: {us_per_item(space, whole):.1f} CPU us/item", flush=True)


def one_line(outcome: Outcome) -> str:
    means = ", ".join(f"{name} {np.mean(values):.4f}" for name, values in outcome.by_user.items())
    return (
        f"{outcome.kind} {outcome.variant} seed {outcome.seed}: val {outcome.selection_metric:.4f}, {means}; epoch "
        f"{outcome.best_epoch} of {outcome.num_epochs}, {outcome.seconds:.2f} s each, CPU {outcome.cpu_seconds:.2f} s"
    )


def contents(datasets: dict[str, Dataset], split: Split) -> dict[str, dict[str, NDArray[np.float64]]]:
    """What the features find without any learning, the mean of an item's for one, by baseline."""
    dataset = next(iter(datasets.values()))  # the variants have the same means
    return {
        baseline.name: by_user(split, chosen(baseline, dataset, split, 0).score)
        for baseline in baselines(["content"], set(dataset.features))
    }


def tables(outcomes: Sequence[Outcome], others: dict[str, dict[str, NDArray[np.float64]]]) -> list[str]:
    """Each kind and variant, the best by validation first; then pairs of them."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault((outcome.kind, outcome.variant), []).append(outcome)
    rows = []
    for (kind, variant), each in sorted(
        groups.items(), key=lambda group: -np.mean([one.selection_metric for one in group[1]])
    ):
        figures = [spread([one.selection_metric for one in each])]
        figures += [spread([float(np.mean(one.by_user[name])) for one in each]) for name in MEASURES]
        epochs = ", ".join(f"{one.best_epoch}/{one.num_epochs}" for one in sorted(each, key=lambda one: one.seed))
        rows.append([f"{kind} {variant}".strip(), *figures, epochs, f"{np.mean([one.seconds for one in each]):.2f}"])
    for name, found in others.items():
        rows.append([name, "", *(f"{found[measure].mean():.4f}" for measure in MEASURES), "", ""])
    pairs = [(one, other) for one in groups for other in groups if is_compared(one, other)]
    compared = [
        [f"{' '.join(one).strip()} - {' '.join(other).strip()}", *gains(groups[one], groups[other])]
        for one, other in pairs
    ]
    made = [table(["", "val", *MEASURES, "epochs", "s each"], rows)]
    return [*made, "", table(["", *MEASURES], compared)] if compared else made


def is_compared(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Several vectors with their mean, and every kind with the default one."""
    same_kind = one[0] == other[0] and (one[1], other[1]) == ("several", "mean")
    return same_kind or (one[1] == other[1] and other[0] == DEFAULT_KIND != one[0])


def spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.4f}" + (f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else "")


def gains(ones: Sequence[Outcome], others: Sequence[Outcome]) -> list[str]:
    """By measure. A user's figure is the mean over seeds first: seeds are not further users."""
    found = []
    for name in MEASURES:
        of_one, of_other = (np.mean([each.by_user[name] for each in group], 0) for group in (ones, others))
        gains_U = of_one - of_other
        error = np.std(gains_U, ddof=1) / len(gains_U) ** 0.5
        found.append(f"{gains_U.mean():+.4f} ± {error:.4f}")
    return found


if __name__ == "__main__":
    sys.exit(main())
