"""The metrics: complete from the first scrape, bounded, and true to Prometheus's own histogram."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import Metric as Family
from prometheus_client.parser import text_string_to_metric_families

from worker.align.usage import DeviceUsage
from worker.errors import UnreadableError
from worker.monitoring import metrics as catalogue
from worker.monitoring.http import exposition
from worker.monitoring.metrics import LATENCY_BUCKETS, AgeGauge, BulkHistogram, ByRole, Metrics, ProcessMetrics
from worker.partitions.state import PartitionState

PER_PARTITION = {"align_consumer_lag_records", "align_consumer_lag_seconds", "align_consumer_position_lag_records"}
OF_A_SPACE = {
    "align_vector_health", "align_vector_health_value", "align_vector_health_limit", "align_vector_health_ill",
    "align_code_perplexity",
}  # fmt: skip
"""There is no space before it is loaded; then `show_vector_health` makes their series."""


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics(CollectorRegistry(), "items")
    ProcessMetrics(made.registry)
    return made


def families(registry: CollectorRegistry) -> dict[str, Family]:
    """Of the worker's own metrics."""
    found = text_string_to_metric_families(exposition(registry).decode())
    return {family.name: family for family in found if not family.name.startswith("process_")}


def label_values(registry: CollectorRegistry, family: str, label: str) -> set[str]:
    return {sample.labels[label] for sample in families(registry)[family].samples}


# The catalogue


def test_every_metric_is_named_and_explained(metrics: Metrics) -> None:
    found = families(metrics.registry)
    assert len(found) > 25
    for name, family in found.items():
        assert name.startswith("align_"), name
        assert family.documentation.endswith("."), name


def test_no_series_of_creation_times(metrics: Metrics) -> None:
    assert b"_created" not in exposition(metrics.registry)


def test_all_series_exist_before_the_first_event(metrics: Metrics) -> None:
    """`rate()` misses the first increment of a series that it has never seen at zero."""
    for name, family in families(metrics.registry).items():
        if name in OF_A_SPACE:
            continue
        assert bool(family.samples) is (name not in {*PER_PARTITION, "align_unreadable_offset"}), name
        if family.type in ("counter", "histogram"):
            assert {sample.value for sample in family.samples} == {0.0}, name


@pytest.mark.parametrize(
    ("family", "label", "values"),
    [
        ("align_stage_duration_seconds", "stage", catalogue.STAGES),
        ("align_batch_size_records", "reason", catalogue.CLOSE_REASONS),
        ("align_rebalances", "event", catalogue.REBALANCE_EVENTS),
        ("align_commits", "result", catalogue.COMMIT_RESULTS),
        ("align_rewinds", "reason", catalogue.REWIND_REASONS),
        ("align_poll_errors", "topic", ("items",)),
        ("align_freshness_seconds", "topic", ("items",)),
        ("align_paused_partitions", "topic", ("items",)),
        ("align_stopped_partitions", "reason", catalogue.REWIND_REASONS),
        ("align_partitions", "state", tuple(PartitionState)),
        ("align_stage_busy_seconds", "stage", catalogue.BUSY_STAGES),
    ],
)
def test_label_values_come_from_closed_sets(metrics: Metrics, family: str, label: str, values: Sequence[str]) -> None:
    assert label_values(metrics.registry, family, label) == set(values)


def test_labels_are_few(metrics: Metrics) -> None:
    allowed = {"topic", "partition", "stage", "reason", "event", "result", "kind", "le", "state", "type", "modality"}
    for name, family in families(metrics.registry).items():
        if family.type != "info" and not name.endswith("_info"):
            assert {label for sample in family.samples for label in sample.labels} <= allowed, name


def test_the_freshness_objective_is_a_bucket_bound() -> None:
    """A ratio of two buckets tells the share within the objective only where the objective is a bound."""
    assert 1 in LATENCY_BUCKETS


def test_roles_share_an_exposition_and_are_told_apart() -> None:
    items, users = Metrics(CollectorRegistry(), "items"), Metrics(CollectorRegistry(), "events")
    items.batch_fill.set(0.5)
    users.batch_fill.set(0.25)
    registry = CollectorRegistry()
    registry.register(ByRole({"items": items.registry, "users": users.registry}))
    found = families(registry)
    fill = {sample.labels["role"]: sample.value for sample in found["align_batch_fill_ratio"].samples}
    assert fill == {"items": 0.5, "users": 0.25}
    assert found.keys() == families(items.registry).keys()


# Partitions


def test_a_forgotten_partition_leaves_no_series(metrics: Metrics) -> None:
    for partition in (0, 1):
        metrics.lag.labels("items", str(partition)).set(5)
        metrics.position_lag.labels("items", str(partition)).set(4)
        metrics.lag_seconds.set_since(["items", str(partition)], 0.0)
    metrics.forget_partition("items", 0)
    for family in PER_PARTITION:
        assert label_values(metrics.registry, family, "partition") == {"1"}


def test_forgetting_a_partition_that_has_no_series_is_no_error(metrics: Metrics) -> None:
    metrics.lag.labels("items", "3").set(1)
    metrics.forget_partition("items", 3)
    metrics.forget_partition("items", 3)
    metrics.forget_partition("items", 99)
    assert families(metrics.registry)["align_consumer_lag_records"].samples == []


# Ages


def test_an_age_grows_although_nobody_sets_it() -> None:
    now = [100.0]
    gauge = AgeGauge("align_x_seconds", "X.", ["topic"], clock=lambda: now[0])
    registry = CollectorRegistry()
    registry.register(gauge)

    def value() -> float | None:
        return registry.get_sample_value("align_x_seconds", {"topic": "items"})

    gauge.set_since(["items"], 90.0)
    assert value() == 10.0
    now[0] = 250.0
    assert value() == 160.0
    gauge.set_since(["items"], 300.0)
    assert value() == 0.0, "never below zero"
    gauge.set_since(["items"], None)
    assert value() == 0.0
    heard_at = [240.0]
    gauge.ask(["items"], lambda: heard_at[0])
    assert value() == 10.0
    heard_at[0] = 249.0
    assert value() == 1.0
    gauge.remove(["items"])
    assert value() is None


# The process and its device


def test_the_process_says_when_it_started_and_what_it_takes(metrics: Metrics) -> None:
    """A crash loop is seen by the time of the start."""
    found = {family.name for family in text_string_to_metric_families(exposition(metrics.registry).decode())}
    assert {"process_start_time_seconds", "process_cpu_seconds", "process_resident_memory_bytes"} <= found
    started = metrics.registry.get_sample_value("process_start_time_seconds")
    assert started is not None
    assert 0 < started < time.time()


def test_a_gpu_is_shown_where_there_is_one_and_no_utilisation_that_nobody_knows() -> None:
    registry = CollectorRegistry()
    gpu = ProcessMetrics(registry).gpu

    def shown() -> dict[str, float]:
        return {
            sample.name: sample.value
            for family in families(registry).values()
            for sample in family.samples
            if sample.labels.get("device") == "cuda:0"
        }

    assert shown() == {}
    gpu.set("cuda:0", DeviceUsage(allocated=10, reserved=20, total=80, utilization=None))
    assert shown() == {
        "align_gpu_memory_allocated_bytes": 10,
        "align_gpu_memory_reserved_bytes": 20,
        "align_gpu_memory_bytes": 80,
    }
    gpu.set("cuda:0", DeviceUsage(allocated=10, reserved=20, total=80, utilization=0.5))
    assert shown()["align_gpu_utilization_ratio"] == 0.5


# The bulk histogram


def twins(buckets: Sequence[float]) -> tuple[CollectorRegistry, BulkHistogram, CollectorRegistry, Histogram]:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    bulk = BulkHistogram("align_x_seconds", "X.", "topic", ["a", "b"], buckets)
    ours.register(bulk)
    plain = Histogram("align_x_seconds", "X.", ["topic"], buckets=buckets, registry=theirs)
    for value in ("a", "b"):
        plain.labels(value)
    return ours, bulk, theirs, plain


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("buckets", [LATENCY_BUCKETS, (1,), (0.1, 0.2, 0.30000000000000004)])
def test_the_bulk_histogram_equals_the_librarys(seed: int, buckets: Sequence[float]) -> None:
    dice = random.Random(seed)
    ours, bulk, theirs, plain = twins(buckets)
    for _ in range(20):
        value = dice.choice("ab")
        # Multiples of 1/1024 add up exactly, in any order; bounds belong to their own bucket.
        seconds = [round(dice.expovariate(2) * 1024) / 1024 for _ in range(dice.randrange(40))] + [1.0, 0.0, -0.5]
        seconds += [4096.0] * dice.randrange(3)
        bulk.observe_many(value, seconds)
        for observed in seconds:
            plain.labels(value).observe(observed)
    assert exposition(ours) == exposition(theirs)


def test_bounds_belong_to_their_bucket() -> None:
    ours, bulk, theirs, plain = twins(LATENCY_BUCKETS)
    bulk.observe_many("a", LATENCY_BUCKETS)
    assert bulk.counts("a") == [1] * len(LATENCY_BUCKETS) + [0]
    for bound in LATENCY_BUCKETS:
        plain.labels("a").observe(bound)
    assert exposition(ours) == exposition(theirs)


def test_counts_are_a_copy() -> None:
    _, bulk, _, _ = twins((1, 2))
    bulk.counts("a")[0] = 99
    assert bulk.counts("a") == [0, 0, 0]


def test_an_unknown_label_value_is_refused() -> None:
    _, bulk, _, _ = twins((1, 2))
    with pytest.raises(KeyError):
        bulk.observe_many("c", [1.0])


def test_what_cannot_be_read_is_shown_for_as_long_as_it_cannot(metrics: Metrics) -> None:
    first = UnreadableError("items", 1, 7, "checksum", "its checksum is wrong")
    second = UnreadableError("item-state", 0, 0, "data", "its records are no valid zstd")
    for errors in ([first, second], [second], []):
        metrics.show_unreadable(errors)
        (family,) = metrics.unreadable.collect()
        assert [(*sample.labels.values(), sample.value) for sample in family.samples] == [
            (error.topic, str(error.partition), error.fault, error.offset) for error in errors
        ]
