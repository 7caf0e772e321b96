"""What does the whole pipeline keep of the speed of its slowest part, and what does it win over a plain loop?

    python -m tests.bench.pipeline [--items 100000] [--rounds 3] [--model light] [--client confluent-kafka] [--json]

A real Kafka with 4 partitions, on the same cores, holds the items before anything is measured. Each variant is a fresh
process with a fresh group and fresh output topics, and reads from the beginning. It is watched from outside, by the
end of its output topic and its CPU time, between 10 % and 95 % of the items; nobody else reads or writes. Variants
take turns, and the figure of each is the median of its rounds.

`broker` is the CPU time per item of the Kafka, `others` the cores that everybody else used: where that is not near 0,
compare CPU time per item rather than rates, or use --quiet.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tests.bench.bytewax_loop import is_installed
from tests.bench.host import host_line
from tests.bench.progress import Steady, Watch, steady, wait_quiet
from tests.bench.workload import MALLOC, MODELS, Bed, Feeder, answer, open_bed, process, rounds, worker

FIRST, LAST = 0.10, 0.95  # of the items
MAX_TRIES = 4
QUIET_TIMEOUT_S = 60.0


class Variant(NamedTuple):
    what: str
    needs_kafka: bool = True
    settings: Mapping[str, str] = {}


VARIANTS: Mapping[str, Variant] = {
    "full": Variant("the worker: python -m worker run"),
    "full_whole": Variant("the same without remembered features", settings={"state__features": "false"}),
    "transport": Variant("its pipeline and client; decoder and model do nothing"),
    "model": Variant("AlignRuntime.embed alone, batches of 512", needs_kafka=False),
    "decoding": Variant("the worker's decoder alone", needs_kafka=False),
    "plain": Variant("plain loop on kafka-python, same codec and model"),
    "plain_remembering": Variant("the same, and every item to a changelog"),
    "plain_calm": Variant("plain, its interpreter set up as the worker's"),
    "bare": Variant("plain loop on kafka-python, no codec, no model"),
    "confluent": Variant("plain loop on confluent-kafka, same codec and model"),
    "confluent_pipelined": Variant("consume and compute thread on confluent-kafka, commits after delivery"),
    "bytewax": Variant("Bytewax: collect(512, 50 ms), same codec and model"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="separated by commas (default: %(default)s)")
    parser.add_argument("--model", choices=MODELS, default="transformer")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the worker")
    parser.add_argument("--client", help="the worker's Kafka client: `--set kafka.client=…`")
    parser.add_argument(
        "--quiet", type=float, metavar="CORES", help="try again while everybody else uses more than this"
    )
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    names = [name for name in arguments.variants.split(",") if can_run(name)]
    settings = dict(each.replace(".", "__").split("=", 1) for each in arguments.set) | client_setting(arguments.client)
    host = host_line()
    with open_bed(arguments.bootstrap_servers) as opened:
        bed = opened.with_model(arguments.model)
        fill(bed, "items", arguments.items)
        measure(bed, "bare", arguments.items, {})  # a broker that has just started compiles its code
        measured: dict[str, list[Steady]] = {name: [] for name in names}
        for _, name in rounds(names, arguments.rounds):
            measured[name].append(measure_quietly(bed, name, arguments.items, settings, arguments.quiet))
            if not arguments.json:
                print(f"  {row(name, measured[name][-1])}", flush=True)
    figures = {name: median(each) for name, each in measured.items()}
    if arguments.json:
        print(json.dumps({"host": host, "figures": as_json(figures), "ratios": ratios(figures)}))
    else:
        print("\n".join(report(host, arguments.items, arguments.rounds, settings, figures)))


def can_run(name: str) -> bool:
    """Whether all is installed that a variant needs; says so where it is not."""
    if name != "bytewax" or is_installed():
        return True
    print("bytewax is not installed (pip install bytewax): that variant is SKIPPED", file=sys.stderr)
    return False


def client_setting(client: str | None) -> dict[str, str]:
    return {} if client is None else {"kafka__client": client}


def fill(bed: Bed, topic: str, num_items: int) -> None:
    bed.create_topics([topic], {"cleanup.policy": "delete"})
    feeder = Feeder(bed.bootstrap_servers, topic)
    feeder.feed(num_items)
    feeder.flush()


def measure_quietly(
    bed: Bed, name: str, num_items: int, settings: Mapping[str, str], limit_cores: float | None
) -> Steady:
    """The least disturbed of a few tries; the first that was disturbed by less than the limit."""
    if limit_cores is None:
        return measure(bed, name, num_items, settings)
    tries: list[Steady] = []
    for _ in range(MAX_TRIES):
        wait_quiet(limit_cores, QUIET_TIMEOUT_S)
        tries.append(measure(bed, name, num_items, settings))
        if tries[-1].others_cores < limit_cores:
            break
    return min(tries, key=lambda each: each.others_cores)


def measure(bed: Bed, name: str, num_items: int, settings: Mapping[str, str]) -> Steady:
    environment = bed.worker_environment("items", **VARIANTS[name].settings, **settings)
    if not VARIANTS[name].needs_kafka:
        return Steady(**answer("tests.bench.variants", name, environment=environment))
    child = (
        worker(environment)
        if name.startswith("full")
        else process("tests.bench.variants", name, environment=environment, stdout=subprocess.DEVNULL)
    )
    with child as running:
        samples = Watch(bed, environment["ALIGN_TOPICS__ITEM_VECTORS"], running).until(num_items)
    return steady(samples, int(FIRST * num_items), int(LAST * num_items))


def median(measured: Sequence[Steady]) -> Steady:
    return Steady(*(statistics.median(values) for values in zip(*measured, strict=True)))


def ratios(figures: Mapping[str, Steady]) -> dict[str, float]:
    """Of the rates: what the whole keeps of its slowest part, and what it wins over the loops."""
    rate = {name: figure.items_per_s for name, figure in figures.items()}
    found = {}
    if {"full", "transport", "model"} <= rate.keys():
        found["full / min(transport, model)"] = rate["full"] / min(rate["transport"], rate["model"])
    for whole, loop in (
        ("full", "plain"), ("full", "plain_remembering"), ("full_whole", "plain"), ("full", "confluent"),
        *((each, loop) for loop in ("confluent_pipelined", "bytewax") for each in ("full_whole", "full")),
    ):  # fmt: skip
        if {whole, loop} <= rate.keys():
            found[f"{whole} / {loop}"] = rate[whole] / rate[loop]
    if {"transport", "bare"} <= rate.keys():
        found["transport / bare"] = rate["transport"] / rate["bare"]
    return found | cpu_ratios({name: figure.cpu_us_per_item for name, figure in figures.items()})


def cpu_ratios(cost: Mapping[str, float]) -> dict[str, float]:
    """Of the CPU time per item: what the whole costs against its parts, against the loops, and to remember."""
    found = {}
    if {"full_whole", "transport", "model", "decoding"} <= cost.keys():
        parts = cost["transport"] + cost["model"] + cost["decoding"]
        found["CPU: full_whole / (transport + model + decoding)"] = cost["full_whole"] / parts
    if {"full", "full_whole"} <= cost.keys():
        found["CPU: full / full_whole"] = cost["full"] / cost["full_whole"]
    for loop in ("plain", "confluent_pipelined", "bytewax"):
        for whole in ("full_whole", "full"):
            if {whole, loop} <= cost.keys():
                found[f"CPU: {whole} / {loop}"] = cost[whole] / cost[loop]
    return found


def as_json(figures: Mapping[str, Steady]) -> dict[str, Any]:
    return {name: figure._asdict() for name, figure in figures.items()}


def report(
    host: str, num_items: int, num_rounds: int, settings: Mapping[str, str], figures: Mapping[str, Steady]
) -> list[str]:
    changed = "".join(f", {name}={value}" for name, value in settings.items())
    malloc = " ".join(f"{name}={value}" for name, value in MALLOC.items())
    return [
        f"host: {host}",
        f"{num_items} items, median of {num_rounds} rounds; {malloc}{changed}",
        heading(),
        *(f"{row(name, each)}  {VARIANTS[name].what}" for name, each in figures.items()),
        *(f"{name:50} {value:5.2f}" for name, value in ratios(figures).items()),
    ]


def heading() -> str:
    return f"{'':20} {'items/s':>9} {'CPU µs/item':>12} {'cores':>6} {'broker':>7} {'others':>7}"


def row(name: str, each: Steady) -> str:
    return (
        f"{name:20} {each.items_per_s:9,.0f} {each.cpu_us_per_item:12.1f} {each.cores:6.2f} "
        f"{each.broker_us_per_item:7.1f} {each.others_cores:7.2f}"
    )


if __name__ == "__main__":
    main()
