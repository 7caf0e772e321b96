"""One partition of this worker: where its life cycle stands, and the tenure in which it is worked on."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import islice
from typing import Any

from worker.errors import UnreadableError
from worker.kafka.port import Commit
from worker.partitions.state import PartitionState, Step, StopReason
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.state.overlay import StateOverlay


class AssignedPartition:
    """Makes the steps that `PartitionState` draws; nobody else changes what stands here.

    Poll thread, and the client's while the poll thread is blocked in a poll. The status page reads on the poll thread.
    """

    def __init__(self, partition: TopicPartition) -> None:
        self.partition = partition
        self.state = PartitionState.NEW
        self.tenure: Tenure | None = None
        """From `begin` until `stop`."""
        self.reason: StopReason | None = None
        """Why it is stopped."""
        self.detail = ""
        """Why it is stopped, or what restoring it has met."""
        self.stopped_until = 0.0
        """Monotonic time before which a stopped partition, or one whose state cannot be read, is not tried again."""
        self.unreadable: UnreadableError | None = None
        """The batch that keeps it from going on: one of its own log, or of what it is restored from."""
        self.num_tries = 0
        """How often that has been tried."""
        self.not_running_since = time.monotonic()
        """Monotonic time since when it has not been running, if it is not."""
        self.behind_since = time.monotonic()
        """Monotonic time that the oldest record may have that is not finished."""
        self._to_recompute: dict[str, None] = {}
        self._doubt = ""

    # ------------------------------------------------------------------ life cycle

    def begin(self, commit: Commit) -> Tenure:
        """Start a tenure at what the group has committed; it still has to be restored."""
        self.state = self.state.after(Step.BEGIN)
        self.tenure = Tenure(self.partition, commit)
        self.tenure.doubt, self._doubt = self._doubt, ""
        return self.tenure

    def start(self, overlay: StateOverlay[Any], recompute: Iterable[str], now: float) -> None:
        """Work on it, now that it is restored. `recompute`: ids that are to be computed anew."""
        assert self.tenure is not None, "a partition that is restored has a tenure"
        self.state = self.state.after(Step.START)
        self.tenure.overlay = overlay
        self.recompute_later(recompute)
        self.reason, self.detail, self.stopped_until = None, "", now

    def stop(self, reason: StopReason, detail: str, until: float, now: float) -> Tenure | None:
        """End the tenure; returns it, for what is in flight of it to be given up. Begun again not before `until`."""
        if self.state == PartitionState.RUNNING:
            self.not_running_since = now
        self.state = self.state.after(Step.STOP)
        ended, self.tenure = self.tenure, None
        self.reason, self.detail, self.stopped_until = reason, detail, until
        self._to_recompute.clear()
        return ended

    def hold(self, reason: StopReason, detail: str) -> None:
        """Read no further for now, and finish what has been read: the tenure goes on."""
        assert self.tenure is not None, "what is held has begun"
        self.state = self.state.after(Step.HOLD)
        self.reason, self.detail = reason, detail

    def go_on(self) -> None:
        """Read on where it was held."""
        assert self.tenure is not None, "what was stopped begins anew"
        self.state = self.state.after(Step.GO_ON)
        self.reason = None
        if self.unreadable is None:
            self.detail = ""

    def renew(self) -> None:
        """Begin again after a stop."""
        assert self.tenure is None, "what was held goes on"
        self.state = self.state.after(Step.RENEW)

    @property
    def is_running(self) -> bool:
        return self.state == PartitionState.RUNNING

    def is_held_for(self, reason: StopReason) -> bool:
        return self.state == PartitionState.STOPPED and self.reason == reason and self.tenure is not None

    def is_stopped_beyond(self, until: float) -> bool:
        """Whether what stopped it keeps it for longer than that, or has left it nothing to give up."""
        return self.state == PartitionState.STOPPED and (self.tenure is None or self.stopped_until > until)

    # ------------------------------------------------------------------ what stands in its way

    def restoring_failed(self, detail: str) -> None:
        """Restoring is about to be tried again."""
        self.detail = detail

    def cannot_read(self, error: UnreadableError, until: float) -> None:
        """Something in the log, or in what it is restored from, cannot be read; not to be tried again before
        `until`."""
        self.unreadable, self.num_tries = error, self.num_tries + 1
        self.stopped_until, self.detail = until, error.one_line()

    def can_read(self) -> None:
        """Go on: what could not be read has been, or is left out."""
        self.unreadable, self.detail, self.num_tries = None, "", 0

    def doubt_log(self, doubt: str) -> None:
        """The log may be another one than before, whatever its id says: the next tenure is to see."""
        self._doubt = doubt

    # ------------------------------------------------------------------ what is computed anew

    def recompute_later(self, ids: Iterable[str]) -> None:
        self._to_recompute.update(dict.fromkeys(ids))

    def take_to_recompute(self, max_ids: int) -> list[str]:
        """The next ids to be computed anew, in order; they are no longer due after that."""
        taken = list(islice(self._to_recompute, max_ids))
        for each in taken:
            del self._to_recompute[each]
        return taken

    @property
    def has_to_recompute(self) -> bool:
        return bool(self._to_recompute)

    # ------------------------------------------------------------------ figures

    def look(self, lag: int | None, heard_at: float | None, now: float, now_ms: float) -> None:
        """Bring `behind_since` up to date. `lag`: offsets up to the end of the log; `heard_at`: monotonic time when a
        broker has last said where that is. While none does, there may be records that nobody here knows of."""
        oldest_ms = None if self.tenure is None else self.tenure.oldest_ms
        if oldest_ms is not None:
            self.behind_since = now - max(0.0, now_ms - oldest_ms) / 1000 if oldest_ms >= 0 else self.behind_since
        elif self.is_running and lag == 0 and heard_at is not None:
            self.behind_since = max(self.behind_since, heard_at)
