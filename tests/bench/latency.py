"""How long does an item take from its append to a vector that a reader has in hand?

    python -m tests.bench.latency [--seconds 30] [--ages 5,20] [--rates 200,half] [--json]

A real Kafka, the real worker with commits on, a producer at a steady rate and a confluent-kafka reader of the output
topic, all on the same cores. `half` is half of what the worker does with a full log, measured first. The time counts
from the broker's own stamp of the item to the return of the reader's `consume`; what came until the worker had caught
up with its start, and 3 s more, are left out.
"""

from __future__ import annotations

import argparse
import json
import time
import uuid
from typing import Any

from tests.bench.host import host_line
from tests.bench.pipeline import fill, measure
from tests.bench.stream import TOPIC, Stream, quantiles_ms
from tests.bench.workload import Bed, open_bed, wait_until, worker

CALIBRATION_ITEMS = 40_000
WARM_UP_S = 3.0
CAUGHT_UP_S = 0.3
START_TIMEOUT_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--ages", default="5,20", help="values of batch.max_age_ms")
    parser.add_argument("--rates", default="200,half", help="items per second; `half`: of the full rate")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host, rows = host_line(), []
    if not arguments.json:
        print(f"host: {host}\n{'max_age_ms':>10} {'items/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")
    with open_bed(arguments.bootstrap_servers) as bed:
        for rate in [rate_of(bed, each) for each in arguments.rates.split(",")]:
            for age in arguments.ages.split(","):
                rows.append(
                    {"max_age_ms": int(age), "rate": rate, **measure_latency(bed, rate, age, arguments.seconds)}
                )
                if not arguments.json:
                    print(row(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"host": host, "rows": rows}))


def rate_of(bed: Bed, named: str) -> float:
    if named != "half":
        return float(named)
    fill(bed, "items", CALIBRATION_ITEMS)
    return round(measure(bed, "full", CALIBRATION_ITEMS, {}).items_per_s / 2)


def measure_latency(bed: Bed, rate: float, max_age_ms: str, seconds: float) -> dict[str, float]:
    topic = f"items-{uuid.uuid4().hex[:8]}"
    bed.create_topics([topic], TOPIC)
    environment = bed.worker_environment(topic, batch__max_age_ms=max_age_ms)
    with worker(environment), Stream(bed, topic, environment["ALIGN_TOPICS__ITEM_VECTORS"], rate) as stream:
        wait_until(lambda: stream.num_read > 0, START_TIMEOUT_S, "first vector")
        # What came while the worker started takes seconds to catch up with at half of the full rate.
        wait_until(lambda: stream.seconds_behind < CAUGHT_UP_S, START_TIMEOUT_S, "worker that has caught up")
        time.sleep(WARM_UP_S)
        begin_ms = time.time() * 1000
        time.sleep(seconds)
        end_ms = time.time() * 1000
    arrivals = [each for each in stream.arrivals() if begin_ms <= each.at_ms < end_ms]
    return {"items": len(arrivals), **quantiles_ms(arrivals)}


def row(found: dict[str, Any]) -> str:
    latencies = " ".join(f"{found[name]:8.1f}" for name in ("p50_ms", "p99_ms", "max_ms"))
    return f"{found['max_age_ms']:10} {found['rate']:8,.0f} {latencies}"


if __name__ == "__main__":
    main()
