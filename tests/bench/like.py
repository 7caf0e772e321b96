"""What `train --like` is worth: a space retrained with 20 % new events, beside a free retraining.

    python -m tests.bench.like [--epochs 8] [--seeds 1 2]

The films of `../shared/data/ml-small-mm`. The old space learns the first 80 % of the events of training, the new ones
all of them: one by itself, one like the old one. All are asked for the same last positive events, which none has
learned, and the figures of `space relate` say what it costs to ask users of one space for items of the other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.film_parts import DATA
from tests.bench.host import host_line
from tests.bench.training import import_ratings
from worker.align import Space
from worker.data import Dataset, Split, load_dataset
from worker.data.withheld import Withheld, split_dataset
from worker.evaluate.questions import warm_questions
from worker.evaluate.relate import relate
from worker.train.like import Like, like_space
from worker.train.run import Fit, Learned, learn_from_events, train
from worker.train.settings import TrainSettings

OLD_SHARE = 0.8


class Quiet:
    def begin(self, what: str) -> None: ...

    def tell(self, report: Any, is_best: bool) -> None: ...

    @contextmanager
    def epoch(self, number: int, num_steps: int) -> Iterator[Callable[[], object]]:
        yield lambda: None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="of the new spaces; figures are means")
    parser.add_argument("--out", type=Path, help="keep the spaces there, and take an old one that is there already")
    arguments = parser.parse_args()
    print(host_line(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments, arguments.out or Path(temporary))


def run(arguments: argparse.Namespace, out: Path) -> None:
    data = out / "data"
    if not (data / "items.msgpack").exists():
        import_ratings(arguments.data, data)
    loaded = load_dataset([data / "items.msgpack"], [data / "events.msgpack"], {"like": 1.0})
    dataset = loaded.dataset
    split = split_dataset(dataset, Withheld(data / "cold_val.txt", data / "cold_test.txt"))
    times_E = split.events.times_ms_E
    until = np.quantile(times_E[split.train_E], OLD_SHARE)
    earlier = replace(split, train_E=split.train_E & (times_E <= until))
    print(f"{int(earlier.train_E.sum()):,} events for the old space, {int(split.train_E.sum()):,} for the new ones")

    settings = TrainSettings(
        event_weights={"like": 1.0}, epochs=arguments.epochs, patience=arguments.epochs, recipes=("plain",),
        final_fit=False,
    )  # fmt: skip

    def fit(name: str, of: Split, seed: int, like: Like | None = None) -> Fit:
        started = time.monotonic()
        made = train(dataset, of, settings.model_copy(update={"seed": seed}), out / name, "cpu", Quiet(), like).shipped
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return made

    if not (out / "old" / "space.json").exists():
        fit("old", earlier, 0)
    old, known = Space.load(out / "old"), with_learned(dataset, learn_from_events(dataset, earlier, settings))
    questions = warm_questions(split, "test")
    found: dict[str, list[Mapping[str, float]]] = {"free": [], "like": []}
    for seed in arguments.seeds:
        for name, figures in found.items():
            like = like_space(out / "old", known, dataset, split) if name == "like" else None
            made = fit(f"{name}-{seed}", split, seed, like)
            figures.append(relate(old, made.space, known, with_learned(dataset, made.learned), questions).figures)
    print(f"\n{'':32} free     like")
    for figure in found["free"][0]:
        means = [np.mean([each[figure] for each in figures]) for figures in found.values()]
        print(f"{figure:32} {means[0]:.4f}   {means[1]:.4f}")


def with_learned(dataset: Dataset, learned: Learned) -> Dataset:
    return replace(dataset, features=learned.features)


if __name__ == "__main__":
    main()
