"""What `train --like` is worth: a space retrained with 20 % new events, beside a free retraining.

    python -m tests.bench.like [--epochs 8] [--data DIR]

The films of `../shared/data/ml-small-mm`. The old space learns the first 80 % of the events of training, the new ones
all of them: one by itself, one like the old one. All are asked for the same last positive events, which none has
learned, and the figures of `space relate` say what it costs to ask users of one space for items of the other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.film_parts import DATA
from tests.bench.host import host_line
from tests.bench.training import import_ratings
from worker.data import load_dataset
from worker.data.withheld import Withheld, split_dataset
from worker.evaluate.questions import warm_questions
from worker.evaluate.relate import relate
from worker.train.like import like_space
from worker.train.run import Fit, train
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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="keep the spaces there")
    arguments = parser.parse_args()
    print(host_line(), flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        run(arguments, arguments.out or Path(temporary))


def run(arguments: argparse.Namespace, out: Path) -> None:
    data = out / "data"
    import_ratings(arguments.data, data)
    loaded = load_dataset([data / "items.msgpack"], [data / "events.msgpack"], {"like": 1.0})
    dataset = loaded.dataset
    split = split_dataset(dataset, Withheld(data / "cold_val.txt", data / "cold_test.txt"))
    times_E = split.events.times_ms_E
    until = np.quantile(times_E[split.train_E], OLD_SHARE)
    earlier = replace(split, train_E=split.train_E & (times_E <= until))
    print(f"{int(earlier.train_E.sum()):,} events for the old space, {int(split.train_E.sum()):,} for the new ones")

    def fit(name: str, of: Any, like: Any = None, seed: int = arguments.seed) -> tuple[Fit, float]:
        settings = TrainSettings(
            event_weights={"like": 1.0}, epochs=arguments.epochs, patience=arguments.epochs, seed=seed,
            recipes=("plain",), final_fit=False,
        )  # fmt: skip
        started = time.monotonic()
        made = train(dataset, of, settings, out / name, "cpu", Quiet(), like).shipped
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return made, time.monotonic() - started

    old, _ = fit("old", earlier)
    known = replace(dataset, features=old.learned.features)
    free, _ = fit("free", split, seed=arguments.seed + 1)
    like, _ = fit("like", split, like_space(out / "old", known, dataset, split), seed=arguments.seed + 1)
    questions = warm_questions(split, "test")
    for name, made in (("free", free), ("like", like)):
        found = relate(
            old.space, made.space, known, replace(dataset, features=made.learned.features), questions
        )  # fmt: skip
        print(f"\n{name}")
        for figure, value in found.figures.items():
            print(f"  {figure:32} {value:.4f}")
        for why in found.against:
            print(f"  not comparable: {why}")


if __name__ == "__main__":
    main()
