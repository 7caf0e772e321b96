"""Does an item cost the same after a million others?

    python -m tests.bench.flatness [--items 1000000] [--without-features | --state-dir] [--json]

One worker, one run, items that are all distinct, in the log before the worker starts: a feeder beside it would make
its cores slower and its batches smaller, now more and now less. Looked at from outside: CPU time of the process per
item between marks, and its resident memory at each; with `--state-dir` that holds pages of the store, too, which the
kernel takes back when it needs them, so the anonymous part is told beside it. Flat means: the last tenth costs what the
first items cost, and memory grows by what is remembered of an item and no more. Needs 9 KB of disk per item in the
temporary directory, 13 KB with `--state-dir`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from tqdm import tqdm

from tests.bench.host import host_line
from tests.bench.progress import Sample, Watch
from tests.bench.workload import Feeder, open_bed, worker

MARKS = (1_000, 10_000, 30_000, 100_000, 300_000, 1_000_000, 3_000_000, 10_000_000)
CHUNK = 1_000
# By default 8,192 items are decoded before the first is published, so that the first 10,000 outputs would seem a fifth
# cheaper than all others.
SHORT_LOOKAHEAD = {"batch__queue_records": "1024", "kafka__fetch_max_bytes": "1000000"}


class Window(NamedTuple):
    """From one mark to the next."""

    begin: int
    end: int
    cpu_us_per_item: float
    items_per_s: float
    rss_mb: float
    """At its end."""
    anonymous_mb: float
    """Without what is mapped from files."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--without-features", action="store_true", help="state.features: false")
    parser.add_argument("--state-dir", action="store_true", help="remember on a disk, in the temporary directory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.items < 200_000:
        parser.error("--items must be at least 200000: the last tenth is compared with what lies before 100,000")
    host = host_line()
    with tempfile.TemporaryDirectory(prefix="align-flatness-") as directory:
        settings = {"state__features": str(not arguments.without_features).lower(), **SHORT_LOOKAHEAD}
        if arguments.state_dir:
            settings["state__dir"] = directory
        samples = run(arguments.items, arguments.bootstrap_servers, settings)
    found = windows(samples, [mark for mark in MARKS if mark < arguments.items] + [arguments.items])
    first, early = window(samples, 1_000, 10_000), window(samples, 10_000, 100_000)
    late = window(samples, int(0.9 * arguments.items), arguments.items)
    ratios = {
        "CPU per item, last tenth / 1k to 10k": late.cpu_us_per_item / first.cpu_us_per_item,
        "CPU per item, last tenth / 10k to 100k": late.cpu_us_per_item / early.cpu_us_per_item,
        "RSS growth from 100k on, MB": late.rss_mb - early.rss_mb,
        "growth of its anonymous part, MB": late.anonymous_mb - early.anonymous_mb,
    }
    if arguments.json:
        print(json.dumps({"host": host, "windows": [each._asdict() for each in found], "ratios": ratios}))
        return
    print(f"host: {host}\n{'items':>23} {'CPU µs/item':>12} {'items/s':>9} {'RSS MB':>8} {'anonymous':>9}")
    for each in found:
        print(
            f"{each.begin:>11,} {each.end:>11,} {each.cpu_us_per_item:12.1f} {each.items_per_s:9,.0f} "
            f"{each.rss_mb:8.0f} {each.anonymous_mb:9.0f}"
        )
    print("\n".join(f"{name}: {value:.2f}" for name, value in ratios.items()))


def run(num_items: int, bootstrap_servers: str | None, settings: Mapping[str, str]) -> list[Sample]:
    with open_bed(bootstrap_servers) as bed:
        bed.create_topics(["items"])
        feeder = Feeder(bed.bootstrap_servers, "items")
        for _ in tqdm(range(num_items // CHUNK), unit="kitem", disable=None, desc="filling the log"):
            feeder.feed(CHUNK)
        feeder.feed(num_items % CHUNK)
        feeder.flush()
        environment = bed.worker_environment("items", **settings)
        with worker(environment) as child:
            return Watch(bed, environment["ALIGN_TOPICS__ITEM_VECTORS"], child).until(num_items)


def windows(samples: Sequence[Sample], marks: Sequence[int]) -> list[Window]:
    return [window(samples, begin, end) for begin, end in pairwise(marks)]


def window(samples: Sequence[Sample], begin: int, end: int) -> Window:
    first, last = (next(each for each in samples if each.num_outputs >= mark) for mark in (begin, end))
    num_items = last.num_outputs - first.num_outputs
    cost = (last.cpu_s - first.cpu_s) / num_items * 1e6
    return Window(begin, end, cost, num_items / (last.at - first.at), last.rss_mb, last.anonymous_mb)


if __name__ == "__main__":
    main()
