"""State as one tenure sees it: the store, and over it what has been read but not settled.

The store holds what is settled, and moves with the committable offset: what is computed again after a failure meets the
same knowledge as the first time. Only restoring can put it ahead, by what an owner that died had written to the
changelog and not committed. Every input that comes again is then either in it, or it is the newest in it, or it is new;
states carry the offset of their newest input to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from worker.records import Change, Rejection, State
from worker.state import Store
from worker.state.input_log import UNKNOWN, InputLog

S = TypeVar("S", bound=State)


class StateOverlay(Generic[S]):
    """Used by one thread at a time: first the one that restores it, then the poll thread."""

    def __init__(self, store: Store, decode: Callable[[bytes], S], log: InputLog = UNKNOWN) -> None:
        """`log` is the one that is read; states may come from earlier ones."""
        self._store = store
        self._decode = decode
        self._pending: dict[str, tuple[int, S | None]] = {}
        self.published: dict[str, int] = {}
        """The place of the newest input of which an output is written (`InputLog.at`), where an earlier owner did not
        commit it."""
        self.log = log

    def get(self, key: str) -> S | None:
        pending = self._pending.get(key)
        if pending is not None:
            return pending[1]
        value = self._store.get(key)
        return None if value is None else self._decode(value)

    def put(self, key: str, state: S | None, offset: int) -> None:
        """Remember a state (None: forget the key) that the input at `offset` leads to."""
        self._pending[key] = (offset, state)

    def is_settled(self, key: str) -> bool:
        """Whether nothing of it is under way: what is remembered of it has been written, and its input not rejected."""
        return key not in self._pending

    def is_overtaken(self, key: str, offset: int) -> bool:
        """Whether an output of a newer input is written already."""
        published = self.published.get(key)
        if published is None:
            return False
        if self.log.at(offset) < published:
            return True
        del self.published[key]
        return False

    def settle(
        self,
        changes: Mapping[str, bytes | None],
        newest: Mapping[str, Change],
        rejections: Sequence[Rejection],
        applied: int,
        log: InputLog | None = None,
    ) -> None:
        """Take over what a share has written, and the log it comes from where it has written that. What a rejected
        input had led to is forgotten."""
        if changes or log is not None:
            self._store.apply(changes, max(applied, self._store.applied), log)
        for key in changes:
            pending = self._pending.get(key)
            if pending is not None and pending[0] <= newest[key].record.offset:
                del self._pending[key]
        for rejection in rejections:
            key = (rejection.record.key or b"").decode(errors="replace")
            if self._pending.get(key, (-1, None))[0] == rejection.record.offset:
                del self._pending[key]

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Everything in the store, encoded."""
        return self._store.items()

    def keys(self) -> list[str]:
        """The ids that are settled now. Any thread."""
        return self._store.keys()

    def __len__(self) -> int:
        return len(self._pending)
