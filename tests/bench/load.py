"""How long does it take to read a catalogue and its events, and how much memory?

    OMP_NUM_THREADS=1 python -m tests.bench.load [--items 100000] [--events 2000000]

Times are CPU time: other processes do not change them much. Files are made first, with text 384 and image 256 in half
precision; the random numbers are part of the figures for writing.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from schemas import Feature, NewItem, UserEvent
from tests.bench.host import host_line
from worker.data import load_dataset, split_by_time
from worker.data.files import read_events, read_items, write_events, write_items

T = TypeVar("T")

DIMS = {"text": 384, "image": 256}
NUM_USERS = 100_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=2_000_000)
    arguments = parser.parse_args()
    print(f"host: {host_line()}")
    with tempfile.TemporaryDirectory() as directory:
        items, events = Path(directory) / "items.msgpack", Path(directory) / "events.msgpack"
        timed("write items", arguments.items, lambda: write_items(items, make_items(arguments.items)))
        timed("write events", arguments.events, lambda: write_events(events, make_events(arguments)))
        timed("read items", arguments.items, lambda: sum(1 for _ in read_items(items)))
        timed("read events", arguments.events, lambda: sum(1 for _ in read_events(events)))
        before_mb = peak_mb()
        loaded = timed("load_dataset", arguments.events, lambda: load_dataset([items], [events], {"like": 1.0}))
        print(f"peak memory {peak_mb():,.0f} MB; {before_mb:,.0f} MB before loading")
        dataset = loaded.dataset
        cold_I = np.zeros(dataset.num_items, bool)
        timed("split_by_time", arguments.events, lambda: split_by_time(dataset.events, cold_I, cold_I))


def timed(name: str, count: int, action: Callable[[], T]) -> T:
    started = time.process_time()
    result = action()
    took_s = time.process_time() - started
    print(f"{name:<14} {took_s:6.1f} s  {took_s / count * 1e6:6.2f} µs each")
    return result


def make_items(count: int) -> Iterator[NewItem]:
    random = np.random.default_rng(0)
    for number in range(count):
        features = {
            name: Feature.from_numpy(random.standard_normal(dim, np.float32), encoder=name)
            for name, dim in DIMS.items()
        }
        yield NewItem(item_id=f"item-{number}", revision=1, event_time_ms=0, features=features)


def make_events(arguments: argparse.Namespace) -> Iterator[UserEvent]:
    random = np.random.default_rng(1)
    columns = [random.integers(most, size=arguments.events).tolist() for most in (NUM_USERS, arguments.items, 10**10)]
    for number, (user, item, time_ms) in enumerate(zip(*columns, strict=True)):
        yield UserEvent(
            event_id=f"event-{number}",
            user_id=f"user-{user}",
            item_id=f"item-{item}",
            event_type="like",
            event_time_ms=time_ms,
        )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
