"""An index in memory that obeys the port, and can be told to fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from worker.errors import StoreError
from worker.sink.port import Outcome, RowsRefusedError
from worker.sink.row import Collection, Entity, Row, is_newer


class MemoryStore:
    """`held` outlives a sink, as an index does; `refuses` says which rows it cannot store."""

    def __init__(
        self,
        held: dict[Collection, dict[str, Row]] | None = None,
        refuses: Callable[[Row], bool] = lambda row: False,
    ) -> None:
        self.held = {} if held is None else held
        self.num_writes = 0
        self.num_settling, self.settles_after = 0, 0
        """Ticks with everything written, and how many of them it has something left to do for."""
        self.held_when_settling = 0
        """Rows at the last of them."""
        self.fails_to_settle = False
        self.is_down = threading.Event()
        self._refuses = refuses

    def connect(self) -> None:
        self._require_up()

    def prepare(self, collection: Collection) -> None:
        self._require_up()
        self.held.setdefault(collection, {})

    def collections(self, entity: Entity) -> Sequence[Collection]:
        self._require_up()
        return [each for each in self.held if each.entity == entity]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        self._require_up()
        assert len({row.id for row in rows}) == len(rows), "one row for an id"
        if any(map(self._refuses, rows)):
            raise RowsRefusedError("it is odd")
        self.num_writes += 1
        held, num_vectors, num_deleted = self.held[collection], 0, 0
        for row in rows:
            known = held.get(row.id)
            if known is None or is_newer(
                row.place, known.place, is_deleted=row.is_deleted, was_deleted=known.is_deleted
            ):
                held[row.id] = row
                num_deleted += row.is_deleted
                num_vectors += not row.is_deleted
        return Outcome(num_vectors, num_deleted, len(rows) - num_vectors - num_deleted)

    def _require_up(self) -> None:
        if self.is_down.is_set():
            raise StoreError("it is down")

    def close(self) -> None:
        return

    def tick(self, *, is_caught_up: bool) -> bool:
        if is_caught_up:
            self.num_settling += 1
            self.held_when_settling = sum(map(len, self.held.values()))
            if self.fails_to_settle:
                raise StoreError("there is no room for it")
        return self.num_settling >= self.settles_after
