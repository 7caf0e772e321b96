"""The port to an index. Calls come from the writer's thread, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from worker.sink.row import Collection, Entity, Row


class RowsRefusedError(Exception):
    """The index takes these rows for wrong, and would again: something in one of them cannot be stored. Nothing of
    them has been written."""


class Outcome(NamedTuple):
    """Counts of rows by outcome."""

    num_vectors: int
    num_deleted: int
    num_stale: int
    """Not written: the index has newer ones."""


class Store(Protocol):
    """One kind of index.

    Whatever cannot be done now and might be later is raised as `StoreError`: the writer tries again, for as long as it
    takes. Rows that were written before a failure come again, and change nothing.
    """

    def connect(self) -> None:
        """Reach the index, at the start and after a failure. Raises `ConfigError` for what no retry would mend."""
        ...

    def prepare(self, collection: Collection) -> None:
        """Make what holds these vectors, where it does not exist; called once for each, and again after a failure."""
        ...

    def collections(self, entity: Entity) -> Sequence[Collection]:
        """Those that exist, as far as this sink can tell: a deletion goes to all of them."""
        ...

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        """Write each of the rows, at most one for an id, if it is newer than what the index has. When it returns, they
        are as safe as the index can make them. Raises `RowsRefusedError` where one of them cannot be stored."""
        ...

    def tick(self, *, is_caught_up: bool) -> bool:
        """Nothing waits to be written: do what else there is to do from time to time, without waiting for it.
        `is_caught_up`: all is written that the topics have. Whether nothing is left to do. Raises `StoreError` for what
        has failed and is tried again at a later call."""
        ...

    def close(self) -> None: ...
