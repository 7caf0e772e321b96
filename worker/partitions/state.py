"""What a partition of this worker may be doing: one closed set, for the loop, the metrics and the status page."""

from __future__ import annotations

from enum import StrEnum


class PartitionState(StrEnum):
    """Begins as `NEW`; every way out of it but being revoked or lost leads back to it."""

    NEW = "new"
    """Just assigned, or about to be begun again: where the group has left it is being asked for."""
    RESTORING = "restoring"
    """What is remembered of it is being read back."""
    RUNNING = "running"
    STOPPED = "stopped"
    """Waits after a failure, and is begun again."""
