"""One clock for everything that a fetch waits for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class LateError(Exception):
    """The time is up."""


class Clock:
    """Runs from when it is made, for `seconds`. Whoever waits asks it how long."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._now = now
        self._end = now() + seconds

    def left_s(self) -> float:
        """More than nothing. Raises `LateError` when nothing is left."""
        left = self._end - self._now()
        if left <= 0:
            raise self.late()
        return left

    def late(self) -> LateError:
        return LateError(f"takes longer than {self.seconds:g} s")


class Aside:
    """Does what cannot be given a deadline, as asking a resolver or a network file system, in threads of its own.

    A call that is late is left to itself. At most `most` are under way, so that those left behind are bounded; their
    threads are daemons, and hold up no exit.
    """

    def __init__(self, most: int) -> None:
        self._free = threading.BoundedSemaphore(most)

    def call(self, function: Callable[[], T], clock: Clock) -> T:
        """Its result, or what it raises. Raises `LateError`."""
        if not self._free.acquire(timeout=clock.left_s()):
            raise clock.late()
        outcome: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()

        def work() -> None:
            try:
                outcome.put((function(), None))
            except BaseException as error:
                outcome.put((None, error))
            finally:
                self._free.release()

        threading.Thread(target=work, name="fetch-aside", daemon=True).start()
        try:
            result, error = outcome.get(timeout=clock.left_s())
        except Empty:
            raise clock.late() from None
        if error is not None:
            raise error
        return result  # type: ignore[no-any-return]
