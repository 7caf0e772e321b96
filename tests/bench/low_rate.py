"""What do few messages cost, and how soon is each done, beside 25 lines on confluent-kafka?

    python -m tests.bench.low_rate [--rates 50,200] [--seconds 20] [--rounds 2] [--client confluent-kafka] [--json]

As `tests.bench.latency` measures it, with the worker's defaults; the worker and the loop take turns, and the figure of
each is the median of its rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence

from tests.bench.host import host_line
from tests.bench.latency import LOOP, Latency, heading, measure_latency, row
from tests.bench.pipeline import client_setting
from tests.bench.workload import MODELS, Bed, open_bed, rounds

RATES = (50.0, 200.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", default=",".join(f"{rate:g}" for rate in RATES), help="items per second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", choices=MODELS, default="transformer")
    parser.add_argument("--client", help="the worker's Kafka client: `kafka.client`")
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    host, rates = host_line(), [float(each) for each in given.rates.split(",")]
    say = (lambda text: None) if given.json else (lambda text: print(text, flush=True))
    say(f"host: {host}")
    with open_bed(given.bootstrap_servers) as bed:
        found = compare(
            bed.with_model(given.model), rates, given.seconds, given.rounds, client_setting(given.client), say
        )
    if given.json:
        print(json.dumps({"host": host, "rows": [
            {"rate": rate, "what": name, **each._asdict()} for (rate, name), each in found.items()
        ]}))  # fmt: skip
    else:
        print("\n".join(report(found)))


def compare(
    bed: Bed,
    rates: Sequence[float],
    seconds: float,
    num_rounds: int,
    settings: Mapping[str, str],
    say: Callable[[str], None],
) -> dict[tuple[float, str], Latency]:
    """By rate, of the worker and of the loop."""
    found: dict[tuple[float, str], Latency] = {}
    for rate in rates:
        measured: dict[str, list[Latency]] = {"loop": [], "worker": []}
        for _, name in rounds(list(measured), num_rounds):
            made = (
                measure_latency(bed, rate, seconds, loop=LOOP)
                if name == "loop"
                else measure_latency(bed, rate, seconds, settings=settings)
            )
            measured[name].append(made)
            say(f"  {row(name, rate, made)}")
        for name, each in measured.items():
            found[rate, name] = Latency(*map(statistics.median, zip(*each, strict=True)))  # type: ignore[arg-type]
    return found


def report(found: Mapping[tuple[float, str], Latency]) -> list[str]:
    lines = [heading("")]
    lines += [row(name, rate, each) for (rate, name), each in found.items()]
    for rate in dict.fromkeys(rate for rate, _ in found):
        ours, theirs = found[rate, "worker"], found[rate, "loop"]
        lines.append(
            f"worker / loop at {rate:g}/s: p50 {ours.p50_ms / theirs.p50_ms:.2f}, p99 "
            f"{ours.p99_ms / theirs.p99_ms:.2f}, CPU {ours.cpu_ms / theirs.cpu_ms:.2f}"
        )
    return lines


if __name__ == "__main__":
    main()
