"""The worker beside what a user would write or take instead: both tables of the comparison, with one command.

    python -m tests.bench.field [--items 80000] [--rounds 2] [--seconds 20] [--client confluent-kafka] [--json]

First with a full log, for a light model and for one transformer layer, as `tests.bench.pipeline` measures it; then at
low rates, as `tests.bench.low_rate` does. Every loop has this project's own codec and model, so that only what is
around them differs. Rates tell something on a quiet machine alone; CPU time per item on any.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping
from typing import Any

from tests.bench import low_rate, pipeline
from tests.bench.host import host_line
from tests.bench.latency import Latency
from tests.bench.progress import Steady
from tests.bench.workload import MODELS, open_bed, rounds

LOOPS = ("confluent_pipelined", "bytewax", "full_whole", "full", "plain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=80_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement at a low rate")
    parser.add_argument("--models", default="light,transformer", help="separated by commas (default: %(default)s)")
    parser.add_argument("--rates", default=",".join(f"{rate:g}" for rate in low_rate.RATES))
    parser.add_argument("--client", help="the worker's Kafka client: `kafka.client`")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    host, settings = host_line(), pipeline.client_setting(given.client)
    models, rates = given.models.split(","), [float(each) for each in given.rates.split(",") if each]
    if unknown := set(models) - MODELS.keys():
        parser.error(f"--models: {', '.join(sorted(unknown))} is none of {', '.join(MODELS)}")

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    with open_bed(given.bootstrap_servers) as bed:
        full: dict[str, dict[str, Steady]] = {}
        pipeline.fill(bed, "items", given.items)
        pipeline.measure(bed, "bare", given.items, {})  # a broker that has just started compiles its code
        names = [name for name in LOOPS if pipeline.can_run(name)]
        for model in models:
            measured: dict[str, list[Steady]] = {name: [] for name in names}
            for _, name in rounds(names, given.rounds):
                measured[name].append(pipeline.measure(bed.with_model(model), name, given.items, settings))
                say(f"  {model:12} {pipeline.row(name, measured[name][-1])}")
            full[model] = {
                name: Steady(*(statistics.median(values) for values in zip(*each, strict=True)))
                for name, each in measured.items()
            }
        low = low_rate.compare(bed, rates, given.seconds, given.rounds, settings, say)
    if given.json:
        print(json.dumps({"host": host, **as_json(full, low)}))
        return
    print(
        f"host: {host}\nclient: {given.client or 'the default'}; {given.items} items, median of {given.rounds} rounds"
    )
    for model, figures in full.items():
        print(f"\n{model} model, full log\n{pipeline.heading()}")
        for name, each in figures.items():
            print(f"{pipeline.row(name, each)}  {pipeline.VARIANTS[name].what}")
        for name, value in pipeline.ratios(figures).items():
            print(f"{name:50} {value:5.2f}")
    print("\nlow rates, transformer model")
    print("\n".join(low_rate.report(low)))


def as_json(full: Mapping[str, Mapping[str, Steady]], low: Mapping[tuple[float, str], Latency]) -> dict[str, Any]:
    return {
        "full": {model: {name: each._asdict() for name, each in figures.items()} for model, figures in full.items()},
        "low": [{"rate": rate, "what": name, **each._asdict()} for (rate, name), each in low.items()],
    }


if __name__ == "__main__":
    main()
