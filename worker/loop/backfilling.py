"""Brings what is remembered into the next space, behind live traffic and no faster than it may.

From when there is a next space, every tenure publishes in it, too; what was there before waits here and is put into
micro-batches as there is room. How far it has come is said in the commits (`partitions/backfill.py`), so that whoever
takes a partition over goes on there, and the whole group is seen to be done.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from worker.item_vectors.dependents import Dependents
from worker.loop.assigned_partition import AssignedPartition
from worker.loop.assignment import Assignment
from worker.loop.restore import RestoreStage
from worker.monitoring.metrics import Metrics, raise_to
from worker.monitoring.summary import Window
from worker.partitions.backfill import Backfill, NextNote
from worker.records import TopicPartition
from worker.roles.next_space import NextSpace
from worker.settings import RolloutSettings
from worker.stages.batch_queue import BatchQueue

RATE_WINDOW_S = 10.0
BURST_S = 0.5
NUM_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class BackfillFigures:
    """Of a role of this process."""

    space_id: str
    topic: str
    num_partitions: int
    """That are worked on here."""
    num_complete: int
    num_done: int
    """Published by it so far, since the process has had the next space."""
    num_left: int
    num_missing: int
    examples: tuple[str, ...]
    """Some that are missing, and why."""
    per_second: float
    eta_s: float | None
    """Until the partitions of this process are done; None where that cannot be said."""
    failure: str


class Backfilling:
    """Poll thread; `install`, `space` and `figures` any."""

    def __init__(
        self,
        assignment: Assignment,
        queue: BatchQueue,
        restore: Callable[[], RestoreStage],
        settings: RolloutSettings,
        most_waiting: int,
        on_installed: Callable[[str], None],
        wait_in_next: Callable[[Dependents | None], None],
        metrics: Metrics,
    ) -> None:
        """`most_waiting`: entries behind all records. `on_installed` is told of the topic that is written to, too;
        `wait_in_next` of those who are made of the next space's items, once they may be computed."""
        self._assignment = assignment
        self._queue = queue
        self._restore = restore
        self._rate = settings.backfill_rate
        self._most_waiting = most_waiting
        self._on_installed = on_installed
        self._wait_in_next = wait_in_next
        self._metrics = metrics
        self._installed: NextSpace | None = None
        self.space: NextSpace | None = None
        """That is published at present beside the live one."""
        self.figures: BackfillFigures | None = None
        """Of the last look."""
        self._allowance, self._filled_at = 0.0, time.monotonic()
        self._counted: dict[Backfill, int] = {}
        self._num_done = self._num_done_in_all = 0
        self._window = Window(RATE_WINDOW_S)

    def install(self, space: NextSpace | None) -> None:
        """Publish this one beside the live one from now on; None: the live one alone."""
        self._installed = space

    def step(self, now: float) -> None:
        """Once in every round of the loop."""
        self._take_installed()
        for plan in self._restore().plans():
            plan.backfill.plan(plan.places, plan.held, plan.gone)
        running = [
            each for each in self._assignment.all() if each.tenure is not None and each.tenure.overlay is not None
        ]
        for assigned in running:
            self._follow(assigned)
        ready = self.space is not None and self.space.is_ready()
        self._wait_in_next(self.space.dependents if self.space is not None and ready else None)
        if self.space is not None:
            self._take_arrivals(self.space)
            self._bring(self.space, running, now)
            for assigned in running:
                if assigned.tenure is not None:
                    assigned.tenure.finish_backfill()

    def _take_installed(self) -> None:
        wanted = self._installed
        if wanted is not None and wanted.failure:
            wanted = None
        if wanted is self.space:
            return
        if wanted is not None:
            self._on_installed(wanted.topic)
        if self.space is not None and self.space.watch is not None:
            self._metrics.forget_vector_health(self.space.space_id, self.space.watch.num_ill)
        self.space = wanted
        self._num_done_in_all += self._num_done
        self._counted, self._num_done, self._window = {}, 0, Window(RATE_WINDOW_S)

    def _follow(self, assigned: AssignedPartition) -> None:
        """Have a partition published in the space that there is at present, and in no other."""
        tenure, space = assigned.tenure, self.space
        assert tenure is not None
        current = tenure.backfill
        if current is not None and current.space is not space:
            self._queue.discard_behind(tenure)
            tenure.fill(None)
            current = None
        if current is None and space is not None and space.is_ready():
            current = Backfill(space, NextNote(space.space_id, outputs_id=space.topic_id), is_doubted=True)
            tenure.fill(current)
        if current is not None and not current.is_asked:
            current.is_asked = True
            self._restore().request_plan(tenure, current)

    def _take_arrivals(self, space: NextSpace) -> None:
        """Who has got something in the next space that they are made of."""
        if space.dependents is None:
            return
        for number, keys in space.dependents.newly_due().items():
            partition = TopicPartition(space.output.topics.inputs, number)
            tenure = self._assignment[partition].tenure if partition in self._assignment else None
            if tenure is not None and tenure.backfill is not None:
                tenure.backfill.again(keys)

    def _bring(self, space: NextSpace, running: list[AssignedPartition], now: float) -> None:
        room = self._most_waiting - self._queue.num_behind
        if self._rate:
            elapsed, self._filled_at = now - self._filled_at, now
            self._allowance = min(max(1.0, self._rate * BURST_S), self._allowance + elapsed * self._rate)
            room = min(room, int(self._allowance))
        due = [each for each in running if each.tenure and each.tenure.backfill and each.tenure.backfill.num_left]
        for number, assigned in enumerate(due):
            tenure = assigned.tenure
            assert tenure is not None
            assert tenure.overlay is not None
            assert tenure.backfill is not None
            share = max(0, room) // (len(due) - number)
            taken = tenure.backfill.take(share, tenure.overlay.is_settled)
            entries = []
            for each in taken:
                entry = space.entry(each, tenure.backfill, assigned.partition.partition, tenure.overlay)
                if entry is None:
                    tenure.backfill.leave(each.key)
                else:
                    entries.append(entry)
            self._queue.put_behind(tenure, entries)
            room -= len(entries)
            self._allowance -= len(entries)

    # ------------------------------------------------------------------ figures

    def look(self, now: float) -> None:
        """Bring the figures up to date."""
        space = self.space or self._installed
        if space is None:
            if self.figures is not None:
                for gauge in (self._metrics.backfill_left, self._metrics.backfill_eta, self._metrics.next_missing):
                    gauge.labels(self._metrics.topic).set(0)
                self._metrics.next_failed.labels(self._metrics.topic).set(0)
            self.figures = None
            return
        tenures = [tenure for tenure in self._assignment.tenures() if tenure.overlay is not None]
        backfills = [each.backfill for each in tenures if each.backfill is not None]
        for each in backfills:
            self._num_done += each.num_done - self._counted.get(each, 0)
        self._counted = {each: each.num_done for each in backfills}
        self._window.add(now, [self._num_done])
        rate, left = self._window.rates()[0], sum(each.num_left for each in backfills if not each.is_complete)
        is_planned = len(backfills) == len(tenures) and all(each.is_planned for each in backfills)
        missing = [f"{key}: {why}" for each in backfills for key, why in islice(each.missing.items(), NUM_EXAMPLES)]
        num_complete = sum(each.is_complete for each in backfills)
        eta_s = 0.0 if num_complete == len(tenures) else left / rate if rate > 0 and is_planned else None
        metrics, topic = self._metrics, self._metrics.topic
        raise_to(metrics.backfilled.labels(topic), self._num_done_in_all + self._num_done)
        metrics.backfill_left.labels(topic).set(left)
        metrics.backfill_eta.labels(topic).set(math.nan if eta_s is None else eta_s)
        metrics.next_missing.labels(topic).set(sum(len(each.missing) for each in backfills))
        metrics.next_failed.labels(topic).set(bool(space.failure))
        if space.watch is not None and space is self.space:
            metrics.show_vector_health(space.space_id, space.watch.findings, space.watch.num_ill)
        self.figures = BackfillFigures(
            space.space_id,
            space.topic,
            len(tenures),
            num_complete,
            self._num_done,
            left,
            sum(len(each.missing) for each in backfills),
            tuple(missing[:NUM_EXAMPLES]),
            round(rate, 1),
            None if eta_s is None else round(eta_s, 1),
            space.failure,
        )
