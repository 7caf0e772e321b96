"""Calls into the library that have no time-out of their own, each with a deadline."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from worker.errors import CallTimeoutError


class Caller:
    """Makes calls on a thread of its own, which is kept for the next one. For one thread.

    A call that does not come back in time is left behind, with its thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[tuple[bool, Any]]] | None] | None
        self._jobs = None
        self._thread: threading.Thread | None = None

    def call(self, doing: str, call: Callable[[], Any], timeout_s: float) -> Any:
        """Return or raise as the call does; `CallTimeoutError` when it takes too long."""
        if self._jobs is None:
            self._jobs = queue.SimpleQueue()
            self._thread = threading.Thread(target=_serve, args=(self._jobs,), name=self._name, daemon=True)
            self._thread.start()
        answers: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._jobs.put((call, answers))
        try:
            is_good, answer = answers.get(timeout=timeout_s)
        except queue.Empty:
            self._jobs.put(None)
            self._jobs = None
            raise CallTimeoutError(f"{doing}: no answer within {timeout_s:g} s") from None
        if is_good:
            return answer
        raise answer

    def close(self) -> None:
        jobs, self._jobs = self._jobs, None
        if jobs is not None and self._thread is not None:
            jobs.put(None)
            self._thread.join()  # which has nothing else to do


def _serve(jobs: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[tuple[bool, Any]]] | None]) -> None:
    while (job := jobs.get()) is not None:
        call, answers = job
        try:
            answers.put((True, call()))
        except BaseException as error:  # it is raised where the caller is
            answers.put((False, error))
        del job, call, answers  # what they hold is not to live until the next one
