"""One partition's remembered values by id, and how much of the changelog they hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from worker.state.input_log import InputLog


class Store(Protocol):
    """Used by one thread at a time. Raises `StateError` for what the disk refuses."""

    applied: int
    """Offset in the changelog before which every record is in the store."""
    log: InputLog | None
    """Which log the values come from, where the changelog says it."""

    def get(self, key: str) -> bytes | None: ...

    def apply(self, changes: Mapping[str, bytes | None], applied: int, log: InputLog | None = None) -> None:
        """Take over changes (None removes) and the changelog offset they bring the store to, both or neither; and
        which log they come from, where that is another one than before."""
        ...

    def clear(self) -> None:
        """Forget everything: it does not fit the changelog."""
        ...

    def items(self) -> Iterator[tuple[str, bytes]]:
        """Everything, in no particular order. Not to be mixed with `apply`."""
        ...

    def keys(self) -> list[str]:
        """The ids that it holds now, in no particular order. Any thread."""
        ...

    def num_bytes(self) -> int:
        """Room it takes, in memory or on disk."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None: ...


class MemoryStore:
    """For workers without `state.dir`: lost with the process, restored from the changelog."""

    def __init__(self) -> None:
        self.applied = 0
        self.log: InputLog | None = None
        self._values: dict[str, bytes] = {}
        self._num_bytes = 0

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def apply(self, changes: Mapping[str, bytes | None], applied: int, log: InputLog | None = None) -> None:
        values = self._values
        for key, value in changes.items():
            before = values.get(key)
            if before is not None:
                self._num_bytes -= len(key) + len(before)
            if value is None:
                values.pop(key, None)
            else:
                values[key] = value
                self._num_bytes += len(key) + len(value)
        self.applied = applied
        self.log = log or self.log

    def clear(self) -> None:
        self._values, self._num_bytes, self.applied, self.log = {}, 0, 0, None

    def items(self) -> Iterator[tuple[str, bytes]]:
        return iter(self._values.items())

    def keys(self) -> list[str]:
        return list(self._values)  # one step of the interpreter

    def num_bytes(self) -> int:
        return self._num_bytes

    def __len__(self) -> int:
        return len(self._values)

    def close(self) -> None:
        self.clear()
