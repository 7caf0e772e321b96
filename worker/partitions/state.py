"""States of a partition, and reasons why it may be stopped: closed sets, for the loop, the metrics and
the status page.

    NEW ── begin ──▶ RESTORING ── start ──▶ RUNNING
     │ ▲                  │                  │   ▲
     │ │                  │ stop        stop │   │ go_on
     │ │ renew            ▼             hold ▼   │
     │ └────────────── STOPPED ◀─────────────────┘
     └── stop ───────────▲

`AssignedPartition` (loop) makes these steps and no others. A partition that is revoked or lost is dropped from any
state.
"""

from __future__ import annotations

from enum import StrEnum


class PartitionState(StrEnum):
    """Begins as `NEW`; every way out of it but being revoked or lost leads back to it."""

    NEW = "new"
    """Just assigned, or about to be begun again: where the group has left it is being asked for."""
    RESTORING = "restoring"
    """Its state is being read back."""
    RUNNING = "running"
    STOPPED = "stopped"
    """Waits. After a failure its tenure is over, and it is begun again; before something that cannot be read or encoded
    now it keeps its tenure, and goes on."""

    def after(self, step: Step) -> PartitionState:
        """The state that a step leads to; raises `AssertionError` for one that is not drawn."""
        begins, ends = _STEPS[step]
        if self not in begins:
            raise AssertionError(f"no way leads from {self} by {step}")
        return ends


class Step(StrEnum):
    """From one state to another, by the method of `AssignedPartition` that makes it."""

    BEGIN = "begin"
    START = "start"
    HOLD = "hold"
    GO_ON = "go_on"
    STOP = "stop"
    RENEW = "renew"


_STEPS = {
    Step.BEGIN: ({PartitionState.NEW}, PartitionState.RESTORING),
    Step.START: ({PartitionState.RESTORING}, PartitionState.RUNNING),
    Step.HOLD: ({PartitionState.RUNNING, PartitionState.STOPPED}, PartitionState.STOPPED),
    Step.GO_ON: ({PartitionState.STOPPED}, PartitionState.RUNNING),
    Step.STOP: (set(PartitionState), PartitionState.STOPPED),
    Step.RENEW: ({PartitionState.STOPPED}, PartitionState.NEW),
}


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
    REGISTRY_DOWN = "registry_down"
    """A schema registry does not answer. Records of a schema that is not known yet wait for it."""
