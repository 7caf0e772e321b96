"""A steady trickle of changes to a few items, on a thread: what tests let run while they hurt something."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from types import TracebackType

from tests.brokers import Outgoing
from tests.integration.stream import Stream, names

NUM_NAMES = 40
CHUNK_RECORDS = 10
INTERVAL_S = 0.02


class Flow:
    """Runs within a `with` block. Every item is changed again and again, now and then deleted, so that an output that
    comes too late overwrites a newer one and is found out."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._names = list(names(NUM_NAMES))
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flow", daemon=True)
        self.num_fed = 0

    def _run(self) -> None:
        try:
            self._stream.feed(self._records(), max_block_ms=60_000, delivery_timeout_ms=120_000)
        except BaseException as error:
            self._error = error

    def _records(self) -> Iterator[Outgoing]:
        while not self._stop.is_set():
            for _ in range(CHUNK_RECORDS):
                name = self._names[self.num_fed % NUM_NAMES]
                revision = self.num_fed // NUM_NAMES
                is_delete = (revision + len(name) + self.num_fed) % 7 == 0
                yield self._stream.delete(name) if is_delete else self._stream.upsert(name, revision)
                self.num_fed += 1
            time.sleep(INTERVAL_S)

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def stop(self, timeout: float = 60.0) -> None:
        """No more records; returns when all are in the log."""
        self._stop.set()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), "the flow has not ended"
        if self._error is not None:
            raise self._error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
        self._stop.set()
        self._thread.join(60)
