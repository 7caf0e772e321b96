"""Records out of the log, as fast as the rest takes them and no faster.

Polls go on whatever happens, because they are what keeps the place in the group: a partition that is not to be read
is paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

from worker.errors import ClientError
from worker.kafka.port import ConsumerPort
from worker.loop.assignment import Assignment
from worker.loop.silence import SilenceWatch
from worker.monitoring.metrics import Metrics, raise_to
from worker.partitions.state import PartitionState
from worker.records import Record, TopicPartition
from worker.stages.batch_queue import BatchQueue
from worker.stages.encode import EncodeStage

log = logging.getLogger(__name__)

# A join that is driven by polls shorter than this can be orphaned inside kafka-python, for ever.
POLL_TIMEOUT_MS = 200
ROOM_TIMEOUT_S = 0.2
AFTER_ERROR_S = 0.1


class Source:
    """The polls of a role. Poll thread."""

    def __init__(
        self,
        consumer: ConsumerPort,
        assignment: Assignment,
        queue: BatchQueue,
        encoding: EncodeStage | None,
        max_records: int,
        metrics: Metrics,
    ) -> None:
        """`queue` and `encoding` are where records go, and what has to have room for them; `max_records` those of a
        poll."""
        self._consumer = consumer
        self._assignment = assignment
        self._queue = queue
        self._encoding = encoding
        self._max_records = max_records
        self._metrics = metrics
        self._paused: set[TopicPartition] = set()
        self._is_backpressured = False
        self._silence = SilenceWatch()
        self.polled_at = time.monotonic()
        self.idle_s = 0.0
        """Time so far that went by waiting for records, for features or for room."""

    def make_room(self) -> None:
        """Wait a moment for a full queue, then pause and keep polling: the group must not think us dead."""
        encoding, started = self._encoding, time.monotonic()
        if self._is_backpressured:
            self._is_backpressured = not (self._queue.is_low() and (encoding is None or encoding.is_low()))
        elif self._queue.is_full():
            self._is_backpressured = not self._queue.wait_for_room(ROOM_TIMEOUT_S)
        else:
            self._is_backpressured = encoding is not None and encoding.is_full()
        self.idle_s += time.monotonic() - started

    def await_encoded(self) -> None:
        """While content is being encoded and the log has nothing more, wait for that and not for the log: a poll ends
        when records come, not when features do."""
        if self._encoding is None or not self._encoding.num_records:
            return
        running = [held.partition for held in self._assignment.in_state(PartitionState.RUNNING)]
        if self._is_backpressured or not any(self._consumer.lag(running).values()):
            started = time.monotonic()
            self._encoding.wait(ROOM_TIMEOUT_S)
            self.idle_s += time.monotonic() - started

    def poll(self) -> Mapping[TopicPartition, Sequence[Record]]:
        self._apply_pauses()
        started, worked = time.monotonic(), time.thread_time()
        try:
            polled = self._consumer.poll(POLL_TIMEOUT_MS, max_records=self._max_records)
        except ClientError as error:
            self._metrics.poll_errors.labels(self._metrics.topic).inc()
            log.warning("%s", error.one_line(), extra={"action": "poll_failed"})
            time.sleep(AFTER_ERROR_S)
            polled = {}
        self.beat()
        # Records are unpacked in a poll, by this thread; for the rest of it the poll has waited.
        self.idle_s += max(0.0, self.polled_at - started - (time.thread_time() - worked))
        self._metrics.last_poll.set_to_current_time()
        self._hear()
        if polled:
            self._metrics.stage_duration.labels("poll").observe(self.polled_at - started)
        return polled

    def _hear(self) -> None:
        contact, topic = self._consumer.contact(), self._metrics.topic
        raise_to(self._metrics.request_errors.labels(topic), contact.num_failed)
        if (news := self._silence.look(self.polled_at, contact.heard_at)) is not None:
            level = logging.WARNING if self._silence.is_silent else logging.INFO
            log.log(level, "%s: %s", topic, news, extra={"action": "silence"})
        if self._silence.is_silent:
            self._metrics.poll_errors.labels(topic).inc()

    def beat(self) -> None:
        """The loop moves, with or without a poll."""
        self.polled_at = time.monotonic()

    def rewind(self, partition: TopicPartition, offset: int) -> None:
        """Begin again from there, once the partition is running.

        The poll that brought the partition may have returned records of it, and the client keeps its position when a
        partition comes back to the same member. It keeps its pause, too, or has none if the partition was away: pausing
        it here makes that certain.
        """
        self._consumer.seek(partition, offset)
        self._consumer.pause([partition])
        self._paused.add(partition)

    def _apply_pauses(self) -> None:
        """Fetch from running partitions only, and from none while there is no room."""
        held = self._assignment.all()
        wanted = {each.partition for each in held if self._is_backpressured or each.state != PartitionState.RUNNING}
        self._paused &= {each.partition for each in held}
        if new := wanted - self._paused:
            self._consumer.pause(new)
        if over := self._paused - wanted:
            self._consumer.resume(over)
        self._paused = wanted
        self._metrics.paused_partitions.labels(self._metrics.topic).set(len(wanted))
