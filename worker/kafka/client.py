"""The kafka-python adapter: this module and its helpers beside it alone import the client.

What is set here on purpose, and why, is measured in `tests/bench/README.md` or follows from a known behaviour of the
client, named beside it.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewTopic
from kafka.consumer.subscription_state import AsyncConsumerRebalanceListener
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from kafka.errors import (
    InvalidTransactionTimeoutError,
    KafkaError,
    KafkaTimeoutError,
    NoError,
    UnknownTopicOrPartitionError,
)
from kafka.errors import for_code as error_for_code
from kafka.future import Future
from kafka.net.compat import KafkaNetClient
from kafka.net.sasl.oauth import AbstractTokenProvider
from kafka.protocol.producer import ProduceRequest
from kafka.structs import ConsumerGroupMetadata, MemberState, OffsetAndMetadata
from kafka.structs import TopicPartition as KafkaTopicPartition

from worker.errors import AccessError, CallTimeoutError, ClientError, ConfigError, UnreachableError, WorkerError
from worker.kafka.certificates import check_certificates
from worker.kafka.diagnosis import LogTail, diagnose, suspect
from worker.kafka.packing import can_pack, pack
from worker.kafka.port import Commit, Lease, Membership, Outbound, PartitionListener, Receipt, TopicDescription
from worker.kafka.translation import translate, translated
from worker.kafka.unpacking import unpack_quickly
from worker.records import Headers, Record, TopicPartition
from worker.settings import KafkaSettings

log = logging.getLogger(__name__)

BOOTSTRAP_TIMEOUT_MS = 5_000
PROBE_TIMEOUT_S = 1.0
CONNECT_RETRY_S = 1.0
NUM_PATIENT_ATTEMPTS = 2  # the first may meet a broker that is just restarting
RETRY_BACKOFF_MS = 20
# A transaction begins while the broker still ends the one before, and is told to come back.
TRANSACTION_RETRY_MS = 10
CALL_MARGIN_S = 2.0  # what a call may take beyond the time that its request has
TRANSACTIONS_SINCE = (2, 5)  # older brokers do not check the place in the group of who commits in a transaction
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588  # the broker's own default
CALL_TIMEOUT_MS = 10_000
READER_MAX_RECORDS = 2_000
# What a reader of logs hands over at once, and a store takes over in one transaction: larger ones are cheaper there.
LOG_MAX_RECORDS = 20_000
LOG_FETCH_BYTES = 4 * 2**20
READER_METADATA_S = 60.0  # how soon a reader finds partitions that a topic is given later
# Who writes in transactions means what is not committed to be read by nobody. Where there are none it changes nothing.
ISOLATION = "read_committed"
_ASSIGNORS = {
    "range": RangePartitionAssignor,
    "roundrobin": RoundRobinPartitionAssignor,
    "cooperative-sticky": CooperativeStickyAssignor,
}


class KafkaPythonClient:
    """Makes consumers, producers and readers that share connection settings."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._common = _connection_config(settings)

    def connect(self) -> None:
        deadline = time.monotonic() + self._settings.connect_timeout_s
        num_attempts = 0
        with LogTail() as tail:
            while (remaining_s := deadline - time.monotonic()) > 0:
                if not self.reachable():
                    time.sleep(min(CONNECT_RETRY_S, remaining_s))
                elif self._is_answered(min(BOOTSTRAP_TIMEOUT_MS, int(remaining_s * 1000))):
                    return
                elif cause := diagnose(tail.lines()):
                    raise cause
                else:
                    num_attempts += 1
                    if num_attempts >= NUM_PATIENT_ATTEMPTS and (cause := suspect(tail.lines(), self._settings)):
                        raise cause
                log.warning(
                    "no broker answers yet",
                    extra={"action": "connect_wait", "remaining_s": max(0, round(deadline - time.monotonic()))},
                )
            if cause := suspect(tail.lines(), self._settings):
                raise cause
        raise UnreachableError(
            f"no broker answered at kafka.bootstrap_servers={self._settings.bootstrap_servers} within "
            f"kafka.connect_timeout_s={self._settings.connect_timeout_s:g}"
        )

    def _is_answered(self, timeout_ms: int) -> bool:
        """Whether a broker lets us in and tells us of its cluster in time."""
        try:
            with contextlib.closing(KafkaNetClient(**{**self._common, "request_timeout_ms": timeout_ms})) as network:
                network.check_version(timeout_ms=timeout_ms)
        except KafkaTimeoutError:
            return False
        except KafkaError as error:
            raise translate(error, "connecting") from error
        return True

    def reachable(self) -> bool:
        for host, port in _addresses(self._settings.bootstrap_servers):
            with contextlib.suppress(OSError), socket.create_connection((host, port), PROBE_TIMEOUT_S):
                return True
        return False

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        with translated("asking for topics"), self._admin() as admin:
            partitions = _num_partitions(admin.describe_topics(list(names)))
            limits = self._max_message_bytes(admin, list(partitions))
        return {name: TopicDescription(count, limits[name]) for name, count in partitions.items()}

    def _max_message_bytes(self, admin: KafkaAdminClient, names: Sequence[str]) -> Mapping[str, int]:
        """Topic limits; the broker's default for those that we may not or cannot ask for."""
        limits = dict.fromkeys(names, DEFAULT_MAX_MESSAGE_BYTES)
        if not names or self._settings.api_version is not None:  # the embedded broker has no configurations
            return limits
        try:
            resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
            described = admin.describe_configs(resources, config_filter="all")[ConfigResourceType.TOPIC.name.lower()]
        except KafkaError as error:
            log.warning("cannot read topic limits: %s", error, extra={"action": "topic_limits_unknown"})
            return limits
        for name in names:
            if limit := described.get(name, {}).get("max.message.bytes"):
                limits[name] = int(limit["value"])
            else:  # an access control that forbids it gives no error but an empty answer
                detail = "may not read the configuration of topic %s, taking it to have max.message.bytes=%d"
                log.warning(detail, name, limits[name], extra={"action": "topic_limits_unknown"})
        return limits

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        with translated("creating topics"), self._admin() as admin:
            admin.create_topics(
                [
                    NewTopic(
                        name,
                        num_partitions=num_partitions,
                        replication_factor=replication,
                        topic_configs=dict(config),
                    )
                    for name, config in topics.items()
                ],
                timeout_ms=CALL_TIMEOUT_MS,
            )

    def consumer(self, group_id: str) -> KafkaPythonConsumer:
        settings = self._settings
        with translated("opening a consumer"):
            consumer = _open(
                KafkaConsumer,
                **self._common,
                group_id=group_id,
                group_instance_id=settings.group_instance_id,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[_ASSIGNORS[settings.assignor]],
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=settings.heartbeat_interval_ms,
                max_poll_interval_ms=settings.max_poll_interval_ms,
                fetch_max_bytes=settings.fetch_max_bytes,
                fetch_max_wait_ms=settings.fetch_max_wait_ms,
                isolation_level=ISOLATION,
                check_crcs=settings.check_crcs,
                metrics_enabled=False,
            )
        unpack_quickly(consumer)
        return KafkaPythonConsumer(consumer)

    def producer(self, lease: Lease | None = None) -> KafkaPythonProducer:
        settings, fence = self._settings, _Fence(lease)
        with translated("opening a producer"):
            producer = _open(
                KafkaProducer,
                **self._common,
                kafka_client=lambda **config: _FencedNetClient(fence, **config),
                **self._writing,
                enable_idempotence=settings.api_version is None,  # the embedded broker checks no sequence numbers
                max_in_flight_requests_per_connection=5 if settings.api_version is None else 1,
            )
        return KafkaPythonProducer(producer, fence)

    def transactional_producer(self, transactional_id: str, timeout_ms: int) -> KafkaPythonTransactionalProducer:
        fence = _Fence(None)
        with translated("opening a transactional producer"):
            producer = _open(
                KafkaProducer,
                **{**self._common, "retry_backoff_ms": TRANSACTION_RETRY_MS},
                kafka_client=lambda **config: _FencedNetClient(fence, **config),
                **self._writing,
                enable_idempotence=True,
                transactional_id=transactional_id,
                transaction_timeout_ms=timeout_ms,
            )
        call_timeout_s = self._settings.request_timeout_ms / 1000 + CALL_MARGIN_S
        made = KafkaPythonTransactionalProducer(producer, fence, call_timeout_s)
        try:
            made.take_over(timeout_ms)
        except BaseException:
            made.close(0.5)
            raise
        return made

    @property
    def _writing(self) -> dict[str, Any]:
        """Arguments that all producers share."""
        settings = self._settings
        return {
            "acks": "all",
            "delivery_timeout_ms": settings.delivery_timeout_ms,
            "linger_ms": settings.linger_ms,
            "batch_size": settings.produce_batch_bytes,
            "max_request_size": 64 * 2**20,  # record sizes are checked against the topics' own limits before a send
            "max_block_ms": CALL_TIMEOUT_MS,
            "compression_type": None if settings.compression == "none" else settings.compression,
            "metrics_enabled": False,
        }

    def reader(self, topic: str) -> KafkaPythonReader:
        with translated(f"reading {topic}"):
            return KafkaPythonReader(self._open_groupless(), topic)

    def log(self) -> KafkaPythonLog:
        short_wait_ms = min(self._settings.fetch_max_wait_ms, 100)
        return KafkaPythonLog(
            lambda: self._open_groupless(fetch_max_wait_ms=short_wait_ms, max_partition_fetch_bytes=LOG_FETCH_BYTES),
            lambda: self._open_groupless("read_uncommitted"),
        )

    def _admin(self) -> contextlib.closing[KafkaAdminClient]:
        return contextlib.closing(_open(KafkaAdminClient, **self._common))

    def _open_groupless(self, isolation: str = ISOLATION, **config: Any) -> KafkaConsumer:
        if not self.reachable():
            raise CallTimeoutError(f"no broker answers at {self._settings.bootstrap_servers}")
        consumer = _open(
            KafkaConsumer,
            **self._common,
            **{"fetch_max_wait_ms": self._settings.fetch_max_wait_ms, **config},
            group_id=None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            check_crcs=self._settings.check_crcs,
            metrics_enabled=False,
        )
        unpack_quickly(consumer)
        return consumer


def _open(kind: Callable[..., Any], *, kafka_client: Callable[..., Any] = KafkaNetClient, **config: Any) -> Any:
    """Make a client of the library. One that fails on the way leaves no thread and no socket, as it does by itself."""
    made: list[Any] = []

    def network(**settings: Any) -> Any:
        made.append(kafka_client(**settings))
        return made[-1]

    try:
        return kind(**config, kafka_client=network)
    except BaseException:
        for client in made:
            client.close()
        raise


def _num_partitions(described: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Partitions of the topics that exist, by name, from the answer to a metadata request."""
    found = {}
    for topic in described:
        error = error_for_code(topic["error_code"])
        if error is NoError:
            found[topic["name"]] = len(topic["partitions"])
        elif error is not UnknownTopicOrPartitionError:
            raise error(f"topic {topic['name']!r}")
    return found


class KafkaPythonConsumer:
    """A member of the consumer group."""

    def __init__(self, consumer: KafkaConsumer) -> None:
        self._consumer = consumer

    def subscribe(self, topics: Sequence[str], listener: PartitionListener) -> None:
        with translated("subscribing"):
            self._consumer.subscribe(list(topics), listener=_ListenerBridge(self._consumer, listener))
            # Metadata that arrives after the first join makes the client join again. Asked for between subscribe and
            # the first poll, there is no second join.
            for topic in topics:
                self._consumer.partitions_for_topic(topic)

    def poll(self, timeout_ms: int, max_records: int) -> Mapping[TopicPartition, Sequence[Record]]:
        self._free_place_in_line()
        with translated("polling"):
            polled: Mapping[TopicPartition, Sequence[Record]] = self._consumer.poll(timeout_ms, max_records)
            self._drive_join_on()
            return polled

    def _drive_join_on(self) -> None:
        """Have the next poll wait on for a join that this one has begun and not seen the end of.

        The client forgets such a join where changed metadata was its reason (kafka-python 3.0.12, `need_rejoin` knows
        nothing of a join under way): no partitions and no heartbeats from then on, and polls that return nothing for
        ever. Asked to join again, it takes up the one under way.
        """
        if self._consumer.group_metadata().state == MemberState.REBALANCING:
            self._consumer._coordinator.request_rejoin()  # noqa: SLF001  # nothing public asks for it

    def _free_place_in_line(self) -> None:
        """Let partitions come back after a pause, which they else do not, without a word.

        The client puts aside the fetched records of a partition that is paused, fetches nothing more of it until they
        are handed out, and takes them up again only while the place for records in line is empty. What another
        partition has left there counts, even when nothing is left of it (kafka-python 3.0.12, `fetched_records`).
        """
        fetcher = self._consumer._fetcher  # noqa: SLF001  # nothing public empties it
        if not fetcher._next_partition_records:  # noqa: SLF001
            fetcher._next_partition_records = None  # noqa: SLF001

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
            self._consumer.pause(*map(_kafka_partition, partitions))

    def resume(self, partitions: Collection[TopicPartition]) -> None:
        with translated("resuming"):
            self._consumer.resume(*map(_kafka_partition, partitions))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        with translated("seeking"):
            self._consumer.seek(_kafka_partition(partition), offset)

    def beginning(self, partition: TopicPartition) -> int:
        with translated("asking for the beginning of a partition"):
            tp = _kafka_partition(partition)
            return int(self._consumer.beginning_offsets([tp], timeout_ms=CALL_TIMEOUT_MS)[tp])

    def committed(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        commits = {}
        with translated("asking for commits"):
            for partition in partitions:
                found = self._consumer.committed(_kafka_partition(partition), metadata=True, timeout_ms=CALL_TIMEOUT_MS)
                if found is not None and found.offset >= 0:
                    commits[partition] = Commit(found.offset, found.metadata or "")
        return commits

    def commit(self, commits: Mapping[TopicPartition, Commit]) -> None:
        with translated("committing"):
            self._consumer.commit(_kafka_commits(commits), timeout_ms=CALL_TIMEOUT_MS)

    def lag(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, int]:
        lags = {}
        for partition in partitions:
            tp = _kafka_partition(partition)
            with contextlib.suppress(KafkaError):  # a partition that is just being revoked
                highwater = self._consumer.highwater(tp)
                if highwater is not None:
                    lags[partition] = max(0, highwater - self._consumer.position(tp, timeout_ms=0))
        return lags

    def close(self, timeout_s: float) -> None:
        with translated("closing the consumer"):
            self._consumer.close(autocommit=False, timeout_ms=int(timeout_s * 1000))


class KafkaPythonLog:
    """Looks at partitions one after the other through two consumers, which are replaced after a failure: one reads, the
    other one asks for ends, because the first is told of no more than it may read."""

    def __init__(self, open_consumer: Callable[[], KafkaConsumer], open_surveyor: Callable[[], KafkaConsumer]) -> None:
        self._open, self._open_surveyor = open_consumer, open_surveyor
        self._consumer: KafkaConsumer | None = None
        self._surveyor: KafkaConsumer | None = None

    def end(self, partition: TopicPartition, timeout_s: float) -> int:
        tp = _kafka_partition(partition)
        with self._used(f"asking for the end of {partition.topic}/{partition.partition}") as (_, surveyor):
            return int(surveyor.end_offsets([tp], timeout_ms=_call_timeout_ms(timeout_s))[tp])

    def read(
        self, partition: TopicPartition, start: int | None, *, at_least_last: int = 0, timeout_s: float
    ) -> Iterator[Sequence[Record]]:
        tp, timeout_ms = _kafka_partition(partition), _call_timeout_ms(timeout_s)
        with self._used(f"reading {partition.topic}/{partition.partition}") as (consumer, surveyor):
            consumer.assign([tp])
            first = surveyor.beginning_offsets([tp], timeout_ms=timeout_ms)[tp]
            end = surveyor.end_offsets([tp], timeout_ms=timeout_ms)[tp]
            position = max(first, min(first if start is None else start, end - at_least_last))
            consumer.seek(tp, position)
            deadline = time.monotonic() + timeout_s
            # The position, not the last record, says when the end is reached: markers and compacted offsets have none.
            while position < end:
                records = consumer.poll(timeout_ms=500, max_records=LOG_MAX_RECORDS).get(tp, ())
                if records and records[-1].offset >= end:
                    records = [record for record in records if record.offset < end]
                if records:
                    yield records
                previous, position = position, consumer.position(tp, timeout_ms=timeout_ms)
                if position > previous:
                    deadline = time.monotonic() + timeout_s
                elif time.monotonic() > deadline:
                    raise CallTimeoutError(
                        f"reading {partition.topic}/{partition.partition}: stuck at offset {position} of {end}; if it "
                        f"stays there, the brokers have left a transaction open: kafka-transactions.sh find-hanging"
                    )

    def close(self) -> None:
        consumers = self._consumer, self._surveyor
        self._consumer = self._surveyor = None
        for consumer in consumers:
            if consumer is not None:
                consumer.close(timeout_ms=1_000)

    @contextlib.contextmanager
    def _used(self, doing: str) -> Iterator[tuple[KafkaConsumer, KafkaConsumer]]:
        with translated(doing):
            try:
                if self._consumer is None:
                    self._consumer = self._open()
                if self._surveyor is None:
                    self._surveyor = self._open_surveyor()
                yield self._consumer, self._surveyor
            except (KafkaError, CallTimeoutError):
                self.close()
                raise


def _call_timeout_ms(timeout_s: float) -> int:
    """A call to a broker that has gone is not answered; made anew, the consumer finds the one in its place."""
    return min(CALL_TIMEOUT_MS, int(timeout_s * 1000))


class KafkaPythonReader:
    """Reads all partitions of a topic from their beginning, those that it is given later included."""

    def __init__(self, consumer: KafkaConsumer, topic: str) -> None:
        self._consumer = consumer
        self._topic = topic
        self._look_again_at = 0.0
        try:
            self._take_new_partitions()
            self._ends = self._find_ends()
        except BaseException:
            consumer.close(timeout_ms=1_000)
            raise

    def _find_ends(self) -> dict[KafkaTopicPartition, int]:
        return dict(self._consumer.end_offsets(list(self._consumer.assignment()), timeout_ms=CALL_TIMEOUT_MS))

    def look_again(self) -> None:
        with translated(f"reading {self._topic}"):
            self._take_new_partitions()
            self._ends = self._find_ends()

    def poll(self, timeout_ms: int) -> Sequence[Record]:
        with translated(f"reading {self._topic}"):
            if time.monotonic() > self._look_again_at:
                self._take_new_partitions()
            polled = self._consumer.poll(timeout_ms=timeout_ms, max_records=READER_MAX_RECORDS)
        return [record for records in polled.values() for record in records]

    def num_behind(self) -> int:
        with translated(f"reading {self._topic}"):
            return sum(
                max(0, end - self._consumer.position(tp, timeout_ms=CALL_TIMEOUT_MS)) for tp, end in self._ends.items()
            )

    def close(self) -> None:
        self._consumer.close(timeout_ms=1_000)

    def _take_new_partitions(self) -> None:
        self._look_again_at = time.monotonic() + READER_METADATA_S
        known = self._consumer.assignment()
        numbers = self._consumer.partitions_for_topic(self._topic) or ()
        if new := [tp for number in sorted(numbers) if (tp := KafkaTopicPartition(self._topic, number)) not in known]:
            positions = {tp: self._consumer.position(tp, timeout_ms=CALL_TIMEOUT_MS) for tp in known}
            self._consumer.assign([*known, *new])
            self._consumer.seek_to_beginning(*new)
            for tp, position in positions.items():
                self._consumer.seek(tp, position)


class KafkaPythonProducer:
    """An idempotent producer. After a record of it has failed, throw it away: kafka-python then fails every later
    record with the same error."""

    def __init__(self, producer: KafkaProducer, fence: _Fence) -> None:
        self._producer = producer
        self._fence = fence

    def send(self, outbound: Sequence[Outbound]) -> None:
        partitions: dict[tuple[str, int | None], list[Outbound]] = {}
        for record in outbound:
            partitions.setdefault(record[:2], []).append(record)
        for (topic, partition), records in partitions.items():
            try:
                self._send(topic, partition, records)
            except (KafkaError, ValueError, RuntimeError) as error:
                raise translate(error, f"sending to {topic}") from error

    def _send(self, topic: str, partition: int | None, records: Sequence[Outbound]) -> None:
        """Records go the client's own way for as long as it has to ask or to choose something for them."""
        for index, record in enumerate(records):
            if partition is not None and can_pack(self._producer, topic, partition):
                pack(self._producer, topic, partition, records[index:], partial(_fail, topic))
                return
            future = self._producer.send(topic, record.value, record.key, _kafka_headers(record.headers), partition)
            future.add_callback(_acknowledge, record.receipt).add_errback(_fail, topic, record.receipt)

    def close(self, timeout_s: float) -> None:
        try:
            self._producer.close(timeout=timeout_s)
        except KafkaError:
            # It could not flush in time, and by itself it would live on: what it holds would be written whenever the
            # broker comes back, after newer records of the producer that has taken its place.
            self._fence.shut()
            sender = self._producer._sender  # noqa: SLF001  # closing it is all that `close` has not come to
            sender.force_close()
            sender.join(timeout_s)
            self._producer._closed = True  # noqa: SLF001  # else it tries again when it is collected
        self._fence.shut()


class KafkaPythonTransactionalProducer(KafkaPythonProducer):
    """Transactions by the order of calls that survives this client's ways to lose them: every record's fate is known
    before the offsets are sent, the offsets before the end is, and after any failure all of it is thrown away.

    The library waits without a time-out for the answer to each of its transactional calls, and when a coordinator dies
    it may wait for ever. So each call has a thread, which is left behind if it does not come back in time.
    """

    def __init__(self, producer: KafkaProducer, fence: _Fence, call_timeout_s: float) -> None:
        super().__init__(producer, fence)
        self._call_timeout_s = call_timeout_s
        self._is_open = False

    def take_over(self, timeout_ms: int) -> None:
        """Take the place of whichever producer had this id before. Call once, first."""
        version = tuple(self._producer.config["api_version"])
        if version < TRANSACTIONS_SINCE:
            raise ConfigError(
                f"delivery=exactly_once needs brokers of version {'.'.join(map(str, TRANSACTIONS_SINCE))} or newer, "
                f"and this one is {'.'.join(map(str, version))} (the embedded broker keeps no transactions apart): "
                f"set delivery=at_least_once"
            )
        try:
            self._call("taking over a transactional id", self._producer.init_transactions)
        except ClientError as error:
            if InvalidTransactionTimeoutError.__name__ in str(error):
                raise ConfigError(
                    f"transaction.timeout_ms={timeout_ms} is more than the broker's transaction.max.timeout.ms: "
                    f"lower it"
                ) from error
            raise

    def begin(self) -> None:
        self._is_open = True
        with translated("beginning a transaction"):
            self._producer.begin_transaction()

    def commit(self, commits: Mapping[TopicPartition, Commit], membership: Membership) -> None:
        member = ConsumerGroupMetadata(*membership)
        self._call(
            "adding offsets to a transaction",
            self._producer.send_offsets_to_transaction,
            _kafka_commits(commits),
            member,
        )
        self._call("committing a transaction", self._producer.commit_transaction)
        self._is_open = False

    def close(self, timeout_s: float) -> None:
        if self._is_open:  # readers wait for its end
            with contextlib.suppress(WorkerError):
                self._call("aborting a transaction", self._producer.abort_transaction, timeout_s=timeout_s)
        super().close(timeout_s)

    def _call(self, doing: str, call: Callable[..., None], *arguments: Any, timeout_s: float | None = None) -> None:
        outcome: list[Exception | None] = []

        def run() -> None:
            try:
                call(*arguments)
            except Exception as error:  # it is raised where the caller is
                outcome.append(error)
            else:
                outcome.append(None)

        thread = threading.Thread(target=run, name=doing, daemon=True)
        thread.start()
        thread.join(self._call_timeout_s if timeout_s is None else timeout_s)
        if not outcome:
            raise CallTimeoutError(f"{doing}: no answer in time, perhaps the coordinator is gone")
        if (error := outcome[0]) is not None:
            # What the library raises says that an error has happened; which one, its transaction manager knows.
            cause = self._producer._transaction_manager.last_error  # noqa: SLF001
            raise translate(cause if isinstance(cause, KafkaError) else error, doing) from error


def _acknowledge(receipt: Receipt, metadata: Any) -> None:
    receipt.acknowledged(metadata.offset)


def _fail(topic: str, receipt: Receipt, error: BaseException) -> None:
    receipt.failed(translate(error, f"sending to {topic}"))


class _Fence:
    """What stands between a producer and the socket: its lease, and that it has not been closed."""

    def __init__(self, lease: Lease | None) -> None:
        self._lease = lease
        self._is_shut = False

    def shut(self) -> None:
        self._is_shut = True

    def lets_pass(self) -> bool:
        return not self._is_shut and (self._lease is None or self._lease.is_valid())


class _FencedNetClient(KafkaNetClient):  # type: ignore[misc]  # the client carries no types
    """Asks the fence at the last step before the socket.

    A process that was frozen for longer than its session wakes up with produce requests ready to go, while another
    member already writes newer vectors for the same items; kafka-python sends them even past their delivery timeout.
    """

    def __init__(self, fence: _Fence, **config: Any) -> None:
        super().__init__(**config)
        self._fence = fence

    def send(self, node_id: int, request: Any, **kwargs: Any) -> Any:
        if isinstance(request, ProduceRequest) and not self._fence.lets_pass():
            return Future().failure(KafkaTimeoutError("this member's lease on its partitions has expired"))
        return super().send(node_id, request, **kwargs)


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
                await self._consumer.commit_async(_kafka_commits(commits))
            except KafkaError as error:  # the next owner computes these records again
                log.warning("commit at revocation failed: %s", error, extra={"action": "revoke_commit_failed"})

    async def on_partitions_lost(self, lost: Collection[KafkaTopicPartition]) -> None:
        self._listener.lost([TopicPartition(*tp) for tp in lost])


class _TokenFile(AbstractTokenProvider):  # type: ignore[misc]
    """Reads the bearer token anew for every authentication."""

    def __init__(self, settings: KafkaSettings) -> None:
        super().__init__()
        self._path = settings.sasl_oauth_token_file

    def token(self) -> str:
        try:
            return self._path.read_text().strip() if self._path else ""
        except OSError as error:
            raise AccessError(f"kafka.sasl_oauth_token_file: {error}") from error


def _kafka_partition(partition: TopicPartition) -> KafkaTopicPartition:
    return KafkaTopicPartition(*partition)


def _kafka_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """kafka-python cannot write a null header value; an empty one is the nearest."""
    return [(name, value or b"") for name, value in headers] if headers else []


def _kafka_commits(commits: Mapping[TopicPartition, Commit]) -> dict[KafkaTopicPartition, OffsetAndMetadata]:
    return {_kafka_partition(tp): OffsetAndMetadata(commit.offset, commit.note, -1) for tp, commit in commits.items()}


def _addresses(bootstrap_servers: str) -> list[tuple[str, int]]:
    addresses = []
    for server in bootstrap_servers.split(","):
        host, _, port = server.strip().rpartition(":")
        if not host or not port.isdigit():
            raise ConfigError(f"kafka.bootstrap_servers: {server.strip()!r} is not host:port")
        addresses.append((host.strip("[]"), int(port)))
    return addresses


def _connection_config(settings: KafkaSettings) -> dict[str, Any]:
    """Arguments that the consumer, the producer and the admin client share."""
    _addresses(settings.bootstrap_servers)
    config: dict[str, Any] = {
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "client_id": settings.client_id,
        "bootstrap_timeout_ms": BOOTSTRAP_TIMEOUT_MS,
        "request_timeout_ms": settings.request_timeout_ms,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
        "reconnect_backoff_max_ms": 2_000,  # a broker that comes back is found again within seconds
        "security_protocol": settings.security_protocol,
        "api_version": settings.api_version,
    }
    if settings.security_protocol.endswith("SSL"):
        check_certificates(settings)
        config |= {
            "ssl_cafile": settings.ssl_cafile and str(settings.ssl_cafile),
            "ssl_certfile": settings.ssl_certfile and str(settings.ssl_certfile),
            "ssl_keyfile": settings.ssl_keyfile and str(settings.ssl_keyfile),
            "ssl_password": settings.ssl_key_password and settings.ssl_key_password.get_secret_value(),
            "ssl_check_hostname": settings.ssl_check_hostname,
        }
    if settings.sasl_mechanism == "OAUTHBEARER":
        config |= {"sasl_mechanism": "OAUTHBEARER", "sasl_oauth_token_provider": _TokenFile(settings)}
    elif settings.sasl_mechanism is not None and settings.sasl_password is not None:
        config |= {
            "sasl_mechanism": settings.sasl_mechanism,
            "sasl_plain_username": settings.sasl_username,
            "sasl_plain_password": settings.sasl_password.get_secret_value(),
        }
    return config
