"""How long does an item take from its append to a vector that a reader has in hand, and what does that cost?

    python -m tests.bench.latency [--seconds 30] [--ages 5,20] [--rates 200,half] [--client confluent-kafka] [--json]

A real Kafka, the real worker with commits on, a producer at a steady rate and a confluent-kafka reader of the output
topic, all on the same cores. `half` is half of what the worker does with a full log, measured first. The time counts
from the broker's own stamp of the item to the return of the reader's `consume`; what came until the worker had caught
up with its start, and 3 s more, are left out. The CPU time is that of the worker's process alone.

`loop` is what a user would write in 25 lines on confluent-kafka (`confluent_loops.confluent_low_latency`), with the
same codec and model.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import psutil

from tests.bench.host import host_line
from tests.bench.pipeline import client_setting, fill, measure
from tests.bench.progress import process_cpu_s
from tests.bench.stream import TOPIC, Stream, quantiles_ms
from tests.bench.workload import MODELS, Bed, open_bed, process, wait_until, worker

CALIBRATION_ITEMS = 40_000
WARM_UP_S = 3.0
CAUGHT_UP_S = 0.3
START_TIMEOUT_S = 120.0
LOOP = "confluent_low_latency"


class Latency(NamedTuple):
    items: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    cpu_ms: float
    """Of the process, per item."""
    cores: float
    """CPU time of the process per second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--ages", default="5,20", help="values of batch.max_age_ms; `loop`: the loop instead")
    parser.add_argument("--rates", default="200,half", help="items per second; `half`: of the full rate")
    parser.add_argument("--model", choices=MODELS, default="transformer")
    parser.add_argument("--client", help="the worker's Kafka client: `kafka.client`")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host, rows = host_line(), []
    settings = client_setting(arguments.client)
    if not arguments.json:
        print(f"host: {host}\n{heading('max_age_ms')}")
    with open_bed(arguments.bootstrap_servers) as opened:
        bed = opened.with_model(arguments.model)
        for rate in [rate_of(bed, each, settings) for each in arguments.rates.split(",")]:
            for age in [*arguments.ages.split(","), "loop"]:
                found = measure_latency(bed, rate, arguments.seconds, **run_of(age, settings))
                rows.append({"max_age_ms": age, "rate": rate, **found._asdict()})
                if not arguments.json:
                    print(row(age, rate, found), flush=True)
    if arguments.json:
        print(json.dumps({"host": host, "rows": rows}))


def run_of(age: str, settings: Mapping[str, str]) -> dict[str, Any]:
    return {"loop": LOOP} if age == "loop" else {"settings": {**settings, "batch__max_age_ms": age}}


def rate_of(bed: Bed, named: str, settings: Mapping[str, str]) -> float:
    if named != "half":
        return float(named)
    fill(bed, "items", CALIBRATION_ITEMS)
    return round(measure(bed, "full", CALIBRATION_ITEMS, settings).items_per_s / 2)


def measure_latency(
    bed: Bed, rate: float, seconds: float, *, settings: Mapping[str, str] | None = None, loop: str | None = None
) -> Latency:
    """Of the worker with these settings, or of a loop of `tests.bench.variants`."""
    topic = f"items-{uuid.uuid4().hex[:8]}"
    bed.create_topics([topic], TOPIC)
    environment = bed.worker_environment(topic, **(settings or {}))
    with (
        started(environment, loop) as child,
        Stream(bed, topic, environment["ALIGN_TOPICS__ITEM_VECTORS"], rate) as stream,
    ):
        running = psutil.Process(child.pid)
        wait_until(lambda: stream.num_read > 0, START_TIMEOUT_S, "first vector")
        # What came while the worker started takes seconds to catch up with at half of the full rate.
        wait_until(lambda: stream.seconds_behind < CAUGHT_UP_S, START_TIMEOUT_S, "worker that has caught up")
        time.sleep(WARM_UP_S)
        begin_ms, before_s = time.time() * 1000, process_cpu_s(running)
        time.sleep(seconds)
        end_ms, cpu_s = time.time() * 1000, process_cpu_s(running) - before_s
    arrivals = [each for each in stream.arrivals() if begin_ms <= each.at_ms < end_ms]
    if not arrivals:
        raise RuntimeError(
            f"no vector came within {seconds:g} s of measuring, after {stream.num_read} before and after"
        )
    quantiles = quantiles_ms(arrivals)
    cpu_ms, cores = cpu_s * 1000 / len(arrivals), cpu_s * 1000 / (end_ms - begin_ms)
    return Latency(len(arrivals), quantiles["p50_ms"], quantiles["p99_ms"], quantiles["max_ms"], cpu_ms, cores)


def started(environment: Mapping[str, str], loop: str | None) -> AbstractContextManager[subprocess.Popen[bytes]]:
    if loop is None:
        return worker(environment)  # type: ignore[no-any-return]
    return process("tests.bench.variants", loop, environment=environment, stdout=subprocess.DEVNULL)


def heading(first: str) -> str:
    return (
        f"{first:>14} {'items/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8} {'CPU ms/item':>12} {'% of a core':>12}"
    )


def row(name: str, rate: float, found: Latency) -> str:
    return (
        f"{name:>14} {rate:8,.0f} {found.p50_ms:8.1f} {found.p99_ms:8.1f} {found.max_ms:8.1f} "
        f"{found.cpu_ms:12.2f} {100 * found.cores:12.1f}"
    )


if __name__ == "__main__":
    main()
