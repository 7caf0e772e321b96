"""Whether a PromQL query finds anything on a worker."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import promql_parser
from prometheus_client import CollectorRegistry

from tests.contract.deploy.artefacts import RULES, Document, document
from worker.encode.encoder import RemoteFigures
from worker.errors import UnreadableError
from worker.monitoring.metrics import EncodeMetrics, Metrics, ProcessMetrics, RemoteMetrics
from worker.sink.metrics import SinkMetrics
from worker.vector_health import CHECKS, Finding

TARGET_LABELS = {"namespace", "job", "instance", "pod"}
"""Put there by Prometheus, not by the worker."""

Samples = Mapping[str, list[Mapping[str, str]]]


def rules() -> list[Document]:
    return [rule for group in document(RULES)["groups"] for rule in group["rules"]]


def exposed_samples() -> Samples:
    """Every sample that a worker or a sink with one partition exposes: its labels, by its name."""
    registry = CollectorRegistry()
    metrics = Metrics(registry, "items")
    metrics.lag.labels("items", "0").set(0)
    metrics.show_unreadable([UnreadableError("items", 0, 7, "checksum", "its checksum is wrong")])
    metrics.position_lag.labels("items", "0").set(0)
    metrics.lag_seconds.set_since(["items", "0"], None)
    metrics.show_vector_health(
        "0f3a", [Finding(check, 1.0, 2.0, False, "") for check in CHECKS], dict.fromkeys(CHECKS, 0)
    )
    metrics.show_codes([200.0], 1.0)
    EncodeMetrics(metrics, ["text"], ["text"])
    registry.register(RemoteMetrics({"text": RemoteFigures(limit=4)}))
    SinkMetrics(registry)
    process = ProcessMetrics(registry)
    process.space_info.info({"space_id": "0f3a", "dim": "256"})
    process.device_info.info(
        dict.fromkeys(("device_requested", "device_active", "dtype_requested", "dtype_active"), "cpu")
    )
    found: dict[str, list[Mapping[str, str]]] = {"up": [{}]}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def labels_used(expression: str) -> set[str]:
    """Labels that aggregations keep."""
    return {
        label
        for node in _nodes(expression)
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None
        for label in node.modifier.labels
    }


def recorded_series() -> dict[str, set[str]]:
    """Labels of each recording rule's series."""
    return {rule["record"]: labels_used(rule["expr"]) for rule in rules() if "record" in rule}


def check_query(expression: str, samples: Samples) -> None:
    """Every selector finds a series, and every label that is kept is one."""
    selectors = [
        getattr(node, "vector_selector", node)
        for node in _nodes(expression)
        if isinstance(node, promql_parser.VectorSelector | promql_parser.MatrixSelector)
    ]
    assert selectors, "no selector"
    for selector in selectors:
        _check_selector(selector, samples, recorded_series())
    known = TARGET_LABELS | {label for each in samples.values() for labels in each for label in labels}
    assert labels_used(expression) <= known, f"no label {labels_used(expression) - known}"


def _nodes(expression: str) -> Iterator[Any]:
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(expression), found.append)
    yield from found


def _check_selector(selector: Any, samples: Samples, recorded: Mapping[str, set[str]]) -> None:
    name, matchers = selector.name, selector.matchers.matchers
    if name in recorded:
        assert {matcher.name for matcher in matchers} <= recorded[name], f"{name} has no such label"
        return
    assert name in samples, f"no metric {name}"
    matchers = [matcher for matcher in matchers if matcher.name not in TARGET_LABELS]
    kinds = (promql_parser.MatchOp.Equal, promql_parser.MatchOp.Re)
    assert all(matcher.op in kinds for matcher in matchers), "only = and =~ can be checked"
    # Of =~ every one of the alternatives must be there.
    values = [m.value.split("|") if m.op == promql_parser.MatchOp.Re else [m.value] for m in matchers]
    for chosen in product(*values):
        wanted = dict(zip([matcher.name for matcher in matchers], chosen, strict=True))
        assert any(wanted.items() <= labels.items() for labels in samples[name]), f"{name} has no series with {wanted}"
