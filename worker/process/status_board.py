"""Keeps the `Status` that the page shows: written by the poll threads, read by the HTTP threads."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from worker import __version__
from worker.encode.encoder import RemoteFigures
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.backfilling import BackfillFigures
from worker.loop.pipeline import Pipeline
from worker.loop.restore import Progress
from worker.monitoring.accounting import Totals
from worker.monitoring.concerns import Figures, StoppedPartition, concerns
from worker.monitoring.metrics import LATENCY_BUCKETS, STAGE_BUCKETS, Metrics
from worker.monitoring.recent_warnings import RecentWarnings
from worker.monitoring.status import (
    AccountingStatus,
    BackfillStatus,
    Concern,
    EncoderStatus,
    GroupStatus,
    History,
    Mode,
    PartitionStatus,
    ProcessState,
    RoleStatus,
    RolloutStatus,
    Status,
    VectorCheckStatus,
)
from worker.monitoring.summary import Track, Window, quantile
from worker.partitions.state import PartitionState
from worker.process.rollout_watch import RolloutWatch
from worker.rollout.plan import Phase
from worker.rollout.progress import objections
from worker.settings import Settings
from worker.stages.encode import EncodeStage
from worker.topics import RoleName, RoleTopics, topics_of_roles
from worker.vector_health import VectorWatch

log = logging.getLogger(__name__)

RATE_WINDOW_S = 10.0
LATENCY_WINDOW_S = 60.0
RECENT_WINDOW_S = 300.0
HISTORY_S, HISTORY_STEP_S = 1_800.0, 10.0
CONCERN_REPEAT_S = 600.0


class StatusBoard:
    def __init__(
        self,
        settings: Settings,
        metrics: Mapping[RoleName, Metrics],
        started_at_ms: int,
        recent_warnings: RecentWarnings | None = None,
    ) -> None:
        self._roles = {
            topics.role: RoleBoard(settings, topics, metrics[topics.role]) for topics in topics_of_roles(settings)
        }
        self._lock = threading.Lock()
        self.recent_warnings = recent_warnings or RecentWarnings()
        """To be a handler of the log."""
        self.rollout: RolloutWatch | None = None
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
            rollout=None if self.rollout is None else rollout_status(self.rollout),
        )

    def _update(self, **changes: Any) -> None:
        with self._lock:
            changes["warnings"] = self.recent_warnings.newest_first()
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
        self._recent = RecentInput(RECENT_WINDOW_S)
        self._history = Track(HISTORY_S, HISTORY_STEP_S)
        self._warn_share = settings.refused.warn_share
        self._concerns = ConcernLog(topics.role)
        self._began_at: float | None = None
        self._stable_at = time.monotonic()
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
        partitions = [
            partition_status(held, pipeline.observer.lags.get(held.partition), pipeline.restore.progress)
            for held in sorted(pipeline.assignment.all(), key=lambda held: held.partition)
        ]
        self._began_at = now if self._began_at is None else self._began_at
        lags = [each.lag for each in partitions if each.lag is not None]
        self._history.add(now, time.time_ns() // 1_000_000, accounting.published, sum(lags) if lags else None)
        self._stable_at = now if pipeline.observer.is_stable else self._stable_at
        found = concerns(self._figures(pipeline, now), self._warn_share)
        self._concerns.tell(found, now)
        self.status = self.status.model_copy(
            update={
                "group_stable": pipeline.observer.is_stable,
                "mode": Mode.BACKLOG if pipeline.observer.is_backlog else Mode.LIVE,
                "partitions": partitions,
                "accounting": accounting,
                "per_second": round(self._published.rates()[0], 1),
                "mean_per_second": round(accounting.published / max(1.0, now - self._began_at), 1),
                "history": History(**dict(zip(History.model_fields, self._history.points(), strict=True))),
                "concerns": found,
                "latency_ms": _quantiles_ms(self._latency),
                "freshness_ms": _quantiles_ms(self._freshness),
                "batch_fill": pipeline.compute.batch_fill,
                "queue_records": pipeline.observer.num_queued,
                "unacknowledged": pipeline.observer.num_unacknowledged,
                "transactions": self._transactions(now) if self._is_transactional else {},
                "state": {
                    "remembered": pipeline.observer.num_values,
                    "bytes": pipeline.observer.num_state_bytes,
                    **pipeline.role.status(),
                    **_shown(pipeline.backfilling.figures),
                },
                "backfill": backfill_status(
                    pipeline.backfilling.figures,
                    None if (beside := pipeline.backfilling.space) is None else beside.watch,
                ),
                "dead_letters": list(pipeline.ledger.recent_dead_letters),
                "incidents": list(pipeline.ledger.incidents),
                "unreadable": [error.one_line() for error in pipeline.faults.errors()],
                "encoders": encoder_status(pipeline.role.encoding),
                "vector_health": vector_status(pipeline.role.watch),
            }
        )

    def _figures(self, pipeline: Pipeline, now: float) -> Figures:
        metrics, held, encoding = self._metrics, pipeline.assignment.all(), pipeline.role.encoding
        totals, overflow = metrics.accounting.totals, metrics.waiting_overflow.labels(metrics.topic)
        encoders = {} if encoding is None else encoding.totals
        recent = self._recent.growth(
            now,
            {
                "published": {"": sum(totals.published.values())},
                "superseded": totals.superseded,
                "refused": totals.dead_lettered,
                "encoded": {name: each.encoded + each.reused for name, each in encoders.items()},
                "not_encoded": {name: each.refused for name, each in encoders.items()},
                "overflown": {"": int(overflow._value.get())},  # noqa: SLF001  # see `raise_to`
            },
        )
        stopped = [each for each in held if each.state == PartitionState.STOPPED]
        return Figures(
            published=recent["published"][""],
            superseded=recent["superseded"],
            refused=recent["refused"],
            encoded=recent["encoded"],
            not_encoded=recent["not_encoded"],
            num_overflown=recent["overflown"][""],
            num_partitions=len(held),
            stopped=[StoppedPartition(each.partition.partition, each.detail) for each in stopped],
            unreadable=[error.one_line() for error in pipeline.faults.errors()],
            silent_s=pipeline.observer.silent_s,
            unstable_s=now - self._stable_at,
            restoring_s=0.0 if pipeline.observer.restoring_since is None else now - pipeline.observer.restoring_since,
            unaccounted=pipeline.ledger.unaccounted,
            ill_vectors=[
                (finding.check, finding.detail)
                for finding in (() if pipeline.role.watch is None else pipeline.role.watch.findings)
                if finding.is_ill
            ],
            next_failed="" if (moved := pipeline.backfilling.figures) is None else moved.failure,
            num_missing=0 if moved is None else moved.num_missing,
            missing=() if moved is None else moved.examples,
        )

    def _transactions(self, now: float) -> dict[str, float | None]:
        metrics = self._metrics
        self._transaction_times.add(now, metrics.transaction_duration.counts(metrics.topic))
        results = metrics.transaction_results()
        committed = results.pop("committed")
        times = {f"{name}_ms": value for name, value in _quantiles_ms(self._transaction_times, STAGE_BUCKETS).items()}
        return {"committed": committed, "aborted": sum(results.values()), **times}


def _shown(figures: BackfillFigures | None) -> dict[str, int]:
    """For people, among what else the role has."""
    if figures is None or figures.failure:
        return {}
    shown = {
        "next space: left": figures.num_left,
        "next space: per second": round(figures.per_second),
        "next space: partitions left": figures.num_partitions - figures.num_complete,
    }
    return shown if figures.eta_s is None else {**shown, "next space: seconds left": round(figures.eta_s)}


def backfill_status(figures: BackfillFigures | None, watch: VectorWatch | None) -> BackfillStatus | None:
    if figures is None:
        return None
    return BackfillStatus(
        space_id=figures.space_id,
        topic=figures.topic,
        partitions=figures.num_partitions,
        complete=figures.num_complete,
        done=figures.num_done,
        left=figures.num_left,
        missing=figures.num_missing,
        examples=list(figures.examples),
        per_second=figures.per_second,
        eta_s=figures.eta_s,
        failure=figures.failure,
        vector_health=vector_status(watch),
    )


def rollout_status(watch: RolloutWatch) -> RolloutStatus | None:
    plan, progress = watch.standing.plan, watch.progress
    if plan is None:
        return None
    failure = watch.standing.failure
    against = (
        objections(progress, watch.health, failure) if plan.phase is Phase.MOVING else [failure] if failure else []
    )
    return RolloutStatus(
        phase=plan.phase.value,
        readers=plan.readers.space_id,
        next=None if plan.next is None else plan.next.space_id,
        failure=failure,
        swap_waits=watch.swap_waits,
        objections=against,
        groups={
            role: GroupStatus(
                partitions=each.num_partitions, complete=each.num_complete, left=each.num_left, missing=each.num_missing
            )
            for role, each in progress.items()
        },
    )


Counts = Mapping[str, Mapping[str, int]]


class RecentInput:
    """How much counts have grown over the last `seconds` in which anything came to an end. While nothing comes, that
    stays as it was: a worker that has refused all it was sent is not well because nobody sends it more."""

    def __init__(self, seconds: float) -> None:
        self._window = Window(seconds)
        self._last: list[int] | None = None

    def growth(self, now: float, counts: Counts) -> dict[str, Counter[str]]:
        """The names must be the same at each call."""
        values = [count for group in counts.values() for count in group.values()]
        if self._last is None:
            self._window.add(now, [0] * len(values))
        if values != self._last:
            self._window.add(now, values)
            self._last = values
        grown = iter(self._window.growth())
        return {group: Counter({name: int(next(grown)) for name in names}) for group, names in counts.items()}


class ConcernLog:
    """Says in the log what begins, goes on for long, and ends."""

    def __init__(self, role: str) -> None:
        self._role = role
        self._told_at: dict[str, float] = {}

    def tell(self, found: Sequence[Concern], now: float) -> None:
        kinds = {concern.kind: concern for concern in found}
        for kind, concern in kinds.items():
            if now - self._told_at.get(kind, -CONCERN_REPEAT_S) >= CONCERN_REPEAT_S:
                self._told_at[kind] = now
                log.warning(
                    "%s: %s. %s", self._role, concern.title, concern.detail, extra={"action": "concern", "kind": kind}
                )
        for kind in self._told_at.keys() - kinds.keys():
            del self._told_at[kind]
            log.info("%s: it is over: %s", self._role, kind, extra={"action": "concern_over", "kind": kind})


def _quantiles_ms(window: Window, buckets: Sequence[float] = LATENCY_BUCKETS) -> dict[str, float | None]:
    counts = window.growth()
    values = {name: quantile(q, buckets, counts) for name, q in (("p50", 0.5), ("p99", 0.99))}
    return {name: None if value is None else round(value * 1000, 1) for name, value in values.items()}


def partition_status(held: AssignedPartition, lag: int | None, restoring: Progress | None) -> PartitionStatus:
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


def encoder_status(encoding: EncodeStage | None) -> list[EncoderStatus]:
    servers = {} if encoding is None else encoding.encoder.remote_figures()
    return [
        EncoderStatus(
            modality=modality,
            encoder=totals.encoder,
            encoded=totals.encoded,
            reused=totals.reused,
            refused=totals.refused,
            ms_each=round(1000 * totals.encode_s / totals.encoded, 2) if totals.encoded else None,
            server=server_status(servers[modality]) if modality in servers else "",
        )
        for modality, totals in (encoding.totals.items() if encoding is not None else ())
    ]


def vector_status(watch: VectorWatch | None) -> list[VectorCheckStatus]:
    findings = () if watch is None else watch.findings
    return [VectorCheckStatus(**finding._asdict()) for finding in findings]


def server_status(figures: RemoteFigures) -> str:
    """For a person."""
    if figures.is_open:
        return f"down: {figures.detail}"
    each = f", {1000 * figures.answer_s / figures.answered:.0f} ms each" if figures.answered else ""
    return f"{figures.answered} requests answered{each}, {figures.in_flight} of {figures.limit} under way"


def accounting_status(totals: Totals) -> AccountingStatus:
    return AccountingStatus(
        consumed=totals.consumed,
        published=sum(totals.published.values()),
        superseded=sum(totals.superseded.values()),
        dead_lettered=sum(totals.dead_lettered.values()),
        abandoned=totals.abandoned,
        in_flight=totals.in_flight,
    )
