"""A thread that repeats one step, with a bounded queue to the next one, and says when it last moved."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from worker.records import Record

log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 0.2
"""For how long a step waits for work."""

Watched = Callable[[Iterable[Sequence[Record]]], Iterator[Sequence[Record]]]
"""Passes groups of records through, and says on the way that the reader is alive."""


class Stage:
    """Repeats `step` until told to stop. A step must return, or `beat`, every few hundred milliseconds when all is
    well; the watchdog ends the process when it does not. An error in a step ends the stage, and the pipeline with it.
    """

    def __init__(self, name: str, step: Callable[[], None]) -> None:
        self.name = name
        self.error: Exception | None = None
        self.moved_at = time.monotonic()
        self.busy_s = 0.0
        """Time so far in which the thread waited neither for work nor for room. Steps add to it."""
        self._step = step
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        self.moved_at = time.monotonic()

    def stop(self, timeout_s: float) -> bool:
        """Whether the thread has ended in time."""
        self._stop.set()
        if self._thread.ident is not None:  # or it has never been started
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._step()
                self.beat()
        except Exception as error:  # handed to the loop, which ends the process with it
            log.debug("stage %s ends", self.name, exc_info=True, extra={"action": "stage_failed"})
            self.error = error
