"""What a scrape returns is what Prometheus reads: its own linter is asked.

Needs `promtool`, on PATH or named by PROMTOOL; on Debian it is part of the package `prometheus`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from schemas import Reason
from worker.encode.content import Report
from worker.encode.encoder import RemoteFigures
from worker.monitoring.health import Health
from worker.monitoring.http import HttpServer
from worker.monitoring.metrics import (
    CLOSE_REASONS,
    COMMIT_RESULTS,
    REBALANCE_EVENTS,
    REWIND_REASONS,
    STAGES,
    ByRole,
    EncodeMetrics,
    Metrics,
    ProcessMetrics,
    RemoteMetrics,
)
from worker.monitoring.status import Status

TOPIC = 'items "v2"\\eu'  # no legal topic name, but a label value that needs all of the format's escapes


@pytest.fixture(scope="module")
def promtool() -> str:
    path = os.environ.get("PROMTOOL") or shutil.which("promtool")
    if path is None:
        pytest.skip("promtool is not on PATH and PROMTOOL does not name it (Debian package: prometheus)")
    return path


def make_metrics() -> CollectorRegistry:
    """The metrics of a worker that everything has happened to."""
    metrics = Metrics(CollectorRegistry(), TOPIC)
    for partition in ("0", "1", "2"):
        metrics.lag.labels(TOPIC, partition).set(120)
        metrics.position_lag.labels(TOPIC, partition).set(7)
    metrics.forget_partition(TOPIC, 1)
    accounting = metrics.accounting
    accounting.consumed = 20
    accounting.published.update(upsert=12, tombstone=1)
    accounting.dead_lettered.update({reason.value: 1 for reason in Reason})
    accounting.snapshot(in_flight=1)
    metrics.freshness.observe_many(TOPIC, [0.02, 0.3, 7.0, 10_000.0])
    metrics.latency.observe_many(TOPIC, [0.01, 0.2])
    for stage in STAGES:
        metrics.stage_duration.labels(stage).observe(0.004)
    for reason in CLOSE_REASONS:
        metrics.batch_size.labels(reason).observe(512)
    metrics.batch_wait.observe(0.02)
    for counter, values in (
        (metrics.rebalances, REBALANCE_EVENTS),
        (metrics.commits, COMMIT_RESULTS),
        (metrics.rewinds, REWIND_REASONS),
    ):
        for value in values:
            counter.labels(value).inc()
    metrics.last_poll.set(1_767_225_600.5)
    measured, report = EncodeMetrics(metrics, ["text", "frames"], ["text", "video"]), Report()
    report.by_modality["frames"].padded_cost = 7
    report.by_content["video"].decoded = 1
    measured.observe(report, 0.2)
    metrics.registry.register(RemoteMetrics({"text": RemoteFigures(requests=3, answered=2, answer_s=0.5)}))
    registry = CollectorRegistry()
    process = ProcessMetrics(registry)
    process.space_info.info({"space_id": "0f3a", "dim": "256", "modalities": "image,text"})
    process.device_info.info({"requested": "auto", "active": "cuda:0", "dtype": "bfloat16"})
    other = Metrics(CollectorRegistry(), "events")
    registry.register(ByRole({"items": metrics.registry, "users": other.registry}))
    return registry


def scrape(registry: CollectorRegistry) -> bytes:
    def no_status() -> Status:
        raise AssertionError

    server = HttpServer("127.0.0.1", 0, registry, Health(), no_status)
    server.start()
    try:
        with urlopen(f"{server.address}/metrics", timeout=10) as response:
            body: bytes = response.read()
    finally:
        server.close()
    return body


def lint(promtool: str, text: bytes) -> tuple[int, str]:
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_a_busy_worker_passes_the_linter(promtool: str) -> None:
    assert lint(promtool, scrape(make_metrics())) == (0, "")


def test_an_idle_worker_passes_the_linter(promtool: str) -> None:
    assert lint(promtool, scrape(Metrics(CollectorRegistry(), "items").registry)) == (0, "")


def test_the_linter_would_complain(promtool: str) -> None:
    """Were it to pass anything, the tests above would prove nothing."""
    code, said = lint(promtool, b"# TYPE align_lag counter\nalign_lag 1\n")
    assert code != 0
    assert "_total" in said
    assert lint(promtool, b'align_lag{topic="a} 1\n')[0] != 0
