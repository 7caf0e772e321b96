"""Metrics of a sink, beside the figures that every reader of a topic has (`monitoring/metrics.py`)."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram

from worker.monitoring.metrics import STAGE_BUCKETS, AgeGauge


class SinkMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.failures = Counter(
            "align_sink_failures_total", "Attempts to write a batch to the index that failed.", registry=registry
        )
        self.duration = Histogram(
            "align_sink_write_seconds",
            "Time from when a batch was taken until the index had acknowledged it, retries included.",
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self.rows = Histogram(
            "align_sink_batch_records", "Records in a batch.", buckets=[2.0**n for n in range(15)], registry=registry
        )
        self.waiting = AgeGauge(
            "align_sink_waiting_seconds", "For how long the index has not taken a batch that is tried again.", ()
        )
        self.waiting.set_since((), None)
        registry.register(self.waiting)
