"""Failures of a call that say nothing about the items in it."""

from __future__ import annotations

from worker.errors import WorkerError


class OutOfMemoryError(WorkerError):
    """There was no memory for a batch of this size. A smaller batch may fit; a batch of one is the end."""

    exit_code = 9
