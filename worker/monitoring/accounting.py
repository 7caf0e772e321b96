"""Accounts of records: consumed = published + superseded + dead-lettered + abandoned + in flight.

The counts change on the poll thread (and, while that is blocked in a poll, on the client's). What is exported is a
snapshot taken between two steps of the loop, so that the sum holds in every scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from schemas import Reason

KINDS = ("upsert", "tombstone")
SUPERSEDED_REASONS = (
    "stale_revision",
    "same_batch",
    "duplicate",
    "too_old",
    "unused_type",
    "skipped",
    "unused_modality",
    "without_vector",
)


class Totals(NamedTuple):
    """The counts of one moment."""

    consumed: int
    published: dict[str, int]
    superseded: dict[str, int]
    dead_lettered: dict[str, int]
    abandoned: int
    in_flight: int

    def unaccounted(self) -> int:
        """Zero, unless a record got lost on the way or was counted twice."""
        ended = sum(self.published.values()) + sum(self.superseded.values()) + sum(self.dead_lettered.values())
        return self.consumed - ended - self.abandoned - self.in_flight


class Accounting(Collector):
    """Counts of one input topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self.consumed = 0
        self.published: Counter[str] = Counter(dict.fromkeys(KINDS, 0))
        self.superseded: Counter[str] = Counter(dict.fromkeys(SUPERSEDED_REASONS, 0))
        self.dead_lettered: Counter[str] = Counter(dict.fromkeys((reason.value for reason in Reason), 0))
        self.abandoned = 0
        """Handed back unfinished at a rebalance or a retry; consumed again by whoever has the partition then."""
        self.totals = self.snapshot(0)

    def snapshot(self, in_flight: int) -> Totals:
        """Take, and export from now on, the counts as they are."""
        self.totals = Totals(
            self.consumed,
            dict(self.published),
            dict(self.superseded),
            dict(self.dead_lettered),
            self.abandoned,
            in_flight,
        )
        return self.totals

    def collect(self) -> Iterator[Metric]:
        totals, topic = self.totals, self._topic
        for name, documentation, count in (
            ("consumed", "Records taken from the log.", totals.consumed),
            ("abandoned", "Records handed back unfinished at a rebalance or a retry.", totals.abandoned),
        ):
            plain = CounterMetricFamily(f"align_records_{name}", documentation, labels=["topic"])
            plain.add_metric([topic], count)
            yield plain
        for name, documentation, label, counts in (
            ("published", "Records whose output is acknowledged.", "kind", totals.published),
            (
                "superseded",
                "Records that need no output of their own: overtaken, known already, or of no use.",
                "reason",
                totals.superseded,
            ),
            ("dead_lettered", "Records whose dead letter is acknowledged.", "reason", totals.dead_lettered),
        ):
            split = CounterMetricFamily(f"align_records_{name}", documentation, labels=["topic", label])
            for value, count in counts.items():
                split.add_metric([topic, value], count)
            yield split
        in_flight = GaugeMetricFamily("align_records_in_flight", "Records consumed and not finished.", labels=["topic"])
        in_flight.add_metric([topic], totals.in_flight)
        yield in_flight
