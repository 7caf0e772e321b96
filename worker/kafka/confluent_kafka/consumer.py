"""A member of the consumer group, which hands over what librdkafka has fetched beforehand.

Partitions are assigned with explicit offsets, and where the next record is to come from is kept here: the library's own
position is unknown before the first record, and does not move over markers.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import (
    CallTimeoutError,
    ClientError,
    ConfigError,
    FencedError,
    NotMemberError,
    StalledError,
    UnreadableError,
    WorkerError,
)
from worker.kafka.confluent_kafka.calls import Caller
from worker.kafka.confluent_kafka.connection import CALL_TIMEOUT_S
from worker.kafka.confluent_kafka.lost_contact import LostContact
from worker.kafka.confluent_kafka.membership import parsed
from worker.kafka.confluent_kafka.records import unpacked
from worker.kafka.confluent_kafka.second import Second
from worker.kafka.confluent_kafka.sent_commits import SentCommits
from worker.kafka.confluent_kafka.statistics import Answers
from worker.kafka.confluent_kafka.translation import codes, kafka_error, translate, translated
from worker.kafka.port import Commit, CommitOutcome, Contact, Membership, PartitionListener
from worker.kafka.skips import Skips
from worker.records import Record, TopicPartition
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

UNREADABLE = codes("_BAD_MSG _BAD_COMPRESSION _NOT_IMPLEMENTED _UNDERFLOW INVALID_MSG UNKNOWN INVALID_MSG_SIZE")
"""Errors by which the library reports a partition that cannot be read on. Others pass, or are not about the log.
"""
_SETTINGS = codes("INVALID_SESSION_TIMEOUT INCONSISTENT_GROUP_PROTOCOL GROUP_MAX_SIZE_REACHED UNSUPPORTED_ASSIGNOR")
_ACCESS = codes(
    "TOPIC_AUTHORIZATION_FAILED GROUP_AUTHORIZATION_FAILED CLUSTER_AUTHORIZATION_FAILED FENCED_INSTANCE_ID "
    "UNRELEASED_INSTANCE_ID UNSUPPORTED_VERSION"
)
CLOSE_MARGIN_S = 0.5
FENCED_MARGIN_S = 10.0
COMMIT_STEP_S = 0.02
"""How long a poll sleeps at a time while the outcome of a commit is awaited: hearing of it does not wake it."""
NAME_RETRY_S = 0.5
NAME_FREE_S = 90.0
"""Twice the session that brokers give by themselves."""


class ConfluentConsumer:
    """Rebalances are told of on the thread that polls, or that closes.

    Every call of the library's consumer keeps other threads' calls waiting until it returns. So whatever another thread
    asks of us (`is_stable`, `leave`) is answered from what the last poll has left here.
    """

    def __init__(
        self,
        open_consumer: Callable[[], Consumer],
        answers: Answers,
        sent: SentCommits,
        contact: LostContact,
        skips: Skips,
        second: Second,
        settings: KafkaSettings,
        group_id: str,
    ) -> None:
        self._open = open_consumer
        self._consumer = open_consumer()
        self._answers = answers
        self._sent = sent
        self._lost_contact = contact
        self._skips = skips
        self._second = second
        self._settings = settings
        self._group_id = group_id
        self._listener: PartitionListener | None = None
        self._topics: Sequence[str] = ()
        self._name_taken_since: float | None = None
        """Monotonic time since when the group has had our name for a member that is not us."""
        self._is_to_open = False
        """The consumer is of no use any more, and another one would be."""
        self._is_joined = False
        self._is_incremental = settings.group_protocol == "consumer" or settings.assignor == "cooperative-sticky"
        self._positions: dict[TopicPartition, int] = {}
        """The next offset of each partition that is assigned; `OFFSET_BEGINNING` where that is not known."""
        self._new: set[TopicPartition] = set()
        """Partitions that this poll has brought."""
        self._gone: set[TopicPartition] = set()
        """Partitions that have gone while this poll took records."""
        self._paused: set[TopicPartition] = set()
        self._log_starts: dict[TopicPartition, int] = {}
        self._unreadable: list[UnreadableError] = []
        self._failed: WorkerError | None = None
        """To be raised by the next poll: this one has records."""
        self._counts: dict[str, int] = {}
        self._place: Membership | None = None
        """The place in the group, as of the last poll."""
        self._last_place: Membership | None = None
        """The last one that we had."""

    # ------------------------------------------------------------------ group

    def subscribe(self, topics: Sequence[str], listener: PartitionListener) -> None:
        self._listener, self._topics = listener, topics
        with translated("subscribing"):
            for topic in topics:
                found = self._consumer.list_topics(topic, timeout=CALL_TIMEOUT_S).topics.get(topic)
                if found is not None and found.error is None:
                    self._counts[topic] = len(found.partitions)
            self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            list(self._topics), on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
        )

    def _assigned(self, consumer: Consumer, partitions: Sequence[KafkaTopicPartition]) -> None:
        """Begin where the group has committed, or else where the log begins."""
        new = [_ours(each) for each in partitions]
        starts = dict.fromkeys(new, OFFSET_BEGINNING)
        try:
            starts |= {partition: commit.offset for partition, commit in self.committed(new).items()}
        except WorkerError as error:  # whoever works on a partition seeks to where it left off anyway
            log.warning("%s", error.one_line(), extra={"action": "commits_unknown"})
        self._positions |= starts
        self._paused -= set(new)
        placed = [_placed(partition, offset) for partition, offset in starts.items()]
        try:
            if self._is_incremental:
                consumer.incremental_assign(placed)
            else:
                consumer.assign(placed)
        except KafkaException as error:  # it is to be shared out again already
            log.info("%s", error, extra={"action": "assign_refused"})
        self._is_joined = True
        self._new |= set(new)
        self._name_taken_since = None
        if self._listener is not None:
            self._listener.assigned(new)

    def _revoked(self, consumer: Consumer, partitions: Sequence[KafkaTopicPartition]) -> None:
        gone = [_ours(each) for each in partitions]
        commits = {} if self._listener is None else self._listener.revoked(gone)
        if commits:
            # Not waited for, which would never end while the consumer is closed: it is sent, and so taken, before we
            # give them away. If it is refused, the next owner computes these records again.
            with contextlib.suppress(KafkaException):
                consumer.commit(offsets=_offsets(commits), asynchronous=True)
        self._let_go(gone)

    def _lost(self, consumer: Consumer, partitions: Sequence[KafkaTopicPartition]) -> None:
        gone = [_ours(each) for each in partitions]
        self._is_joined = False
        if self._listener is not None:
            self._listener.lost(gone)
        self._let_go(gone)

    def _let_go(self, gone: Sequence[TopicPartition]) -> None:
        """The library unassigns them itself, behind the callback."""
        self._gone |= set(gone)
        if not self._is_incremental:
            self._is_joined = False
        for partition in gone:
            self._positions.pop(partition, None)
            self._paused.discard(partition)

    def is_stable(self) -> bool:
        # With the new protocol nobody tells a member that it has no partitions.
        return self._place is not None if self._settings.group_protocol == "consumer" else self._is_joined

    def membership(self) -> Membership | None:
        is_held = self._is_joined or self._settings.group_protocol == "consumer"
        return self._place if is_held else None

    def _look_at_place(self) -> None:
        place = None
        with contextlib.suppress(KafkaException, RuntimeError):
            place = parsed(self._consumer.consumer_group_metadata())
        self._place, self._last_place = place, place or self._last_place

    # ------------------------------------------------------------------ polls

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]:
        if (failed := self._failed) is not None:
            self._failed = None
            raise failed
        if self._is_to_open:
            self._open_again("the group has shut us out as a member of before")
        elif self._lost_contact.is_lost(self._answers.heard_at, time.monotonic()):
            self._open_again("brokers answer others and not us")
        try:
            return self._poll(timeout_ms, max_records)
        finally:
            self._look_at_place()
            self._sent.hand_on(time.monotonic())

    def _poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]:
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            remaining_s = max(0.0, deadline - time.monotonic())
            messages = self._fetched(min(remaining_s, COMMIT_STEP_S) if len(self._sent) else remaining_s, max_records)
            told: Sequence[Message] = ()
            if any(map(Message.error, messages)):
                told = [message for message in messages if message.error() is not None]
                messages = [message for message in messages if message.error() is None]
            if self._new:
                messages = self._without_new(messages)
            polled = unpacked(messages, self._settings.max_record_bytes, self._second.reread)
            for partition in list(polled):
                if partition in self._positions and partition not in self._paused:
                    self._positions[partition] = polled[partition][-1].offset + 1
                    self._answers.came_of(partition)
                else:  # it has gone, or been paused, since this was fetched
                    del polled[partition]
            for message in told:  # behind the records: what begins anew begins behind them
                self._take_note_of(message)
            if polled or self._new or self._failed is not None or self._unreadable or time.monotonic() >= deadline:
                break
        self._new.clear()
        if not polled and (failed := self._failed) is not None:
            self._failed = None
            raise failed
        return polled

    def _fetched(self, timeout_s: float, max_records: int) -> list[Message]:
        """Take records. The library hands each out once, so no fault may lose them."""
        self._gone.clear()
        with translated("polling"):
            # With more than one it would wait until they are there, or the time is over.
            messages: list[Message] = self._consumer.consume(1, timeout_s)
        if messages and max_records > 1:
            try:
                with translated("polling"):
                    more = self._consumer.consume(max_records - 1, 0)
            except WorkerError as error:
                self._failed, more = error, []
            if self._gone:  # what comes behind a rebalance is of the partitions as they are now
                messages = [each for each in messages if (each.topic(), each.partition()) not in self._gone]
            messages = messages + more
        return messages

    def _without_new(self, messages: Sequence[Message]) -> list[Message]:
        """A poll that brings partitions brings no records of them: whoever polls must first know where to begin."""
        kept = [message for message in messages if (message.topic(), message.partition()) not in self._new]
        if len(kept) < len(messages):
            for partition in self._new & self._positions.keys():
                self._go_to(partition, self._positions[partition])
        return kept

    def _take_note_of(self, message: Message) -> None:
        """Note a message that is no record; an error is raised by the next poll, because records go first."""
        try:
            self._take_note(message)
        except WorkerError as error:
            self._failed = self._failed or error

    def _take_note(self, message: Message) -> None:
        error = message.error()
        if message.topic() is None or message.partition() is None or message.partition() < 0:
            self._note(error, f"polling as a member of {self._group_id}")
            return
        partition = TopicPartition(message.topic(), message.partition())
        if partition in self._positions and partition not in self._paused and partition not in self._new:
            self._note_of(partition, error, message.offset())

    def _note_of(self, partition: TopicPartition, error: KafkaError, offset: int | None) -> None:
        reached = self._positions[partition]
        if error.code() == KafkaError._PARTITION_EOF:  # noqa: SLF001
            self._answers.came_of(partition)
            if offset is not None and offset > reached:
                self._positions[partition] = offset  # over markers, and what was compacted
        elif error.code() == KafkaError._AUTO_OFFSET_RESET:  # noqa: SLF001
            if offset is None or offset == reached or reached < 0:
                self._begin_again(partition)
        elif error.code() in UNREADABLE:
            self._stop(partition, reached, error)
        else:
            self._note(error, f"reading {partition.topic}")

    def _begin_again(self, partition: TopicPartition) -> None:
        """The log no longer has, or does not have yet, what was to come next."""
        try:
            start = self.beginning(partition)
        except ClientError as error:
            self._failed = error
            start = OFFSET_BEGINNING
        else:
            self._log_starts[partition] = start
        log.warning("%s/%d is read from its beginning, offset %d", *partition, start, extra={"action": "offset_reset"})
        self._go_to(partition, start)

    def _stop(self, partition: TopicPartition, reached: int, error: KafkaError) -> None:
        """Read over what is left out; else pause the partition."""
        offset = self.beginning(partition) if reached < 0 else reached
        found = self._second.unreadable(partition, offset, f"{error.name()}: {error.str()}")
        if found is None:
            return
        if (until := self._skips.behind(found)) is not None:
            self._go_to(partition, until)
            return
        self.pause([partition])
        self._unreadable.append(found)

    def _note(self, error: KafkaError, doing: str) -> None:
        """Note an event of the group or a broker. The library tries again by itself, unless that is no use."""
        self._answers.failed()
        code = error.code()
        if code == KafkaError._FATAL:  # noqa: SLF001
            self._end(error.str())
        elif code in _SETTINGS:
            self._failed = ConfigError(self._explained(error))
        elif code in _ACCESS or error.fatal():
            self._failed = translate(error, doing)
        else:
            log.info("%s", error.str(), extra={"action": "client_told"})

    def _end(self, reason: str) -> None:
        """The library's consumer is of no use any more, and says why in words only."""
        if "still used" in reason:
            # With the new protocol a member that was killed keeps its name until its session ends: we are waiting for
            # our own former self, or else another process has the name.
            now = time.monotonic()
            self._name_taken_since = self._name_taken_since or now
            if now - self._name_taken_since < NAME_FREE_S:
                self._is_to_open = True
            else:
                self._failed = FencedError(
                    f"another process runs with this kafka.group_instance_id: give every member its own ({reason})"
                )
        elif "fenced" in reason:
            since_s = time.monotonic() - self._answers.unanswered_at
            if since_s < 2 * self._settings.session_timeout_ms / 1000 + FENCED_MARGIN_S:
                self._is_to_open = True  # a request to join that came late has shut out the one behind it
            else:
                self._failed = FencedError(
                    f"another process runs with this kafka.group_instance_id: give every member its own ({reason})"
                )
        elif self._settings.group_protocol == "consumer" and "support" in reason:
            self._failed = ConfigError(
                f"kafka.group_protocol=consumer needs brokers that know it, as Kafka 4 ({reason})"
            )
        else:
            self._failed = StalledError(f"the Kafka client cannot go on: {reason}")

    def _open_again(self, why: str) -> None:
        log.warning("%s: joining anew", why, extra={"action": "join_anew"})
        if self._name_taken_since is not None:
            time.sleep(NAME_RETRY_S)
        held, listener = list(self._positions), self._listener
        consumer, self._consumer = self._consumer, self._open()
        threading.Thread(target=consumer.close, name="kafka-close", daemon=True).start()
        self._is_to_open = self._is_joined = False
        self._sent.give_up("this member has had to join anew")
        if held and listener is not None:
            listener.lost(held)
        self._let_go(held)
        if listener is not None:
            with translated("subscribing"):
                self._join()

    def _explained(self, error: KafkaError) -> str:
        """Explain a refusal of the group that asking again cannot change: name the setting."""
        settings, group = self._settings, self._group_id
        if error.code() in codes("INVALID_SESSION_TIMEOUT"):
            return (
                f"kafka.session_timeout_ms={settings.session_timeout_ms} is not between the broker's "
                "group.min.session.timeout.ms and group.max.session.timeout.ms: change the one or the others"
            )
        if error.code() in codes("INCONSISTENT_GROUP_PROTOCOL UNSUPPORTED_ASSIGNOR"):
            return (
                f"kafka.assignor={settings.assignor} is not that of the other members of the group {group!r}: all must "
                "have the same, so stop them all before it is changed; a program of another kind needs another group"
            )
        return f"the group {group!r} (kafka.group_id) has as many members as the broker's group.max.size allows"

    def unreadable(self) -> Sequence[UnreadableError]:
        found, self._unreadable = self._unreadable, []
        return found

    # ------------------------------------------------------------------ places

    def pause(self, partitions: Collection[TopicPartition]) -> None:
        with translated("pausing"):
            self._consumer.pause([_named(each) for each in partitions if each in self._positions])
        self._paused |= set(partitions)

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        """Read on from the position kept here: a pause drops what was fetched beforehand."""
        self._paused -= set(partitions)
        held = [each for each in partitions if each in self._positions]
        with translated("resuming"):
            self._consumer.resume([_named(each) for each in held])
        for partition in held:
            self._go_to(partition, self._positions[partition])

    def seek(self, partition: TopicPartition, offset: int) -> None:
        if partition not in self._positions:
            raise ClientError(f"seeking: {partition.topic}/{partition.partition} is not ours at present")
        self._go_to(partition, offset)

    def _go_to(self, partition: TopicPartition, offset: int) -> None:
        self._positions[partition] = offset
        try:
            self._consumer.seek(_placed(partition, offset))
            return
        except KafkaException as error:
            known = kafka_error(error)
            if known is None or known.code() != KafkaError._STATE:  # noqa: SLF001
                raise translate(error, "seeking") from error
        # It is not being fetched yet, or no longer: then only a new assignment gives it a place.
        with translated("seeking"):
            if self._is_incremental:
                self._consumer.incremental_unassign([_named(partition)])
                self._consumer.incremental_assign([_placed(partition, offset)])
            else:
                self._consumer.assign([_placed(each, place) for each, place in self._positions.items()])
            if paused := [each for each in self._paused if each in self._positions]:
                self._consumer.pause([_named(each) for each in paused])

    def beginning(self, partition: TopicPartition) -> int:
        with translated("asking for the beginning of a partition"):
            found = self._consumer.get_watermark_offsets(_named(partition), timeout=CALL_TIMEOUT_S)
        if found is None:
            raise CallTimeoutError("asking for the beginning of a partition: no answer in time")
        return int(found[0])

    def position(self, partition: TopicPartition) -> int | None:
        position = self._positions.get(partition)
        return None if position is None or position < 0 else position

    def log_start(self, partition: TopicPartition) -> int | None:
        return self._log_starts.get(partition)

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        lags = {}
        for partition in partitions:
            position = self.position(partition)
            if position is None:
                continue
            with contextlib.suppress(KafkaException):
                found = self._consumer.get_watermark_offsets(_named(partition), cached=True)
                if found is not None and found[1] >= 0:
                    lags[partition] = max(0, int(found[1]) - position)
        return lags

    # ------------------------------------------------------------------ commits

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        commits = {}
        with translated("asking for commits"):
            for found in self._consumer.committed([_named(each) for each in partitions], timeout=CALL_TIMEOUT_S):
                if found.error is not None:
                    raise KafkaException(found.error)
                if found.offset >= 0:
                    commits[_ours(found)] = Commit(found.offset, found.metadata or "")
        return commits

    def commit(self, commits: Mapping[TopicPartition, Commit], on_outcome: CommitOutcome) -> None:
        """With no place in the group an empty group would take it from anyone, and that would prove nothing: so the
        place is looked at before and after."""
        self._look_at_place()
        before = self.membership()
        if before is None:
            on_outcome(NotMemberError("committing: this member has no place in the group at present"))
            return

        def is_ours() -> bool:
            now = self.membership()
            return now is not None and now.member_id == before.member_id and self.is_stable()

        try:
            with translated("committing"):
                self._consumer.commit(offsets=_offsets(commits), asynchronous=True)
        except WorkerError as error:
            on_outcome(error)
        else:
            self._sent.add(commits, time.monotonic() + CALL_TIMEOUT_S, is_ours, on_outcome)

    def await_commits(self) -> None:
        """An outcome comes behind the records that have been fetched, which a pause throws away."""
        read = [each for each in self._positions if each not in self._paused]
        with translated("waiting for commits"):
            self._consumer.pause([_named(each) for each in read])
            while len(self._sent):
                for message in self._consumer.consume(1, COMMIT_STEP_S):
                    if message.error() is not None:
                        self._take_note_of(message)
                self._look_at_place()
                self._sent.hand_on(time.monotonic())
        # Those that have come meanwhile have had records, too.
        self.resume([each for each in self._positions if each not in self._paused])

    # ------------------------------------------------------------------ brokers

    def contact(self) -> Contact:
        return Contact(self._answers.heard_at, self._answers.num_failed)

    def heard_of(self, partition: TopicPartition) -> float | None:
        return self._answers.heard_of(partition)

    def num_partitions(self, topic: str) -> int | None:
        known = self._answers.num_partitions.get(topic)
        return self._counts.get(topic) if known is None else max(known, self._counts.get(topic, 0))

    def close(self, timeout_s: float) -> None:
        self._look_at_place()
        member = self._last_place
        with translated("closing the consumer"):
            closer = Caller("kafka-close")
            try:
                closer.call("closing the consumer", self._consumer.close, timeout_s + CLOSE_MARGIN_S)
            finally:
                closer.close()
        self._sent.give_up("the consumer is closed")
        self._sent.hand_on(time.monotonic())
        if self._settings.leaves_group and member is not None and member.instance_id is not None:
            self._second.leave_group(member, timeout_s)  # the library leaves a named member in

    def leave(self, timeout_s: float) -> None:
        member = self._last_place
        if self._settings.leaves_group and member is not None:
            self._second.leave_group(member, timeout_s)


def _offsets(commits: Mapping[TopicPartition, Commit]) -> list[KafkaTopicPartition]:
    return [_placed(partition, commit.offset, commit.metadata) for partition, commit in commits.items()]


def _ours(partition: KafkaTopicPartition) -> TopicPartition:
    return TopicPartition(partition.topic, partition.partition)


def _named(partition: TopicPartition) -> KafkaTopicPartition:
    return KafkaTopicPartition(partition.topic, partition.partition)


def _placed(partition: TopicPartition, offset: int, note: str = "") -> KafkaTopicPartition:
    # The library takes no notes with a null in them, and an empty one as none.
    return KafkaTopicPartition(partition.topic, partition.partition, offset, note)
