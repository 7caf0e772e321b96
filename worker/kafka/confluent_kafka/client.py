"""Makes the parts of the confluent-kafka adapter, which lie beside this module.

What is set here on purpose, and why, is measured in `tests/bench/README.md` or follows from a known behaviour of the
library, named beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from schemas import DEFAULT_LIMITS
from worker.errors import CallTimeoutError, ConfigError
from worker.kafka.confluent_kafka.admin import (
    ConfluentTopics,
    Look,
    add_topics,
    change_topics,
    embedded_brokers,
    embedded_topics,
    existing_topics,
    looked_at,
    looked_at_embedded,
    num_brokers,
    require_session,
)
from worker.kafka.confluent_kafka.connection import connection_config, is_answered, open_client, wait_for_broker
from worker.kafka.confluent_kafka.consumer import ConfluentConsumer
from worker.kafka.confluent_kafka.group_commits import ConfluentGroupCommits
from worker.kafka.confluent_kafka.log import ConfluentLog
from worker.kafka.confluent_kafka.lost_contact import LostContact
from worker.kafka.confluent_kafka.producer import ConfluentProducer, ConfluentTransactionalProducer
from worker.kafka.confluent_kafka.reader import ConfluentReader
from worker.kafka.confluent_kafka.second import Second
from worker.kafka.confluent_kafka.sent_commits import SentCommits
from worker.kafka.confluent_kafka.statistics import INTERVAL_MS, Answers
from worker.kafka.confluent_kafka.translation import translated
from worker.kafka.port import Commit, Lease, TopicDescription
from worker.kafka.reachability import reachable
from worker.kafka.skips import Skip, Skips
from worker.records import TopicPartition
from worker.settings import KafkaSettings

# Who writes in transactions means what is not committed to be read by nobody. Where there are none it changes nothing.
ISOLATION = "read_committed"
CALL_MARGIN_S = 2.0
MAX_INT32 = 2**31 - 1
MAX_REQUEST_BYTES = 64 * 2**20  # record sizes are checked against the topics' own limits before a send
NUM_FETCHES_AHEAD = 2
"""Fetches of the largest size that are kept beforehand."""


class ConfluentClient:
    """Makes consumers, producers and readers that share connection settings."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._settings = settings
        self._common = connection_config(settings)
        self._skips = Skips(self._commits_of, settings.group_id)
        self._second = Second(settings)
        self._limits: dict[str, int] = {}
        """The largest batch that topics take, as they were last described."""

    def connect(self) -> None:
        wait_for_broker(self._settings, self._common)

    def reachable(self) -> bool:
        return reachable(self._settings.bootstrap_servers)

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        with translated("asking for topics"):
            found = (embedded_topics if self._is_embedded else existing_topics)(self._admin(), names)
        self._limits |= {name: description.max_message_bytes for name, description in found.items()}
        return found

    def num_brokers(self) -> int:
        with translated("asking for brokers"):
            return (embedded_brokers if self._is_embedded else num_brokers)(self._admin())

    @property
    def _look(self) -> Look:
        return looked_at_embedded if self._is_embedded else looked_at

    def configure_topics(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        with translated(f"configuring {', '.join(changes)}"):
            change_topics(self._admin(), changes)

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        with translated("creating topics"):
            add_topics(self._admin(), topics, num_partitions, replication)

    def consumer(self, group_id: str) -> ConfluentConsumer:
        settings, answers, sent = self._settings, Answers(), SentCommits()
        config = {
            "group.id": group_id,
            "max.poll.interval.ms": max(settings.max_poll_interval_ms, settings.session_timeout_ms),  # it wants so
            "statistics.interval.ms": INTERVAL_MS,
            "stats_cb": answers.look,
            "error_cb": answers.told,
            "on_commit": sent.hear,
            # An offset that the log does not have is an event: what has been dropped unseen is counted.
            "auto.offset.reset": "error",
        }
        if settings.group_instance_id is not None:
            config["group.instance.id"] = settings.group_instance_id
        if settings.group_protocol == "consumer":
            if self._is_embedded:
                raise ConfigError("kafka.group_protocol=consumer: the embedded broker does not speak it")
            self._require_broker()
            with translated("asking for the brokers' configuration"):
                require_session(self._admin(), settings)
            config["group.protocol"] = "consumer"
        else:
            config |= {
                "partition.assignment.strategy": settings.assignor,
                "session.timeout.ms": settings.session_timeout_ms,
                "heartbeat.interval.ms": settings.heartbeat_interval_ms,
            }
        return ConfluentConsumer(
            lambda: self._open_consumer(**config),
            answers,
            sent,
            LostContact(lambda: is_answered(self._common)),
            self._skips,
            self._second,
            settings,
            group_id,
        )

    def producer(self, lease: Lease | None = None) -> ConfluentProducer:
        self._require_broker()
        # The embedded broker checks no sequence numbers.
        config = {"enable.idempotence": not self._is_embedded} | ({"max.in.flight": 1} if self._is_embedded else {})
        producer = open_client(Producer, {**self._common, **self._writing, **config})
        return ConfluentProducer(producer, lease, lambda: self._second.producer(lease))

    def transactional_producer(self, transactional_id: str, timeout_ms: int) -> ConfluentTransactionalProducer:
        if self._is_embedded:
            raise ConfigError(
                "delivery=exactly_once needs brokers of version 2.5 or newer, and the embedded broker keeps no "
                "transactions apart: set delivery=at_least_once"
            )
        self._require_broker()
        settings = self._settings
        config = {
            "enable.idempotence": True,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": timeout_ms,
            "message.timeout.ms": min(settings.delivery_timeout_ms, timeout_ms),
            "socket.timeout.ms": max(10, min(settings.request_timeout_ms, timeout_ms - 100)),
        }
        producer = open_client(Producer, {**self._common, **self._writing, **config})
        call_timeout_s = settings.request_timeout_ms / 1000 + CALL_MARGIN_S
        made = ConfluentTransactionalProducer(producer, lambda: self._second.producer(None), call_timeout_s)
        try:
            made.take_over(timeout_ms)
        except BaseException:
            made.close(0.5)
            raise
        return made

    def reader(self, topic: str) -> ConfluentReader:
        self._require_broker()
        admin = self._admin()

        return ConfluentReader(
            self._open_groupless(),
            self._open_groupless(),
            lambda: self._look(admin, [topic]).get(topic),
            self._skips,
            self._second,
            topic,
            self._largest,
        )

    def log(self) -> ConfluentLog:
        return ConfluentLog(
            lambda: self._open_groupless(**{"fetch.wait.max.ms": min(self._settings.fetch_max_wait_ms, 100)}),
            lambda: self._open_groupless(**{"isolation.level": "read_uncommitted"}),
            self._skips,
            self._second,
            self._largest,
        )

    def topics(self) -> ConfluentTopics:
        return ConfluentTopics(self._admin, self._look)

    def group_commits(self, group_id: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        with self._commits_of(group_id) as commits:
            found = {partition: commits.read(partition) for partition in partitions}
        return {partition: commit for partition, commit in found.items() if commit is not None}

    def leave_out(self, partition: TopicPartition, first: int, until: int) -> None:
        self._skips.add(partition, Skip(first, until))

    @property
    def _is_embedded(self) -> bool:
        return self._settings.api_version is not None

    @property
    def _largest(self) -> int:
        """Limit of a record, with room for our own, which may be larger than a message: dead letters, states."""
        return max(self._settings.max_record_bytes, DEFAULT_LIMITS.dead_letter_bytes)

    @property
    def _writing(self) -> dict[str, Any]:
        """Properties that all producers share."""
        settings = self._settings
        return {
            "acks": "all",
            "message.timeout.ms": settings.delivery_timeout_ms,
            "request.timeout.ms": settings.request_timeout_ms,
            "linger.ms": settings.linger_ms,
            # A batch that its topic does not take fails as a whole: this library takes none apart.
            "batch.size": min([settings.produce_batch_bytes, *self._limits.values()]),
            "batch.num.messages": 1_000_000,  # the size alone counts
            "message.max.bytes": MAX_REQUEST_BYTES,
            "compression.type": settings.compression,
            "partitioner": "murmur2_random",  # as all other clients choose
            "queue.buffering.max.messages": 0,  # `publish.max_in_flight_records` is the bound
            "queue.buffering.max.kbytes": MAX_INT32 // 1024,
        }

    @contextlib.contextmanager
    def _commits_of(self, group_id: str) -> Iterator[ConfluentGroupCommits]:
        with translated("looking at what is left out"):
            consumer = self._open_groupless(**{"group.id": group_id})
            try:
                yield ConfluentGroupCommits(consumer)
            finally:
                consumer.close()

    def _admin(self) -> AdminClient:
        self._require_broker()
        return open_client(AdminClient, self._common)

    def _open_groupless(self, **config: Any) -> Consumer:
        """The library wants the name of a group all the same, and joins none."""
        return self._open_consumer(**{"group.id": self._settings.group_id, "auto.offset.reset": "earliest", **config})

    def _open_consumer(self, **config: Any) -> Consumer:
        self._require_broker()
        settings = self._settings
        rack = {} if settings.client_rack is None else {"client.rack": settings.client_rack}
        largest = max(settings.max_record_bytes * 2, settings.fetch_max_bytes + 2**20, 100_000_000)
        return open_client(
            Consumer,
            {
                **self._common,
                **rack,
                "socket.timeout.ms": max(
                    settings.request_timeout_ms, settings.fetch_max_wait_ms + 1_000
                ),  # it wants so
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,  # tells of markers, and that there is nothing more
                "allow.auto.create.topics": False,  # a topic that is deleted under us would be made anew
                "isolation.level": ISOLATION,
                "check.crcs": settings.check_crcs,
                "fetch.max.bytes": settings.fetch_max_bytes,
                "message.max.bytes": min(settings.fetch_max_bytes, 1_000_000),
                "fetch.wait.max.ms": settings.fetch_max_wait_ms,
                "fetch.error.backoff.ms": 100,
                "fetch.queue.backoff.ms": 20,  # by default a full queue has no fetch for a second
                "queued.max.messages.kbytes": NUM_FETCHES_AHEAD * settings.fetch_max_bytes // 1024,
                "receive.message.max.bytes": min(largest, MAX_INT32),
                **config,
            },
        )

    def _require_broker(self) -> None:
        """The library makes clients without one, which then answer nothing."""
        if not self.reachable():
            raise CallTimeoutError(f"no broker answers at {self._settings.bootstrap_servers}")
