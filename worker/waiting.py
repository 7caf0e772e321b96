"""Which users are to be computed anew when an item's vector appears."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable

Users = defaultdict[str, set[str]]
"""Users by the item that they wait for."""


class Waiting:
    """Bounded by the number of pairs of item and user. What does not fit is counted: such a user is computed at its
    next event, or when its partition moves. Filled by the restore thread and the poll thread."""

    def __init__(self, max_pairs: int) -> None:
        self._max_pairs = max_pairs
        self._partitions: dict[int, Users] = {}
        self._lock = threading.Lock()
        self.num_pairs = 0
        self.num_overflown = 0

    def add(self, items: Iterable[str], partition: int, user_id: str) -> None:
        with self._lock:
            waiting = self._partitions.setdefault(partition, defaultdict(set))
            for item_id in items:
                if item_id in waiting and user_id in waiting[item_id]:
                    continue
                if self.num_pairs >= self._max_pairs:
                    self.num_overflown += 1
                    continue
                waiting[item_id].add(user_id)
                self.num_pairs += 1

    def take(self, items: Collection[str], *, keep: bool = False) -> dict[int, set[str]]:
        """Users that wait for any of the items, by partition. Unless `keep`, they wait no longer."""
        found: dict[int, set[str]] = {}
        with self._lock:
            for partition, waiting in self._partitions.items():
                for item_id in items:
                    users = waiting.get(item_id)
                    if users:
                        found.setdefault(partition, set()).update(users)
                    if users and not keep:
                        self.num_pairs -= len(users)
                        del waiting[item_id]
        return found

    def forget(self, partition: int) -> None:
        """Nobody of this partition waits any more: it has gone to another worker."""
        with self._lock:
            waiting = self._partitions.pop(partition, Users(set))
            self.num_pairs -= sum(map(len, waiting.values()))
