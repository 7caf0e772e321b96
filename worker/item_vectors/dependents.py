"""Dependents: users and items made of the vectors of items, to be computed anew when one of those appears or changes.

Users are made of the items in their histories; in a space with graph fusion, items are of their neighbours.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

from worker.item_vectors.follower import ItemVectorFollower
from worker.item_vectors.waiting import Waiting
from worker.monitoring.metrics import Metrics, raise_to
from worker.partitions.tenure import Tenure
from worker.records import Notice
from worker.stages.stage import Stage, Watched
from worker.state.overlay import StateOverlay
from worker.state.packing import is_marked

READY_STEP_S = 0.05
NUM_RECALLED = 10_000

MadeOf = Callable[[bytes], tuple[Collection[str], Collection[str]]]
"""State of an owner → the items that it is made of, and those that it may still wait for."""


class Dependents:
    """Dependents of one role, by partition and id. Restore thread and poll thread."""

    def __init__(self, catalogue: ItemVectorFollower, waiting: Waiting, *, follows_changes: bool) -> None:
        """`follows_changes`: they are computed anew when an item changes or goes, too, not only when it appears."""
        self.catalogue = catalogue
        self.waiting = waiting
        self.follows_changes = follows_changes
        self.stage = Stage("catalogue", catalogue.step)

    def restore_extra(
        self, tenure: Tenure, overlay: StateOverlay[Any], watched: Watched, made_of: MadeOf
    ) -> Collection[str]:
        """Wait until the item vectors have been read, and then for those that are missing. Returns who is to be
        computed anew: an item has got its vector since, or may have changed, as which have is not known."""
        if not self._until_read(tenure, watched):
            return ()
        found = set()
        for number, (key, value) in enumerate(overlay.items()):
            if number % NUM_RECALLED == 0:
                list(watched(()))  # a large partition takes longer than the watchdog allows for a step
            if not (is_marked(value) or self.follows_changes):
                continue
            items, awaited = made_of(value)
            if not items:
                continue
            self.add(items, tenure.partition.partition, key)
            if self.follows_changes or any(item_id in self.catalogue.table for item_id in awaited):
                found.add(key)
        return found

    def _until_read(self, tenure: Tenure, watched: Watched) -> bool:
        """False if the tenure ended before that."""
        while not self.catalogue.is_ready:
            list(watched(()))
            if not tenure.is_live:
                return False
            time.sleep(READY_STEP_S)
        return True

    def add(self, items: Collection[str], partition: int, key: str) -> list[str]:
        """From now on `key` is made of these items; returns those that have no vector, which it waits for.

        One of them may have got its vector before `key` waited for it, and its news be taken already: who is not the
        poll thread has to look again.
        """
        missing = self.catalogue.table.without_row(items)
        if missing or self.follows_changes:
            self.waiting.add(items if self.follows_changes else missing, partition, key)
        return missing

    def newly_due(self) -> Mapping[int, Collection[str]]:
        """Ids by partition whose items have appeared, or changed where that counts, since the last call."""
        appeared, changed = self.catalogue.news()
        found: dict[int, set[str]] = {}
        for items in (appeared, changed if self.follows_changes else []):
            for partition, keys in self.waiting.take(items, keep=self.follows_changes).items():
                found.setdefault(partition, set()).update(keys)
        return found

    def notices(self) -> list[Notice]:
        return self.catalogue.notices()

    def status(self) -> Mapping[str, int]:
        return {
            "item vectors": self.catalogue.table.num_items,
            "item vectors to read": self.catalogue.num_behind,
            "waiting for an item": self.waiting.num_pairs,
        }

    def export(self, metrics: Metrics) -> None:
        topic, table = metrics.topic, self.catalogue.table
        metrics.waiting.labels(topic).set(self.waiting.num_pairs)
        metrics.table_items.labels(topic).set(table.num_items)
        metrics.table_bytes.labels(topic).set(table.num_bytes())
        raise_to(metrics.waiting_overflow.labels(topic), self.waiting.num_overflown)
        raise_to(metrics.table_foreign.labels(topic), self.catalogue.num_foreign)
        raise_to(metrics.keys_astray.labels(topic), table.num_astray)
