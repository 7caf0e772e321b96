"""A member of the consumer group that does not stop without a word, as the library's own may."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.errors import (
    GroupMaxSizeReachedError,
    InconsistentGroupProtocolError,
    InvalidSessionTimeoutError,
    KafkaError,
)
from kafka.structs import MemberState
from kafka.structs import TopicPartition as KafkaTopicPartition

from worker.errors import ConfigError, UnreadableError, WorkerError
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS
from worker.kafka.kafka_python.contact import Answers
from worker.kafka.kafka_python.membership import leave_group
from worker.kafka.kafka_python.structs import kafka_commits, kafka_partition
from worker.kafka.kafka_python.translation import translated
from worker.kafka.kafka_python.unpacking import Unpacking
from worker.kafka.port import Commit, CommitOutcome, Contact, Membership, PartitionListener
from worker.kafka.skips import Skips
from worker.records import Record, TopicPartition
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)


class KafkaPythonConsumer:
    """A member of the consumer group."""

    def __init__(
        self,
        consumer: KafkaConsumer,
        answers: Answers,
        unpacking: Unpacking,
        skips: Skips,
        settings: KafkaSettings,
        common: Mapping[str, Any],
    ) -> None:
        """`common`: how all clients connect."""
        self._consumer = consumer
        self._answers = answers
        self._unpacking = unpacking
        self._skips = skips
        self._unreadable: list[UnreadableError] = []
        self._settings = settings
        self._common = common
        self._num_partitions: dict[str, int | None] = {}
        """Number of partitions of the topics subscribed to, as last seen."""

    def subscribe(self, topics: Sequence[str], listener: PartitionListener) -> None:
        with translated("subscribing"):
            self._consumer.subscribe(list(topics), listener=_ListenerBridge(self._consumer, listener))
            # Metadata that arrives after the first join makes the client join again. Asked for between subscribe and
            # the first poll, there is no second join.
            for topic in topics:
                self._consumer.partitions_for_topic(topic)
            self._num_partitions = {topic: self.num_partitions(topic) for topic in topics}

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]:
        self._free_place_in_line()
        with translated("polling"):
            with self._refusals_explained():
                polled: Mapping[TopicPartition, Sequence[Record]] = self._consumer.poll(timeout_ms, max_records)
            self._drive_join_on()
            self._ask_for_new_partitions()
        for partition, error in self._unpacking.take_faults().items():
            if (until := self._skips.behind(error)) is None:
                self._unreadable.append(error)
            elif partition in self._consumer.assignment():
                with translated("seeking"):
                    self._consumer.seek(partition, until)
                    self._consumer.resume(partition)
        return polled

    def unreadable(self) -> Sequence[UnreadableError]:
        found, self._unreadable = self._unreadable, []
        return found

    def _drive_join_on(self) -> None:
        """Have the next poll wait on for a join that this one has begun and not seen the end of.

        The client forgets such a join where changed metadata was its reason (kafka-python 3.0.12, `need_rejoin` knows
        nothing of a join under way): no partitions and no heartbeats from then on, and polls that return nothing for
        ever. Asked to join again, it takes up the one under way.
        """
        if self._consumer.group_metadata().state == MemberState.REBALANCING:
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001  # nothing public asks for it

    def _ask_for_new_partitions(self) -> None:
        """Have the group share out the partitions that a topic has been given.

        Only the leader of a group looks for them, and a member that has come back under the leader's name is one
        without knowing it (kafka-python 3.0.12, whose join requests are too old to be told). Asked by a member that
        does not lead, the group stays as it is.
        """
        known = {topic: self.num_partitions(topic) for topic in self._num_partitions}
        if any(count is not None and count > (self._num_partitions[topic] or count) for topic, count in known.items()):
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001  # nothing public asks for it
        self._num_partitions = {topic: count or self._num_partitions[topic] for topic, count in known.items()}

    def _free_place_in_line(self) -> None:
        """Let partitions come back after a pause, which they else do not, without a word.

        The client puts aside the fetched records of a partition that is paused, fetches nothing more of it until they
        are handed out, and takes them up again only while the place for records in line is empty. What another
        partition has left there counts, even when nothing is left of it (kafka-python 3.0.12, `fetched_records`).
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001  # nothing public empties it
        if not fetcher._next_partition_records:  # noqa: SLF001
            fetcher._next_partition_records = None  # noqa: SLF001

    @contextlib.contextmanager
    def _refusals_explained(self) -> Iterator[None]:
        """Explain refusals of the group that asking again cannot change: name the setting."""
        settings, group = self._settings, self._consumer.config["group_id"]
        try:
            yield
        except InvalidSessionTimeoutError as error:
            raise ConfigError(
                f"kafka.session_timeout_ms={settings.session_timeout_ms} is not between the broker's "
                "group.min.session.timeout.ms and group.max.session.timeout.ms: change the one or the others"
            ) from error
        except InconsistentGroupProtocolError as error:
            raise ConfigError(
                f"kafka.assignor={settings.assignor} is not that of the other members of the group {group!r}: all must "
                "have the same, so stop them all before it is changed; a program of another kind needs another group"
            ) from error
        except GroupMaxSizeReachedError as error:
            raise ConfigError(
                f"the group {group!r} (kafka.group_id) has as many members as the broker's group.max.size allows"
            ) from error

    def is_stable(self) -> bool:
        return bool(self._consumer.group_metadata().state == MemberState.STABLE)

    def membership(self) -> Membership | None:
        found = self._consumer.group_metadata()
        # A member that was put out has generation -1, with which the broker takes transactional commits from anyone.
        if found.state != MemberState.STABLE or found.generation_id < 0 or not found.member_id:
            return None
        return Membership(found.group_id, found.generation_id, found.member_id, found.group_instance_id)

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        with translated("pausing"):
            self._consumer.pause(*map(kafka_partition, partitions))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        with translated("resuming"):
            self._consumer.resume(*map(kafka_partition, partitions))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with translated("seeking"):
            self._consumer.seek(kafka_partition(partition), offset)

    def position(self, partition: TopicPartition) -> int | None:
        with contextlib.suppress(KafkaError):  # a partition that is just being revoked, or looks for its place
            position = self._consumer.position(kafka_partition(partition), timeout_ms=0)
            return None if position is None else int(position)
        return None

    def log_start(self, partition: TopicPartition) -> int | None:
        return self._answers.log_starts.get(partition)

    def beginning(self, partition: TopicPartition) -> int:
        with translated("asking for the beginning of a partition"):
            tp = kafka_partition(partition)
            return int(self._consumer.beginning_offsets([tp], timeout_ms=CALL_TIMEOUT_MS)[tp])

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        commits = {}
        with translated("asking for commits"):
            for partition in partitions:
                found = self._consumer.committed(kafka_partition(partition), metadata=True, timeout_ms=CALL_TIMEOUT_MS)
                if found is not None and found.offset >= 0:
                    commits[partition] = Commit(found.offset, found.metadata or "")
        return commits

    def commit(self, commits: Mapping[TopicPartition, Commit], on_outcome: CommitOutcome) -> None:
        outcome: WorkerError | None = None
        try:
            with translated("committing"):
                self._consumer.commit(kafka_commits(commits), timeout_ms=CALL_TIMEOUT_MS)
        except WorkerError as error:
            outcome = error
        on_outcome(outcome)

    def await_commits(self) -> None:
        """None is ever under way between two calls."""

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        lags = {}
        for partition in partitions:
            with contextlib.suppress(KafkaError):  # a partition that is just being revoked
                highwater, position = self._consumer.highwater(kafka_partition(partition)), self.position(partition)
                if highwater is not None and position is not None:
                    lags[partition] = max(0, highwater - position)
        return lags

    def contact(self) -> Contact:
        return Contact(self._answers.heard_at, self._answers.num_failed)

    def heard_of(self, partition: TopicPartition) -> float | None:
        return self._answers.fetched_at.get(partition)

    def num_partitions(self, topic: str) -> int | None:
        known = self._consumer._cluster.partitions_for_topic(topic)  # noqa: SLF001  # the public way asks the broker
        return None if known is None else len(known)

    def close(self, timeout_s: float) -> None:
        with translated("closing the consumer"):
            if self._settings.leaves_group:
                # The client never takes a member with a name out of its group, and nothing public asks it to.
                self._consumer._coordinator.is_dynamic_member = lambda: True  # noqa: SLF001
            self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))

    def leave(self, timeout_s: float) -> None:
        member = self._consumer.group_metadata()
        if self._settings.leaves_group and member.member_id:
            with translated("leaving the group"):
                leave_group(self._common, member, timeout_s)


class _ListenerBridge(AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Hands rebalances to our listener. Runs on the client's IO thread, where a blocking commit would be refused but
    an awaited one reaches the broker before the partition moves."""

    def __init__(self, consumer: KafkaConsumer, listener: PartitionListener) -> None:
        self._consumer = consumer
        self._listener = listener

    async def on_partitions_assigned(self, assigned: Collection[KafkaTopicPartition]) -> None:
        self._listener.assigned([TopicPartition(*tp) for tp in assigned])

    async def on_partitions_revoked(self, revoked: Collection[KafkaTopicPartition]) -> None:
        commits = self._listener.revoked([TopicPartition(*tp) for tp in revoked])
        if commits:
            try:
                await self._consumer.commit_async(kafka_commits(commits))
            except KafkaError as error:  # the next owner computes these records again
                log.warning("commit at revocation failed: %s", error, extra={"action": "revoke_commit_failed"})

    async def on_partitions_lost(self, lost: Collection[KafkaTopicPartition]) -> None:
        self._listener.lost([TopicPartition(*tp) for tp in lost])
