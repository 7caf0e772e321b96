"""On which thread does the CPU time of an item go?

    python -m tests.bench.threads [--variants in_process,transport,plain] [--items 60000] [--json]

Each variant of `tests.bench.variants` runs as in `tests.bench.pipeline`; the time of each of its threads is read from
outside at 10 % and at 95 % of the items. All but the model's own arithmetic is spent under one interpreter lock, so the
sum without it bounds the rate, whatever the number of cores.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
from collections import defaultdict
from typing import NamedTuple

import psutil

from tests.bench.host import host_line
from tests.bench.pipeline import FIRST, LAST, fill
from tests.bench.progress import Watch
from tests.bench.workload import Bed, open_bed, process

LEAST_SHOWN_US = 0.3


class Threads(NamedTuple):
    cpu_us_per_item: float
    by_thread: dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", default="in_process,transport,plain")
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the worker")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    settings = dict(each.replace(".", "__").split("=", 1) for each in arguments.set)
    host = host_line()
    with open_bed(arguments.bootstrap_servers) as bed:
        fill(bed, "items", arguments.items)
        found = {name: measure(bed, name, arguments.items, settings) for name in arguments.variants.split(",")}
    if arguments.json:
        print(json.dumps({"host": host, "variants": {name: each._asdict() for name, each in found.items()}}))
        return
    print(f"host: {host}")
    for name, each in found.items():
        print(f"{name}: {each.cpu_us_per_item:.1f} µs CPU per item")
        for thread, cost in sorted(each.by_thread.items(), key=lambda pair: -pair[1]):
            if cost >= LEAST_SHOWN_US:
                print(f"  {thread:28} {cost:6.1f}")


def measure(bed: Bed, name: str, num_items: int, settings: dict[str, str]) -> Threads:
    environment = bed.worker_environment("items", **settings)
    arguments = ("tests.bench.variants", name)
    with process(*arguments, environment=environment, stdout=subprocess.PIPE) as child:
        watch = Watch(bed, environment["ALIGN_TOPICS__ITEM_VECTORS"], child)
        begin = watch.until(int(FIRST * num_items))[-1].num_outputs
        before = cpu_s(child)
        end = watch.until(int(LAST * num_items))[-1].num_outputs
        after = cpu_s(child)
        child.send_signal(signal.SIGTERM)
        names: dict[str, str] = json.loads(child.communicate(timeout=30)[0])
    by_thread: defaultdict[str, float] = defaultdict(float)
    for thread, seconds in after.items():
        by_thread[names.get(str(thread), "not Python's")] += (seconds - before.get(thread, 0.0)) / (end - begin) * 1e6
    return Threads(sum(by_thread.values()), dict(by_thread))


def cpu_s(child: subprocess.Popen[bytes]) -> dict[int, float]:
    return {each.id: each.user_time + each.system_time for each in psutil.Process(child.pid).threads()}


if __name__ == "__main__":
    main()
