"""Every metric, label and bucket, in one place, on a registry passed in.

Counters are touched once per micro-batch, never per record, and by one thread each. Label values come from closed
sets, and their children exist from the start, so that `rate()` sees the first increment.
"""

from __future__ import annotations

import platform
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import repeat
from typing import TYPE_CHECKING, ClassVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas import SCHEMA_VERSION, Reason
from worker import __version__
from worker.errors import UnreadableError
from worker.monitoring.accounting import Accounting
from worker.partitions.state import PartitionState, StopReason

if TYPE_CHECKING:  # commands that encode nothing import the names of metrics, too
    from worker.align.usage import DeviceUsage
    from worker.encode.content import Report
    from worker.encode.encoder import RemoteFigures
    from worker.vector_health import Finding

STAGES = ("poll", "decode", "encode", "fuse", "publish", "commit")
CLOSE_REASONS = ("full", "bytes", "age", "idle", "drain", "backfill")
REBALANCE_EVENTS = ("assigned", "revoked", "lost")
COMMIT_RESULTS = ("ok", "not_member", "error")
TRANSACTION_RESULTS = ("committed", "failed", "rebalance", "replaced", "timeout")
CONTENT_REASONS = tuple(
    reason.value
    for reason in (
        Reason.UNDECODABLE,
        Reason.DECODER_FAILED,
        Reason.TOO_LARGE,
        Reason.URI_REFUSED,
        Reason.FETCH_FAILED,
        Reason.MODEL_FAILURE,
    )
)
REWIND_REASONS = tuple(reason.value for reason in StopReason)
BUSY_STAGES = ("poll", "encode", "compute", "publish")
"""Those with a thread of their own that records pass through."""

STAGE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
# Lag after an outage is minutes, so the latency buckets reach half an hour; 1 s is the freshness objective.
LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)


class BulkHistogram(Collector):
    """A histogram that takes a batch of observations at once.

    `prometheus_client.Histogram` costs about 2 µs per observation, under the interpreter lock; per item that is a
    tenth of what the whole pipeline may cost.
    """

    def __init__(
        self, name: str, documentation: str, label: str, values: Sequence[str], buckets: Sequence[float]
    ) -> None:
        self._name, self._documentation, self._label = name, documentation, label
        self._bounds = tuple(buckets)
        self._counts = {value: [0] * (len(buckets) + 1) for value in values}
        self._sums = dict.fromkeys(values, 0.0)

    def observe_many(self, value: str, seconds: Iterable[float]) -> None:
        """Add observations for one label value. One thread at a time."""
        observed = list(seconds)
        counts, bounds = self._counts[value], self._bounds
        places = Counts(map(bisect_left, repeat(bounds), observed))
        for place, count in places.items():
            counts[place] += count
        self._sums[value] += sum(observed)

    def counts(self, value: str) -> list[int]:
        """Observations per bucket, not cumulated; the last one is beyond the last bound."""
        return list(self._counts[value])

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, counts in self._counts.items():
            cumulated, buckets = 0, []
            for bound, count in zip((*map(str, map(float, self._bounds)), "+Inf"), counts, strict=True):
                cumulated += count
                buckets.append((bound, float(cumulated)))
            family.add_metric([value], buckets, self._sums[value])
        yield family


class AgeGauge(Collector):
    """How long ago something was, as of the scrape: it grows although nobody who would set it moves any more."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._clock = clock
        self._since: dict[tuple[str, ...], Callable[[], float | None]] = {}

    def set_since(self, labels: Sequence[str], since: float | None) -> None:
        """The moment by the clock; None: no time at all."""
        self.ask(labels, lambda: since)

    def ask(self, labels: Sequence[str], since: Callable[[], float | None]) -> None:
        """Have `since` say it at each scrape, on the scrape's thread."""
        self._since[tuple(labels)] = since

    def remove(self, labels: Sequence[str]) -> None:
        self._since.pop(tuple(labels), None)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        family = GaugeMetricFamily(self._name, self._documentation, labels=self._labels)
        for labels, ask in list(self._since.items()):
            since = ask()
            family.add_metric(labels, 0.0 if since is None else max(0.0, self._clock() - since))
        yield family


class Metrics:
    """All metrics of one role. `topic` is always the input topic, except where a name says otherwise."""

    def __init__(self, registry: CollectorRegistry, topic: str) -> None:
        self.registry = registry
        self.topic = topic

        def counter(name: str, documentation: str, *labels: str, values: Iterable[str] = ()) -> Counter:
            made = Counter(name, documentation, labels, registry=registry)
            _make_children(made, topic, labels, values)
            return made

        def gauge(name: str, documentation: str, *labels: str) -> Gauge:
            made = Gauge(name, documentation, labels, registry=registry)
            if labels == ("topic",):
                made.labels(topic)
            return made

        def histogram(
            name: str, documentation: str, *labels: str, buckets: Sequence[float], values: Iterable[str] = ()
        ) -> Histogram:
            made = Histogram(name, documentation, labels, buckets=buckets, registry=registry)
            for value in values:
                made.labels(value)
            return made

        self.accounting = Accounting(topic)
        registry.register(self.accounting)
        self.dead_letter_failures = counter(
            "align_dead_letter_failures_total",
            "Dead letters that could not be written; their partition waits.",
            "topic",
        )
        self.features_ignored = counter(
            "align_features_ignored_total", "Features of a modality that the space does not have.", "topic"
        )
        self.content_ignored = counter(
            "align_content_ignored_total", "Raw content that no encoder is configured for.", "topic"
        )
        self.uninformative = counter(
            "align_features_uninformative_total",
            "Features left out, or vectors of them, because they say nothing: zeros, or one value throughout.",
            "topic",
            "modality",
        )
        self.uninformative.labels(topic, "other")
        self.unused_events = counter(
            "align_events_unused_total",
            "Events of a type that the space does not use, by type; from the 21st type on, `other`.",
            "topic",
            "type",
        )
        self.unused_events.labels(topic, "other")

        self.without_vector = counter(
            "align_without_vector_total", "Users of whose events no vector can be made.", "topic"
        )
        self.recomputed = counter(
            "align_recomputed_total",
            "Users, or items, computed anew because of an item's vector, without a message.",
            "topic",
        )

        # The next space, while a rollout is under way.
        self.backfilled = counter(
            "align_backfilled_total", "Items, or users, published in the next space from what is remembered.", "topic"
        )
        self.backfill_left = gauge(
            "align_backfill_left", "Items, or users, of this worker still to be published in the next space.", "topic"
        )
        self.backfill_eta = gauge(
            "align_backfill_eta_seconds", "Until those are published; NaN where that cannot be said.", "topic"
        )
        self.next_missing = gauge(
            "align_next_space_missing", "Items, or users, that have a vector and none in the next space.", "topic"
        )
        self.next_failed = gauge("align_next_space_failed", "1 where this worker has given the next space up.", "topic")

        # State.
        self.state_values = gauge("align_state_values", "Items or users that are remembered.", "topic")
        self.state_bytes = gauge("align_state_bytes", "Room that they take, in memory or under state.dir.", "topic")
        self.restored = counter("align_restored_records_total", "Changelog records read to restore state.", "topic")
        self.waiting = gauge(
            "align_waiting_pairs", "Users, or items, waiting for the vector of an item, by pairs.", "topic"
        )
        self.waiting_overflow = counter(
            "align_waiting_overflow_total", "Pairs that did not fit users.max_waiting or graph.max_waiting.", "topic"
        )
        self.table_items = gauge("align_table_items", "Item vectors in the table on the device.", "topic")
        self.table_bytes = gauge("align_table_bytes", "Room that the table takes.", "topic")
        self.table_foreign = counter(
            "align_table_foreign_total", "Records of the item vectors that are not of this space.", "topic"
        )

        # Time.
        self.freshness = BulkHistogram(
            "align_freshness_seconds", "Event time to acknowledged vector.", "topic", [topic], LATENCY_BUCKETS
        )
        self.latency = BulkHistogram(
            "align_end_to_end_latency_seconds",
            "Append to the log to acknowledged vector.",
            "topic",
            [topic],
            LATENCY_BUCKETS,
        )
        registry.register(self.freshness)
        registry.register(self.latency)
        self.clock_skew = counter("align_event_clock_skew_total", "Records whose event time is in the future.", "topic")
        self.stage_duration = histogram(
            "align_stage_duration_seconds",
            "Time of one step of a stage.",
            "stage",
            buckets=STAGE_BUCKETS,
            values=STAGES,
        )
        self.busy = counter(
            "align_stage_busy_seconds_total",
            "Time that the thread of a stage did not wait for work or for room.",
            "stage",
            values=BUSY_STAGES,
        )
        self.batch_wait = histogram(
            "align_batch_wait_seconds",
            "Age of a batch's oldest record when it is taken.",
            buckets=LATENCY_BUCKETS,
        )
        self.batch_size = histogram(
            "align_batch_size_records",
            "Items in a micro-batch.",
            "reason",
            buckets=[2.0**n for n in range(15)],
            values=CLOSE_REASONS,
        )
        self.batch_fill = gauge("align_batch_fill_ratio", "Items in the last micro-batch / batch.max_records.")
        self.padding = gauge("align_batch_padding_ratio", "Padding rows / rows computed, of the last micro-batch.")

        # Kafka.
        self.lag = gauge(
            "align_consumer_lag_records", "End of the log minus the committed offset.", "topic", "partition"
        )
        self.position_lag = gauge(
            "align_consumer_position_lag_records", "End of the log minus the position.", "topic", "partition"
        )
        self.lag_seconds = AgeGauge(
            "align_consumer_lag_seconds",
            "Age that the oldest record may have that is not finished. Grows while no broker says that there is none.",
            ["topic", "partition"],
        )
        registry.register(self.lag_seconds)
        self.silence = AgeGauge(
            "align_broker_silence_seconds", "Time since a broker has last answered anything.", ["topic"]
        )
        self.silence.set_since([topic], None)
        registry.register(self.silence)
        self.topic_partitions = gauge(
            "align_topic_partitions", "Partitions of the input topic, whoever has them.", "topic"
        )
        self.partitions = gauge("align_partitions", "Partitions of this worker, by what they do.", "topic", "state")
        self.stopped_partitions = gauge(
            "align_stopped_partitions", "Partitions that wait after a failure.", "topic", "reason"
        )
        for state in PartitionState:
            self.partitions.labels(topic, state.value)
        for reason in StopReason:
            self.stopped_partitions.labels(topic, reason.value)
        self.restoring_seconds = AgeGauge(
            "align_restoring_seconds",
            "For how long the partition has not been running that is restored, or about to be, longest.",
            ["topic"],
        )
        self.restoring_seconds.set_since([topic], None)
        registry.register(self.restoring_seconds)
        self.assigned_partitions = gauge("align_assigned_partitions", "Partitions of this worker.", "topic")
        self.paused_partitions = gauge("align_paused_partitions", "Partitions not fetched at present.", "topic")
        self.queue_depth = gauge("align_queue_depth_records", "Records decoded and waiting for compute.")
        self.unacknowledged = gauge("align_unacknowledged_records", "Records sent and not acknowledged.")
        self.unreadable = gauge(
            "align_unreadable_offset",
            "First offset that cannot be read of a partition that waits for it; there is none when all is well.",
            "topic",
            "partition",
            "fault",
        )
        self._unreadable: set[tuple[str, str, str]] = set()
        self.rebalances = counter(
            "align_rebalances_total", "Changes of the assignment.", "event", values=REBALANCE_EVENTS
        )
        self.commits = counter("align_commits_total", "Offset commits.", "result", values=COMMIT_RESULTS)
        self.rewinds = counter(
            "align_rewinds_total",
            "Returns to the committed offset after a failure.",
            "reason",
            values=REWIND_REASONS,
        )
        self.transactions = counter(
            "align_transactions_total",
            "Transactions, by what became of them: committed, or why not.",
            "result",
            values=TRANSACTION_RESULTS,
        )
        self.transaction_duration = BulkHistogram(
            "align_transaction_duration_seconds",
            "First record of a transaction to its commit, with all that it waits for.",
            "topic",
            [topic],
            STAGE_BUCKETS,
        )
        registry.register(self.transaction_duration)
        self.expired = counter(
            "align_records_expired_total",
            "Offsets that the log dropped before the group had read them.",
            "topic",
        )
        self.keys_astray = counter(
            "align_keys_astray_total",
            "Item vectors whose key had come in another partition before.",
            "topic",
        )
        self.partitioners = gauge(
            "align_partitioners",
            "Partitioners that it takes to explain where the keys lie; 0: not known yet, or none of the usual.",
            "topic",
        )
        self.new_logs = counter(
            "align_new_logs_total",
            "Times that a partition's logs were not those of before, and were taken up.",
            "topic",
        )
        self.poll_errors = counter(
            "align_poll_errors_total", "Polls that failed, or that no broker had answered for 10 s.", "topic"
        )
        self.request_errors = counter("align_request_errors_total", "Requests that no broker answered.", "topic")
        self.last_poll = gauge("align_last_poll_timestamp_seconds", "When the last poll returned.")
        self.last_commit = gauge("align_last_commit_timestamp_seconds", "When the last commit succeeded.")
        self.last_publish = gauge("align_last_publish_timestamp_seconds", "When the last output was acknowledged.")

        # Vectors, before they are published.
        self.vector_health = gauge(
            "align_vector_health",
            "1: the last vectors pass the check, 0: they do not; there is none before so many were made.",
            "topic",
            "space",
            "check",
        )
        self.vector_health_value = gauge(
            "align_vector_health_value", "What the check looks at, of the last vectors.", "topic", "space", "check"
        )
        self.vector_health_limit = gauge(
            "align_vector_health_limit", "From where on the value is ill.", "topic", "space", "check"
        )
        self.vector_health_ill = counter(
            "align_vector_health_ill_total",
            "Blocks of 334 vectors at which the check was ill.",
            "topic",
            "space",
            "check",
        )

        self.code_perplexity = gauge(
            "align_code_perplexity",
            "Codes of a level that would be in use as much if all were used alike, over the last 20,000 items.",
            "topic",
            "level",
        )
        self.code_residual = gauge(
            "align_code_residual_ratio",
            "What codes leave of a vector, over what they left of those they were learned from; 0: there are none.",
            "topic",
        )

        # Model.
        self.out_of_memory = counter("align_out_of_memory_total", "Batches halved because memory ran out.")

    def transaction_results(self) -> dict[str, int]:
        """Transactions so far, by result."""
        made = {result: self.transactions.labels(result) for result in TRANSACTION_RESULTS}
        return {result: int(each._value.get()) for result, each in made.items()}  # noqa: SLF001  # see `raise_to`

    def show_unreadable(self, errors: Iterable[UnreadableError]) -> None:
        """These partitions cannot be read on, and no others."""
        found = {(error.topic, str(error.partition), error.fault): error.offset for error in errors}
        for labels in self._unreadable - found.keys():
            self.unreadable.remove(*labels)
        for labels, offset in found.items():
            self.unreadable.labels(*labels).set(offset)
        self._unreadable = set(found)

    def show_vector_health(self, space_id: str, findings: Iterable[Finding], num_ill: Mapping[str, int]) -> None:
        """What was found of the last vectors; `num_ill` by check since the start."""
        for finding in findings:
            labels = self.topic, space_id, finding.check
            self.vector_health.labels(*labels).set(not finding.is_ill)
            self.vector_health_value.labels(*labels).set(finding.value)
            self.vector_health_limit.labels(*labels).set(finding.limit)
        for check, count in num_ill.items():
            raise_to(self.vector_health_ill.labels(self.topic, space_id, check), count)

    def forget_vector_health(self, space_id: str, checks: Iterable[str]) -> None:
        """Drop the figures of a space that is published no more."""
        for check in checks:
            for gauge in (self.vector_health, self.vector_health_value, self.vector_health_limit):
                with suppress(KeyError):
                    gauge.remove(self.topic, space_id, check)

    def show_codes(self, perplexities: Sequence[float], residual_ratio: float) -> None:
        """Of the last items; by level."""
        for level, perplexity in enumerate(perplexities, 1):
            self.code_perplexity.labels(self.topic, str(level)).set(perplexity)
        self.code_residual.labels(self.topic).set(residual_ratio)

    def forget_partition(self, topic: str, partition: int) -> None:
        """Drop the series of a partition that is no longer ours, which would otherwise keep its last value."""
        for gauge in (self.lag, self.position_lag):
            with suppress(KeyError):  # some versions of the library raise it for a series that was never set
                gauge.remove(topic, str(partition))
        self.lag_seconds.remove([topic, str(partition)])


class EncodeMetrics:
    """Figures of encoding raw content, by modality. Touched by the encode threads, one at a time (`EncodeStage` holds a
    lock)."""

    def __init__(self, metrics: Metrics, modalities: Iterable[str], contents: Iterable[str]) -> None:
        """`contents` are the names of contents, which several modalities may be made of."""
        self._stage_duration = metrics.stage_duration.labels("encode")

        def counter(name: str, documentation: str, values: Iterable[str]) -> Counter:
            made = Counter(name, documentation, ["modality"], registry=metrics.registry)
            _make_children(made, "", ["modality"], values)
            return made

        modalities, contents = tuple(modalities), tuple(contents)
        self.seconds = counter("align_encode_seconds_total", "Time that the encoder took.", modalities)
        self.encoded = counter("align_encode_contents_total", "Contents that were encoded.", modalities)
        self.reused = counter(
            "align_encode_reused_total", "Contents not encoded, because they were encoded before.", modalities
        )
        self.cut = counter("align_encode_cut_total", "Contents longer than the encoder takes.", modalities)
        self.cost = counter(
            "align_encode_cost_units_total", "Tokens, characters, pixels or samples encoded.", modalities
        )
        self.padded_cost = counter(
            "align_encode_padded_cost_units_total", "The same with what batches were padded with.", modalities
        )
        self.padding = Gauge(
            "align_encode_padding_ratio", "Padding / padded cost, of the last batch.", ["modality"],
            registry=metrics.registry,
        )  # fmt: skip
        self.failures = Counter(
            "align_encode_failures_total", "Contents that could not be used.", ["modality", "reason"],
            registry=metrics.registry,
        )  # fmt: skip
        for modality in modalities:
            self.padding.labels(modality)
            for reason in CONTENT_REASONS:
                self.failures.labels(modality, reason)
        self.read_seconds = counter("align_content_read_seconds_total", "Time that media files took to read.", contents)
        self.read = counter("align_content_read_total", "Media files read, or tried to.", contents)
        self.fetch_seconds = counter("align_fetch_seconds_total", "Time that URIs took to fetch.", contents)
        self.fetches = counter("align_fetches_total", "URIs fetched, or tried to.", contents)
        self.fetch_failures = counter(
            "align_fetch_failures_total", "URIs that were refused or could not be fetched.", contents
        )

    def observe(self, report: Report, seconds: float) -> None:
        """Add what one batch took."""
        self._stage_duration.observe(seconds)
        for name, figures in report.by_modality.items():
            self.seconds.labels(name).inc(figures.encode_s)
            self.encoded.labels(name).inc(figures.encoded)
            self.reused.labels(name).inc(figures.reused)
            self.cut.labels(name).inc(figures.cut)
            self.cost.labels(name).inc(figures.cost)
            self.padded_cost.labels(name).inc(figures.padded_cost)
            if figures.padded_cost:
                self.padding.labels(name).set(1 - figures.cost / figures.padded_cost)
            for reason, count in figures.failed.items():
                self.failures.labels(name, reason.value).inc(count)
        for name, reading in report.by_content.items():
            self.read_seconds.labels(name).inc(reading.decode_s)
            self.read.labels(name).inc(reading.decoded)
            self.fetch_seconds.labels(name).inc(reading.fetch_s)
            self.fetches.labels(name).inc(reading.fetched)
            self.fetch_failures.labels(name).inc(reading.fetch_failed)


class RemoteMetrics(Collector):
    """Figures of the servers that encode, by modality; read when the metrics are."""

    COUNTERS: ClassVar[Mapping[str, tuple[str, str]]] = {
        "align_remote_requests": ("requests", "Requests to the server that encodes."),
        "align_remote_answers": ("answered", "Requests that were answered with vectors."),
        "align_remote_answer_seconds": ("answer_s", "Time from a request to its vectors."),
        "align_remote_retries": ("retries", "Requests made again."),
        "align_remote_busy": ("busy", "Answers that said that there is too much to do (429, 503)."),
        "align_remote_faults": ("faults", "Requests that came to nothing: no connection, no answer, 5xx, nonsense."),
        "align_remote_refused": ("refused", "Contents that the server does not take while it takes others."),
    }
    GAUGES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "align_remote_in_flight": ("in_flight", "Requests under way."),
        "align_remote_limit": ("limit", "Requests that may be under way, as the server answers now."),
        "align_remote_down": ("is_open", "1 while the server is not asked, because it fails or is another one."),
    }

    def __init__(self, figures: Mapping[str, RemoteFigures]) -> None:
        """By modality."""
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        for name, (field, documentation) in {**self.COUNTERS, **self.GAUGES}.items():
            kind = CounterMetricFamily if name in self.COUNTERS else GaugeMetricFamily
            family: CounterMetricFamily | GaugeMetricFamily = kind(name, documentation, labels=["modality"])
            for modality, figures in self._figures.items():
                family.add_metric([modality], float(getattr(figures, field)))
            yield family


class ProcessMetrics:
    """Metrics of the process, whatever its roles."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.build_info = Info("align_build", "What this process is.", registry=registry)
        self.build_info.info(
            {
                "version": __version__,
                "python": platform.python_version(),
                "schema_version": str(SCHEMA_VERSION),
            }
        )
        self.space_info = Info("align_space", "The space of the published vectors.", registry=registry)
        self.device_info = Info("align_device", "Device and dtype, as requested and as active.", registry=registry)
        self.watchdog = Gauge(
            "align_watchdog_ratio",
            "Time that a thread has not moved, or the group not been stable, / time after which the process is ended.",
            registry=registry,
        )
        self.gpu = GpuUsage()
        registry.register(self.gpu)
        ProcessCollector(registry=registry)


class GpuUsage(Collector):
    """Use of the GPU when it was last looked at; nothing where there is none."""

    def __init__(self) -> None:
        self._device = ""
        self._usage: DeviceUsage | None = None

    def set(self, device: str, usage: DeviceUsage) -> None:
        self._device, self._usage = device, usage

    def collect(self) -> Iterator[Metric]:
        usage = self._usage
        if usage is None:
            return
        for name, documentation, value in (
            ("align_gpu_memory_allocated_bytes", "GPU memory that tensors of this process take.", usage.allocated),
            ("align_gpu_memory_reserved_bytes", "GPU memory that this process has taken.", usage.reserved),
            ("align_gpu_memory_bytes", "GPU memory that there is.", usage.total),
            ("align_gpu_utilization_ratio", "Share of the last second in which the GPU computed.", usage.utilization),
        ):
            if value is not None:
                family = GaugeMetricFamily(name, documentation, labels=["device"])
                family.add_metric([self._device], value)
                yield family


class ByRole(Collector):
    """The metrics of each role, told apart by the label `role`."""

    def __init__(self, registries: Mapping[str, CollectorRegistry]) -> None:
        self._registries = registries

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for role, registry in self._registries.items():
            for family in registry.collect():
                merged = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                merged.samples += [sample._replace(labels={**sample.labels, "role": role}) for sample in family.samples]
        yield from families.values()


def raise_to(counter: Counter, total: float) -> None:
    """Bring a counter to a total that is counted elsewhere."""
    counter.inc(max(0.0, total - counter._value.get()))  # noqa: SLF001  # it has no other way to ask


def _make_children(counter: Counter, topic: str, labels: Sequence[str], values: Iterable[str]) -> None:
    if labels == ("topic",):
        counter.labels(topic)
    for value in values:
        counter.labels(value)
