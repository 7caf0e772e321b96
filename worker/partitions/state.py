"""What a partition of this worker may be doing, and why it may be stopped: closed sets, for the loop, the metrics and
the status page.
"""

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
    """Waits after a failure, and is begun again; or before a batch that cannot be read or for an encoder that is
    down, and is read on."""


class StopReason(StrEnum):
    PUBLISH_FAILED = "publish_failed"
    """An output could not be written. All partitions begin again together."""
    DEAD_LETTER_FAILED = "dead_letter_failed"
    """A dead letter could not be written. Rather than lose it, the partition waits."""
    LOG_CHANGED = "log_changed"
    """A topic is another one than before, or the log went back. It begins again with what there is now."""
    UNREADABLE = "unreadable"
    """A batch cannot be read. What lies before it is finished, and it is tried again."""
    ENCODER_DOWN = "encoder_down"
    """An encoder that is elsewhere does not answer, or is another one than before. What needs it waits, and is read on
    when it is well."""
