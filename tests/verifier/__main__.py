"""Check that a run lost nothing: `python -m tests.verifier --bootstrap-servers localhost:9092`.

Exit code 0: all rules hold. 1: one is broken. 2: the logs are not enough to tell, or cannot be read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from kafka.errors import KafkaError

from tests.verifier.reading import client_options, verify_topics
from tests.verifier.rules import __doc__ as rules
from tests.verifier.verdict import Rule, Verdict

OK, BROKEN, UNDECIDED = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parser().parse_args(arguments)
    try:
        verdict = verify_topics(
            client_options(given.bootstrap_servers, given.api_version),
            items=given.items,
            item_vectors=given.item_vectors,
            dead_letters=given.dead_letters,
            metrics_urls=given.metrics_url,
            space_id=given.space_id,
            dims=dict(given.dims),
        )
    except (KafkaError, OSError) as error:  # OSError: also time-outs, and metrics pages that are not there
        print(f"cannot decide: {error or type(error).__name__}", file=sys.stderr)
        return UNDECIDED
    print(json.dumps(asdict(verdict) | {"ok": verdict.ok}, indent=2) if given.json else table(verdict))
    return OK if verdict.ok else BROKEN if verdict.breaches else UNDECIDED


def table(verdict: Verdict) -> str:
    """The verdict for a person."""
    rows = [(name, str(count)) for name, count in verdict.counts.items()]
    rows += [(f"dead: {reason}", str(count)) for reason, count in verdict.dead_letters_by_reason.items()]
    rows += [(f"latency {name}", f"{value} ms") for name, value in verdict.latency_ms.items()]
    rows += [(f"rule {rule}", f"{verdict.breaches[rule]} broken") for rule in Rule if rule in verdict.breaches]
    rows += [(f"rule {rule}", "holds") for rule in Rule if rule not in verdict.breaches]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value:>12}" for name, value in rows]
    return "\n".join([*lines, "", verdict.explain()])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.verifier",
        description=f"{__doc__}\n{rules}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bootstrap-servers", default="localhost:9092")
    parser.add_argument("--items", default="items", help="input topic")
    parser.add_argument("--item-vectors", default="item-vectors", help="output topic")
    parser.add_argument("--dead-letters", default="dead-letters", help="dead-letter topic")
    parser.add_argument("--metrics-url", action="append", default=[], help="/metrics of a live worker; once for each")
    parser.add_argument("--space-id", help="the space every vector must be of")
    parser.add_argument(
        "--dims", type=_dims, default={}, metavar="NAME=D,…", help="dimensions by modality, as text=384,image=512"
    )
    parser.add_argument(
        "--api-version", type=_version, metavar="X.Y", help="broker version to assume; 2.3 for the embedded broker"
    )
    parser.add_argument("--json", action="store_true")
    return parser


def _dims(text: str) -> dict[str, int]:
    return {name: int(size) for name, size in (pair.split("=") for pair in text.split(","))}


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("."))


if __name__ == "__main__":
    sys.exit(main())
