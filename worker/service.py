"""One worker process: puts the parts together, runs them, and takes them down in order."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Literal

from prometheus_client import CollectorRegistry

from worker import __version__
from worker.accounting import Totals
from worker.align import AlignRuntime, Contract, Space, WarmUpReport
from worker.assignment import HELD, Held
from worker.decode import Decoder
from worker.errors import ConfigError, WorkerError
from worker.fuse import Features, Vector
from worker.health import Health
from worker.http import HttpServer
from worker.kafka import ClientPort, make_client
from worker.metrics import LATENCY_BUCKETS, Metrics
from worker.pipeline import Pipeline
from worker.publish import OutputFormat
from worker.settings import Settings
from worker.status import AccountingStatus, PartitionStatus, Status
from worker.summary import Window, quantile
from worker.topics import check_topics
from worker.watchdog import RED_BEFORE_EXIT_S, Watchdog

log = logging.getLogger(__name__)

# The compute thread needs the interpreter for an instant between two long stretches without it, and waits for this
# long each time while the other threads are busy (`tests/bench/README.md`).
SWITCH_INTERVAL_S = 0.0005
GC_THRESHOLD = 100_000  # allocations without release; the interpreter's 700 is reached with every few records
RATE_WINDOW_S = 10.0
LATENCY_WINDOW_S = 60.0


class ModelEmbedder:
    """The runtime as the fuse stage sees it."""

    def __init__(self, runtime: AlignRuntime, vector_dtype: Literal["f2", "f4"]) -> None:
        self._runtime = runtime
        self._dtype = vector_dtype
        self._has_prior = runtime.space.spec.prior is not None

    def vectors(self, features: Sequence[Features]) -> list[Vector | None]:
        embedded = self._runtime.embed(features)
        rows, bad = embedded.rows(self._dtype), embedded.bad_rows
        alone = [None] * len(rows) if embedded.modality_vectors is None else embedded.modality_rows(self._dtype)
        priors = embedded.priors.tolist() if self._has_prior else [None] * len(rows)
        return [
            None if index in bad else Vector(*values)
            for index, values in enumerate(zip(rows, embedded.modalities, alone, priors, strict=True))
        ]

    def padded_size(self, num_items: int) -> int:
        return self._runtime.padded_size(num_items)

    def probe(self) -> None:
        self._runtime.probe()


class Service:
    """Runs a worker until it is told to stop. Assembled in `run`, because each part needs the ones before it."""

    def __init__(self, settings: Settings, client: ClientPort | None = None) -> None:
        if settings.space.path is None:
            raise ConfigError(
                "space.path is not set: make a space with `align-worker space create PATH --modality …` and name it"
            )
        self.settings = settings
        self.health = Health()
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry, settings.topics.items)
        self.client = client or make_client(settings.kafka)
        self._started_at_ms = time.time_ns() // 1_000_000
        self._board = StatusBoard(settings, self.metrics, self._started_at_ms)
        self.http = HttpServer(settings.http.host, settings.http.port, self.registry, self.health, self.status)
        self.running = threading.Event()

    def status(self) -> Status:
        return self._board.status

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; returns after a drain. Raises the `WorkerError` that ends the process."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        self.http.start()
        log.info("serving metrics and status at %s", self.http.address, extra={"action": "http"})
        try:
            self._run(stop)
        except Exception as error:
            detail = error.one_line() if isinstance(error, WorkerError) else repr(error)
            self.health.dead(detail)
            self._board.set_state("failed", detail)
            time.sleep(RED_BEFORE_EXIT_S)
            raise
        finally:
            self.http.close()

    def _run(self, stop: threading.Event) -> None:
        settings = self.settings
        with ThreadPoolExecutor(1, "load") as loader:  # the model loads while we wait for a broker
            loading: Future[tuple[Space, AlignRuntime, WarmUpReport]] = loader.submit(_load_model, settings)
            self.client.connect()
            for warning in check_topics(self.client, settings):
                log.warning("%s", warning, extra={"action": "topic_warning"})
            space, runtime, report = loading.result()
        self._describe_model(space, report)
        pipeline = Pipeline(
            settings,
            self.client,
            Decoder(Contract(space.spec)),
            ModelEmbedder(runtime, settings.publish.vector_dtype),
            OutputFormat(settings.topics, space.space_id, settings.publish.vector_dtype, space.spec.dim),
            self.metrics,
            self.health,
        )
        _calm_garbage_collector()
        watchdog = Watchdog(settings.watchdog, self.health, pipeline.vitals)
        self.health.started()
        self._board.set_state("running")
        watchdog.start()
        self.running.set()
        try:
            pipeline.run(stop, lambda: self._board.observe(pipeline, draining=stop.is_set()))
        except BaseException:
            watchdog.stop()
            pipeline.abort()
            raise
        watchdog.stop()
        self._board.set_state("stopped")

    def _describe_model(self, space: Space, report: WarmUpReport) -> None:
        device = {
            "device_requested": self.settings.device,
            "device_active": report.device,
            "dtype_requested": self.settings.dtype,
            "dtype_active": report.dtype,
        }
        self.metrics.device_info.info(device)
        self.metrics.space_info.info({"space_id": space.space_id, "dim": str(space.spec.dim)})
        self._board.describe(
            {"space_id": space.space_id, "dim": space.spec.dim, "modalities": list(space.spec.modalities)},
            device,
        )
        log.info(
            "model ready on %s in %s",
            report.device,
            report.dtype,
            extra={"action": "warm_up", "report": asdict(report)},
        )


def _calm_garbage_collector() -> None:
    """Look for cycles rarely: records make hardly any, but millions of objects that live for an instant.

    What start-up has made stays, and is left out of every search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 20)


def _load_model(settings: Settings) -> tuple[Space, AlignRuntime, WarmUpReport]:
    assert settings.space.path is not None  # checked at construction
    space = Space.load(settings.space.path)
    runtime = AlignRuntime(
        space,
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        max_batch=settings.batch.max_records,
        padded_sizes=settings.batch.padded_sizes,
        modality_vectors=settings.publish.modality_vectors,
    )
    return space, runtime, runtime.warm_up()


class StatusBoard:
    """Keeps the `Status` that the page shows; written by the main thread, read by the HTTP threads."""

    def __init__(self, settings: Settings, metrics: Metrics, started_at_ms: int) -> None:
        self._settings = settings
        self._metrics = metrics
        self._published = Window(RATE_WINDOW_S)
        self._latency = Window(LATENCY_WINDOW_S)
        self._freshness = Window(LATENCY_WINDOW_S)
        topics = settings.topics
        self.status = Status(
            version=__version__,
            state="starting",
            started_at_ms=started_at_ms,
            now_ms=started_at_ms,
            group_id=settings.kafka.group_id,
            group_stable=False,
            topics={
                "items": topics.items,
                "item_vectors": topics.item_vectors,
                "dead_letters": topics.dead_letters,
            },
            mode="live",
            partitions=[],
            accounting=accounting_status(metrics.accounting.totals),
            items_per_second=0.0,
            latency_ms={"p50": None, "p99": None},
            freshness_ms={"p50": None, "p99": None},
            batch_fill=0.0,
            batch_max_records=settings.batch.max_records,
            queue_records=0,
            queue_limit=settings.batch.queue_records,
            unacknowledged=0,
            space={},
            device={},
            dead_letters=[],
        )

    def set_state(self, state: str, detail: str = "") -> None:
        now_ms = time.time_ns() // 1_000_000
        self.status = self.status.model_copy(update={"state": state, "detail": detail, "now_ms": now_ms})

    def describe(self, space: dict[str, str | int | list[str]], device: dict[str, str]) -> None:
        self.status = self.status.model_copy(update={"space": space, "device": device})

    def observe(self, pipeline: Pipeline, *, draining: bool) -> None:
        metrics, now = self._metrics, time.monotonic()
        accounting = accounting_status(metrics.accounting.totals)
        self._published.add(now, [accounting.published])
        self._latency.add(now, metrics.latency.counts(metrics.topic))
        self._freshness.add(now, metrics.freshness.counts(metrics.topic))
        self.status = self.status.model_copy(
            update={
                "state": "draining" if draining else "running",
                "now_ms": time.time_ns() // 1_000_000,
                "group_stable": pipeline.is_stable,
                "mode": "backlog" if pipeline.is_backlog else "live",
                "partitions": [
                    partition_status(held, pipeline.lags.get(held.partition))
                    for held in sorted(pipeline.assignment.all(), key=lambda held: held.partition)
                ],
                "accounting": accounting,
                "items_per_second": round(self._published.rates()[0], 1),
                "latency_ms": _quantiles_ms(self._latency),
                "freshness_ms": _quantiles_ms(self._freshness),
                "batch_fill": pipeline.batch_fill,
                "queue_records": pipeline.num_queued,
                "unacknowledged": pipeline.num_unacknowledged,
                "dead_letters": list(pipeline.recent_dead_letters),
            }
        )


def _quantiles_ms(window: Window) -> dict[str, float | None]:
    counts = window.growth()
    values = {name: quantile(q, LATENCY_BUCKETS, counts) for name, q in (("p50", 0.5), ("p99", 0.99))}
    return {name: None if value is None else round(value * 1000, 1) for name, value in values.items()}


def partition_status(held: Held, lag: int | None) -> PartitionStatus:
    tenure = held.tenure
    return PartitionStatus(
        partition=held.partition.partition,
        state="stopped" if held.state == HELD else held.state,
        position=None if tenure is None else tenure.commit.offset + tenure.in_flight,
        committed=None if tenure is None else tenure.committed_offset,
        lag=None if lag is None or tenure is None else lag + tenure.in_flight,
        detail=held.detail,
    )


def accounting_status(totals: Totals) -> AccountingStatus:
    return AccountingStatus(
        consumed=totals.consumed,
        published=sum(totals.published.values()),
        superseded=sum(totals.superseded.values()),
        dead_lettered=sum(totals.dead_lettered.values()),
        abandoned=totals.abandoned,
        in_flight=totals.in_flight,
    )
