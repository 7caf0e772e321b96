"""The loop of a sink: records out of the log as fast as the index takes them, commits behind what it has acknowledged.

Poll thread. Polls go on whatever the index does, because they are what keeps the place in the group; while the batches
that wait for the writer are as many as there may be, all partitions are paused.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from worker.errors import ClientError, NotMemberError, TopicError, WorkerError
from worker.kafka.port import ClientPort, Commit, ConsumerPort
from worker.loop.catch_up import EndOffsets
from worker.loop.silence import SilenceWatch
from worker.monitoring.metrics import Metrics, raise_to
from worker.records import Record, TopicPartition
from worker.rollout.plan import Standing
from worker.settings import Settings
from worker.sink.batch import Hold, Pending
from worker.sink.row import Entity, read_row
from worker.sink.writer import Writer

log = logging.getLogger(__name__)

POLL_TIMEOUT_MS = 200  # a join that is driven by shorter polls can be orphaned inside kafka-python, for ever
MAX_POLL_RECORDS = 2_000
AFTER_ERROR_S = 0.1
LOOK_S = 1.0
METADATA_PREFIX = "log="
NO_ROLLOUT = Standing()
MARKER = 1  # offset: behind the last record of a transaction, where there may be nothing else


class StopEvent(Protocol):
    """The part of `threading.Event` that is needed here."""

    def is_set(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Input:
    """A topic of vectors."""

    entity: Entity
    topic: str
    topic_id: str
    num_partitions: int


class SinkLoop:
    """Implements `PartitionListener` for its consumer."""

    def __init__(
        self,
        settings: Settings,
        client: ClientPort,
        group_id: str,
        inputs: Sequence[Input],
        pending: Pending,
        writer: Writer,
        metrics: Mapping[Entity, Metrics],
    ) -> None:
        self._settings = settings
        self._client = client
        self._inputs = {each.topic: each for each in inputs}
        self._pending = pending
        self._writer = writer
        self._metrics = metrics
        self._consumer: ConsumerPort = client.consumer(group_id)
        self._holds: dict[TopicPartition, Hold] = {}
        self._is_paused = False
        self._committed_at = self._looked_at = 0.0
        self._is_committing = False
        """The outcome of a commit is still to come."""
        self._final: WorkerError | None = None
        """An outcome of a commit that ends the process."""
        self._silence = SilenceWatch()
        self.polled_at = time.monotonic()
        self.is_caught_up = False
        self.num_expired = 0

    # ------------------------------------------------------------------ partitions, on the client's thread

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        for partition in partitions:
            given = self._inputs[partition[0]]
            self._holds[TopicPartition(*partition)] = Hold(TopicPartition(*partition), given.entity, given.topic_id)

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        holds = [hold for each in partitions if (hold := self._holds.get(TopicPartition(*each))) is not None]
        self._pending.wait_until_done(holds, self._settings.shutdown.revoke_timeout_s)
        self._settle()
        commits = self._commits(holds)
        self.lost(partitions)
        return commits

    def lost(self, partitions: Collection[TopicPartition]) -> None:
        for each in partitions:
            hold = self._holds.pop(TopicPartition(*each), None)
            if hold is not None:
                hold.is_live = False
                self._metrics[hold.entity].forget_partition(*hold.partition)

    # ------------------------------------------------------------------ the loop

    def run(self, stop: StopEvent, on_ready: Callable[[], None], *, until_caught_up: bool) -> None:
        """Until `stop` is set or, with `until_caught_up`, all is written that was there at the start. Raises the
        `WorkerError` that ends the process; partitions are given back in any case."""
        goals: list[EndOffsets] = []
        self._consumer.subscribe(list(self._inputs), self)
        try:
            if until_caught_up:
                goals = [
                    EndOffsets(self._client.log(), each.topic, each.num_partitions) for each in self._inputs.values()
                ]
            is_ready = False
            while not stop.is_set():
                self._step()
                if self._writer.error is not None:
                    raise self._writer.error
                if not is_ready and self._consumer.is_stable():
                    is_ready = True
                    on_ready()
                if until_caught_up and self._is_reached(goals):
                    self._writer.is_caught_up = True
                    unsettled = self._writer.unsettled
                    if unsettled is not None and self._writer.unsettled_s() > self._settings.sink.connect_timeout_s:
                        raise unsettled
                    if self._writer.is_settled:
                        self.is_caught_up = True
                        break
            self._drain()
        finally:
            for goal in goals:
                goal.close()
            self._writer.close(2.0)
            self._consumer.close(self._settings.shutdown.revoke_timeout_s + 5.0)
            self._settle()
            self._count_left()

    def _step(self) -> None:
        self._require_place()
        self._pause_or_resume()
        try:
            polled = self._consumer.poll(POLL_TIMEOUT_MS, max_records=MAX_POLL_RECORDS)
        except ClientError as error:
            for metrics in self._metrics.values():
                metrics.poll_errors.labels(metrics.topic).inc()
            log.warning("%s", error.one_line(), extra={"action": "poll_failed"})
            time.sleep(AFTER_ERROR_S)
            polled = {}
        self.polled_at = time.monotonic()
        self._begin_new()
        for partition, records in polled.items():
            self._take(TopicPartition(*partition), records)
        for unreadable in self._consumer.unreadable():
            log.error("%s", unreadable.one_line(), extra={"action": "unreadable"})
        self._settle()
        if self.polled_at - self._committed_at >= self._settings.commit.interval_ms / 1000:
            self._commit()
        self._look()

    def _pause_or_resume(self) -> None:
        is_full = self._pending.is_full()
        if is_full and not self._is_paused:
            self._consumer.pause(list(self._holds))
        elif self._is_paused and not is_full:
            self._consumer.resume(list(self._holds))
        elif is_full:  # those that have come meanwhile
            self._consumer.pause(list(self._holds))
        self._is_paused = is_full

    def _begin_new(self) -> None:
        """Where new partitions begin: behind what the group has committed of the same log."""
        new = [hold for hold in self._holds.values() if hold.next_offset is None]
        if not new:
            return
        try:
            commits = self._consumer.committed([hold.partition for hold in new])
            for hold in new:
                commit, beginning = commits.get(hold.partition), self._consumer.beginning(hold.partition)
                offset = 0 if commit is None or self._is_of_another_log(hold, commit) else commit.offset
                if commit is not None and 0 < offset < beginning:
                    self.num_expired += beginning - offset
                    log.error(
                        "%s/%d: offsets %d to %d have expired unread", *hold.partition, offset, beginning - 1,
                        extra={"action": "expired"},
                    )  # fmt: skip
                hold.next_offset = hold.done = hold.committed = max(offset, beginning)
                self._consumer.seek(hold.partition, hold.next_offset)
                if not self._is_paused:
                    self._consumer.resume([hold.partition])
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "begin_failed"})

    @staticmethod
    def _is_of_another_log(hold: Hold, commit: Commit) -> bool:
        known = commit.metadata.removeprefix(METADATA_PREFIX) if commit.metadata.startswith(METADATA_PREFIX) else ""
        if not known or not hold.log or known == hold.log:
            return False
        log.warning(
            "%s/%d: the topic was deleted and made again: it is read from its beginning", *hold.partition,
            extra={"action": "new_log"},
        )  # fmt: skip
        return True

    def _take(self, partition: TopicPartition, records: Sequence[Record]) -> None:
        hold = self._holds.get(partition)
        if hold is None or hold.next_offset is None:  # it has gone, or is sought anew
            return
        news = [record for record in records if record.offset >= (hold.next_offset or 0)]
        if not news:
            return
        metrics = self._metrics[hold.entity]
        metrics.accounting.consumed += len(news)
        hold.next_offset = news[-1].offset + 1
        self._pending.add(hold, news, [read_row(record, hold.entity, hold.log) for record in news])

    def _settle(self) -> None:
        """Book what the writer has done."""
        for batch, counts in self._pending.take_done():
            for hold, end in batch.ends.items():
                hold.done = max(hold.done, end) if hold.is_live else hold.done
            now_ms = time.time() * 1000
            for entity, count in counts.items():
                metrics = self._metrics[entity]
                accounting = metrics.accounting
                accounting.published["upsert"] += count.upserts
                accounting.published["tombstone"] += count.tombstones
                accounting.superseded["same_batch"] += count.same_batch
                accounting.superseded["stale_revision"] += count.stale
                accounting.dead_lettered.update(each.reason.value for each in count.rejected)
                accounting.abandoned += count.abandoned
                appended = batch.timestamps.get(entity, ())
                metrics.latency.observe_many(metrics.topic, [max(0.0, now_ms - each) / 1000 for each in appended])
                metrics.last_publish.set(now_ms / 1000)
                for each in count.rejected:
                    log.warning(
                        "refused as %s at %s/%d offset %d: %s", each.reason.value, each.record.topic,
                        each.record.partition, each.record.offset, each.detail, extra={"action": "refused"},
                    )  # fmt: skip
        self._export()

    def _export(self) -> None:
        for metrics in self._metrics.values():
            accounting = metrics.accounting
            ended = sum(
                sum(each.values()) for each in (accounting.published, accounting.superseded, accounting.dead_lettered)
            )
            accounting.snapshot(accounting.consumed - ended - accounting.abandoned)

    def _commits(self, holds: Collection[Hold]) -> dict[TopicPartition, Commit]:
        return {
            hold.partition: Commit(hold.done, f"{METADATA_PREFIX}{hold.log}")
            for hold in holds
            if hold.is_live and hold.next_offset is not None and hold.done > hold.committed
        }

    def _commit(self) -> None:
        """Commit what is written, unless a commit is under way: the next one covers it."""
        if self._is_committing:
            return
        commits = self._commits(list(self._holds.values()))
        self._committed_at = time.monotonic()
        if not commits:
            return
        holds = [self._holds[partition] for partition in commits]
        self._is_committing = True
        self._consumer.commit(commits, lambda error: self._committed(holds, commits, error))

    def _committed(
        self, holds: Sequence[Hold], commits: Mapping[TopicPartition, Commit], error: WorkerError | None
    ) -> None:
        self._is_committing = False
        result = "ok"
        if isinstance(error, NotMemberError):
            result = "not_member"
            log.info("%s", error.one_line(), extra={"action": "commit_failed"})
        elif isinstance(error, ClientError):
            result = "error"
            log.warning("%s", error.one_line(), extra={"action": "commit_failed"})
        elif error is not None:
            self._final = error
            return
        for metrics in self._metrics.values():
            metrics.commits.labels(result).inc()
            if result == "ok":
                metrics.last_commit.set_to_current_time()
        if result == "ok":
            for hold in holds:
                hold.committed = commits[hold.partition].offset

    def _look(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_S:
            return
        self._looked_at = now
        contact = self._consumer.contact()
        if (news := self._silence.look(now, contact.heard_at)) is not None:
            level = logging.WARNING if self._silence.is_silent else logging.INFO
            log.log(level, "%s", news, extra={"action": "silence"})
        lags = self._consumer.lag(list(self._holds))
        self._writer.is_caught_up = (
            bool(self._holds) and not self._pending.num_records and not any(unread > MARKER for unread in lags.values())
        )
        for entity, metrics in self._metrics.items():
            mine = [hold for hold in self._holds.values() if hold.entity == entity]
            raise_to(metrics.request_errors.labels(metrics.topic), contact.num_failed)
            metrics.silence.set_since([metrics.topic], contact.heard_at if self._silence.is_silent else None)
            metrics.assigned_partitions.labels(metrics.topic).set(len(mine))
            metrics.paused_partitions.labels(metrics.topic).set(len(mine) if self._is_paused else 0)
            metrics.topic_partitions.labels(metrics.topic).set(self._consumer.num_partitions(metrics.topic) or 0)
            metrics.last_poll.set_to_current_time()
            for hold in mine:
                unread = lags.get(hold.partition, 0)
                labels = (hold.partition.topic, str(hold.partition.partition))
                metrics.position_lag.labels(*labels).set(unread)
                metrics.lag.labels(*labels).set(unread + max(0, (hold.next_offset or 0) - hold.done))

    def holds(self) -> list[Hold]:
        """Any thread."""
        return list(self._holds.values())

    @property
    def is_stable(self) -> bool:
        """Any thread."""
        return self._consumer.is_stable()

    # ------------------------------------------------------------------ the end

    def _is_reached(self, goals: Sequence[EndOffsets]) -> bool:
        if self._pending.num_records or any(hold.next_offset is None for hold in self._holds.values()):
            return False
        if time.monotonic() - self._committed_at > LOOK_S / 2:
            self._commit()
        try:
            return all(goal.are_reached(self._consumer.committed(goal.partitions)) for goal in goals)
        except WorkerError as error:
            log.warning("%s", error.one_line(), extra={"action": "goal_failed"})
            return False

    def _drain(self) -> None:
        """Write what has been taken, within the time there is for it, and commit it."""
        is_done = self._pending.wait_until_done(None, self._settings.shutdown.drain_timeout_s)
        if not is_done:
            log.warning(
                "%d records were not written within shutdown.drain_timeout_s: they come again",
                self._pending.num_records, extra={"action": "drain_timeout"},
            )  # fmt: skip
        self._settle()
        self._consumer.await_commits()
        self._commit()
        self._consumer.await_commits()
        self._require_place()

    def _require_place(self) -> None:
        if self._final is not None:
            raise self._final

    def _count_left(self) -> None:
        """Count as abandoned what has been taken and not been written: whoever comes next reads it again."""
        for metrics in self._metrics.values():
            metrics.accounting.abandoned += metrics.accounting.totals.in_flight
        self._export()


def find_inputs(client: ClientPort, settings: Settings, standing: Standing = NO_ROLLOUT) -> list[Input]:
    """The topics that are to be read: those of the settings, or, once there has been a rollout, of every space that is
    published. Raises `TopicError` for one that does not exist."""
    names: list[tuple[Entity, str]] = []
    given: tuple[tuple[Entity, str], ...] = (
        ("items", settings.topics.item_vectors),
        ("users", settings.topics.user_vectors),
    )
    for entity, name in given:
        if entity not in settings.sink.vectors:
            continue
        plan, beside = standing.plan, standing.published_beside
        if plan is None or entity not in plan.roles:
            names.append((entity, name))
            continue
        names += [(entity, space.outputs(entity)) for space in (plan.primary, beside) if space is not None]
    described = client.describe_topics([name for _, name in names])
    for entity, name in names:
        if name not in described:
            setting = f"topics.{entity.removesuffix('s')}_vectors"
            raise TopicError(f"{setting}: topic {name!r} does not exist: `align-worker topics create` makes it")
    return [
        Input(entity, name, described[name].topic_id or name, described[name].num_partitions) for entity, name in names
    ]
