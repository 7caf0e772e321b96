"""Owners that wait for an item's vector, to be computed anew when it appears: users who acted on it, or items whose
neighbour it is."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable

Waiters = defaultdict[str, set[str]]
"""Users or items by the item that they wait for."""


class Waiting:
    """Bounded by the number of pairs of item and waiter. What does not fit is counted: such a waiter is computed at its
    next message, or when its partition moves. Filled by the restore thread and the poll thread."""

    def __init__(self, max_pairs: int) -> None:
        self._max_pairs = max_pairs
        self._partitions: dict[int, Waiters] = {}
        self._lock = threading.Lock()
        self.num_pairs = 0
        self.num_overflown = 0

    def add(self, items: Iterable[str], partition: int, key: str) -> None:
        with self._lock:
            waiting = self._partitions.setdefault(partition, defaultdict(set))
            for item_id in items:
                if item_id in waiting and key in waiting[item_id]:
                    continue
                if self.num_pairs >= self._max_pairs:
                    self.num_overflown += 1
                    continue
                waiting[item_id].add(key)
                self.num_pairs += 1

    def remove(self, items: Iterable[str], partition: int, key: str) -> None:
        """It waits for these no longer."""
        with self._lock:
            waiting = self._partitions.get(partition, Waiters(set))
            for item_id in items:
                waiters = waiting.get(item_id, set())
                if key in waiters:
                    waiters.remove(key)
                    self.num_pairs -= 1
                    if not waiters:
                        del waiting[item_id]

    def take(self, items: Collection[str], *, keep: bool = False) -> dict[int, set[str]]:
        """Take those who wait for any of the items, by partition. With `keep`, they go on waiting."""
        found: dict[int, set[str]] = {}
        with self._lock:
            for partition, waiting in self._partitions.items():
                for item_id in items:
                    waiters = waiting.get(item_id)
                    if waiters:
                        found.setdefault(partition, set()).update(waiters)
                    if waiters and not keep:
                        self.num_pairs -= len(waiters)
                        del waiting[item_id]
        return found

    def forget(self, partition: int) -> None:
        """Nobody of this partition waits any more: it has gone to another worker."""
        with self._lock:
            waiting = self._partitions.pop(partition, Waiters(set))
            self.num_pairs -= sum(map(len, waiting.values()))
