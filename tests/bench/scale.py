"""How training grows with the catalogue: time per question, memory, and what an epoch comes to.

    python -m tests.bench.scale                                # 10,000 to 1,000,000 items, a process for each
    python -m tests.bench.scale --items 100000 --events-per-item 19 --profile

Each size is trained for some steps in a process of its own, on a generated world (`tests.bench.large_world`). Times are
medians over steps, so a busy machine counts for less; a pass over all questions is extrapolated from them. What lies
before and after the steps is timed as it is. On two threads of a busy machine they wait for one another, at the cost of
several times the CPU; `--threads 1` can be compared there.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.bench.host import host_line
from tests.bench.large_world import Shape, large_world
from worker.train.content import chosen_block
from worker.train.run import begin, learn_from_events
from worker.train.settings import TrainSettings

SIZES = (10_000, 30_000, 100_000, 1_000_000)
WARM_UP = 3
"""Steps that are not counted."""


class _EnoughError(Exception):
    """So many steps were made."""


def measured(shape: Shape, settings: TrainSettings, num_steps: int, profile: bool, validate: bool) -> dict[str, Any]:
    """One size, in this process."""
    found: dict[str, Any] = {"items": shape.items, "events": shape.events, "users": shape.users}

    @contextmanager
    def timed(what: str) -> Iterator[None]:
        started = time.perf_counter(), time.process_time()
        yield
        found[f"{what}_s"] = time.perf_counter() - started[0]
        found[f"{what}_cpu_s"] = time.process_time() - started[1]
        found[f"{what}_peak_mb"] = _peak_mb()
        print(f"  {shape.items:,} items: {what} {found[f'{what}_s']:.1f} s, {found[f'{what}_cpu_s']:.1f} s of CPU, "
              f"peak {_peak_mb():,.0f} MB", file=sys.stderr, flush=True)  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="align-scale-") as folder:
        with timed("world"):
            dataset, split = large_world(shape, Path(folder))
        with timed("behavior"):
            learned = learn_from_events(dataset, split, settings)
        with timed("block"):
            block = chosen_block(
                dataset.features, split, settings.content_dim, settings.content_share, settings.content_whitening
            )
        with timed("begin"):
            trainer = begin(dataset, split, learned, settings, block, "cpu").trainer
        found |= {"questions": trainer.num_to_ask, "batch": trainer.batch}
        times: list[tuple[float, float]] = []

        def stepped() -> None:
            times.append((time.perf_counter(), time.process_time()))
            if len(times) == num_steps + WARM_UP:
                raise _EnoughError

        profiler = cProfile.Profile() if profile else None
        with timed("steps"):
            if profiler:
                profiler.enable()
            with suppress(_EnoughError):
                trainer.epoch(1, stepped)
            if profiler:
                profiler.disable()
        wall_S, cpu_S = np.diff(np.array(times[WARM_UP - 1 :]), axis=0).T
        found |= {
            "steps": len(wall_S),
            "us_per_question": float(np.median(wall_S)) / trainer.batch * 1e6,
            "cpu_us_per_question": float(np.median(cpu_S)) / trainer.batch * 1e6,
        }
        found["pass_s"] = found["us_per_question"] * trainer.num_to_ask / 1e6
        if validate:
            with timed("validation"):
                trainer.validation.figures(trainer.ema_model)
        if profiler:
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    return found | {"peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_process(items: int, arguments: Sequence[str]) -> dict[str, Any]:
    """One size, in a process of its own: its peak of memory is that of nothing else."""
    command = [sys.executable, "-m", "tests.bench.scale", "--one", str(items), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def line(found: dict[str, Any], first: dict[str, Any]) -> str:
    before_s = found["behavior_s"] + found["block_s"] + found["begin_s"]
    growth, cpu_growth = (found[name] / first[name] for name in ("us_per_question", "cpu_us_per_question"))
    asked = f"validation {found['validation_s']:.0f} s; " if "validation_s" in found else ""
    return (
        f"{found['items']:>9,} items {found['events']:>10,} events {found['questions']:>9,} questions of a pass: "
        f"{found['us_per_question']:6.0f} us per question, x{growth:.2f}, of CPU {found['cpu_us_per_question']:.0f}, "
        f"x{cpu_growth:.2f}; a pass {found['pass_s'] / 60:.1f} min, before it {before_s:.0f} s; {asked}"
        f"peak {found['peak_mb']:,.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--modalities", type=int, default=2)
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--events-per-item", type=float, default=10.0)
    parser.add_argument("--events-per-user", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--graph", action="store_true", help="with graph fusion, and the search for neighbours")
    parser.add_argument("--no-validation", action="store_true")
    parser.add_argument("--given-block", action="store_true", help="take a content block instead of choosing it")
    parser.add_argument("--profile", action="store_true", help="print where the time of the steps goes")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        shape = Shape(
            arguments.one, arguments.modalities, arguments.dim, arguments.events_per_item, arguments.events_per_user
        )
        block = {"content_share": 0.5, "content_whitening": 0.5} if arguments.given_block else {}
        settings = TrainSettings.model_validate({"event_weights": {"like": 1.0}, "graph": arguments.graph, **block})
        print(json.dumps(measured(shape, settings, arguments.steps, arguments.profile, not arguments.no_validation)))
        return
    print(host_line(), flush=True)
    given = [each for each in sys.argv[1:] if each != "--items"]
    first: dict[str, Any] = {}
    for items in arguments.items:
        found = in_process(items, [each for each in given if each not in map(str, arguments.items)])
        first = first or found
        print(line(found, first), flush=True)


if __name__ == "__main__":
    main()
