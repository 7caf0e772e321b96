"""Keeps the `Status` that the page shows: written by the poll threads, read by the HTTP threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from worker import __version__
from worker.loop.assignment import Held
from worker.loop.pipeline import Pipeline
from worker.loop.restore import Progress
from worker.monitoring.accounting import Totals
from worker.monitoring.metrics import LATENCY_BUCKETS, STAGE_BUCKETS, Metrics
from worker.monitoring.status import (
    AccountingStatus,
    EncoderStatus,
    Mode,
    PartitionStatus,
    ProcessState,
    RoleStatus,
    Status,
)
from worker.monitoring.summary import Window, quantile
from worker.settings import Settings
from worker.stages.encode import Encoding
from worker.topics import RoleName, RoleTopics, topics_of_roles

RATE_WINDOW_S = 10.0
LATENCY_WINDOW_S = 60.0


class StatusBoard:
    def __init__(self, settings: Settings, metrics: Mapping[RoleName, Metrics], started_at_ms: int) -> None:
        self._roles = {
            topics.role: RoleBoard(settings, topics, metrics[topics.role]) for topics in topics_of_roles(settings)
        }
        self._lock = threading.Lock()
        self.status = Status(
            version=__version__,
            state=ProcessState.STARTING,
            started_at_ms=started_at_ms,
            now_ms=started_at_ms,
            delivery=settings.delivery,
            space={},
            device={},
            roles=[board.status for board in self._roles.values()],
        )

    def set_state(self, state: ProcessState, detail: str = "") -> None:
        self._update(state=state, detail=detail, now_ms=time.time_ns() // 1_000_000)

    def describe(self, space: dict[str, str | int | list[str]], device: dict[str, str]) -> None:
        self._update(space=space, device=device)

    def observe(self, pipeline: Pipeline, draining: bool) -> None:
        """On the pipeline's poll thread."""
        self._roles[pipeline.role.topics.role].observe(pipeline)
        self._update(
            state=ProcessState.DRAINING if draining else ProcessState.RUNNING,
            now_ms=time.time_ns() // 1_000_000,
            roles=[board.status for board in self._roles.values()],
        )

    def _update(self, **changes: Any) -> None:
        with self._lock:
            self.status = self.status.model_copy(update=changes)


class RoleBoard:
    """The part of one role."""

    def __init__(self, settings: Settings, topics: RoleTopics, metrics: Metrics) -> None:
        self._metrics = metrics
        self._is_transactional = settings.delivery == "exactly_once"
        self._transaction_times = Window(LATENCY_WINDOW_S)
        self._published = Window(RATE_WINDOW_S)
        self._latency = Window(LATENCY_WINDOW_S)
        self._freshness = Window(LATENCY_WINDOW_S)
        self.status = RoleStatus(
            role=topics.role,
            group_id=topics.group_id,
            group_stable=False,
            topics={
                "inputs": topics.inputs,
                "outputs": topics.outputs,
                "state": topics.state,
                "dead_letters": topics.dead_letters,
            },
            mode=Mode.LIVE,
            partitions=[],
            accounting=accounting_status(metrics.accounting.totals),
            per_second=0.0,
            latency_ms={"p50": None, "p99": None},
            freshness_ms={"p50": None, "p99": None},
            batch_fill=0.0,
            batch_max_records=settings.batch.max_records,
            queue_records=0,
            queue_limit=settings.batch.queue_records,
            unacknowledged=0,
            state={},
            dead_letters=[],
        )

    def observe(self, pipeline: Pipeline) -> None:
        metrics, now = self._metrics, time.monotonic()
        accounting = accounting_status(metrics.accounting.totals)
        self._published.add(now, [accounting.published])
        self._latency.add(now, metrics.latency.counts(metrics.topic))
        self._freshness.add(now, metrics.freshness.counts(metrics.topic))
        self.status = self.status.model_copy(
            update={
                "group_stable": pipeline.is_stable,
                "mode": Mode.BACKLOG if pipeline.is_backlog else Mode.LIVE,
                "partitions": [
                    partition_status(held, pipeline.lags.get(held.partition), pipeline.restoring)
                    for held in sorted(pipeline.assignment.all(), key=lambda held: held.partition)
                ],
                "accounting": accounting,
                "per_second": round(self._published.rates()[0], 1),
                "latency_ms": _quantiles_ms(self._latency),
                "freshness_ms": _quantiles_ms(self._freshness),
                "batch_fill": pipeline.batch_fill,
                "queue_records": pipeline.num_queued,
                "unacknowledged": pipeline.num_unacknowledged,
                "transactions": self._transactions(now) if self._is_transactional else {},
                "state": {
                    "remembered": pipeline.num_values,
                    "bytes": pipeline.num_state_bytes,
                    **pipeline.role.figures(),
                },
                "dead_letters": list(pipeline.recent_dead_letters),
                "encoders": encoder_status(pipeline.role.encoding),
            }
        )

    def _transactions(self, now: float) -> dict[str, float | None]:
        metrics = self._metrics
        self._transaction_times.add(now, metrics.transaction_duration.counts(metrics.topic))
        results = metrics.transaction_results()
        committed = results.pop("committed")
        times = {f"{name}_ms": value for name, value in _quantiles_ms(self._transaction_times, STAGE_BUCKETS).items()}
        return {"committed": committed, "aborted": sum(results.values()), **times}


def _quantiles_ms(window: Window, buckets: Sequence[float] = LATENCY_BUCKETS) -> dict[str, float | None]:
    counts = window.growth()
    values = {name: quantile(q, buckets, counts) for name, q in (("p50", 0.5), ("p99", 0.99))}
    return {name: None if value is None else round(value * 1000, 1) for name, value in values.items()}


def partition_status(held: Held, lag: int | None, restoring: Progress | None) -> PartitionStatus:
    tenure, detail = held.tenure, held.detail
    if restoring is not None and restoring.partition == held.partition.partition:
        detail = f"changelog read to {restoring.position:,} of {restoring.end:,}"
    return PartitionStatus(
        partition=held.partition.partition,
        state=held.state,
        position=None if tenure is None else tenure.commit.offset + tenure.in_flight,
        committed=None if tenure is None else tenure.committed_offset,
        lag=None if lag is None or tenure is None else lag + tenure.in_flight,
        detail=detail,
    )


def encoder_status(encoding: Encoding | None) -> list[EncoderStatus]:
    return [
        EncoderStatus(
            modality=modality,
            encoder=totals.encoder,
            encoded=totals.encoded,
            reused=totals.reused,
            refused=totals.refused,
            ms_each=round(1000 * totals.encode_s / totals.encoded, 2) if totals.encoded else None,
        )
        for modality, totals in (encoding.totals.items() if encoding is not None else ())
    ]


def accounting_status(totals: Totals) -> AccountingStatus:
    return AccountingStatus(
        consumed=totals.consumed,
        published=sum(totals.published.values()),
        superseded=sum(totals.superseded.values()),
        dead_lettered=sum(totals.dead_lettered.values()),
        abandoned=totals.abandoned,
        in_flight=totals.in_flight,
    )
