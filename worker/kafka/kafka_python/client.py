"""Makes the parts of the kafka-python adapter, which lie beside this module.

What is set here on purpose, and why, is measured in `tests/bench/README.md` or follows from a known behaviour of the
library, named beside it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient
from kafka.coordinator.assignors.cooperative_sticky import CooperativeStickyAssignor
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor

from schemas import DEFAULT_LIMITS
from worker.errors import CallTimeoutError
from worker.kafka.kafka_python.admin import KafkaPythonTopics, add_topics, change_topics, existing_topics, num_brokers
from worker.kafka.kafka_python.connection import CALL_TIMEOUT_MS, connection_config, open_client, wait_for_broker
from worker.kafka.kafka_python.consumer import KafkaPythonConsumer
from worker.kafka.kafka_python.contact import Answers, AttentiveNetClient, note_fetches
from worker.kafka.kafka_python.fence import Fence, FencedNetClient
from worker.kafka.kafka_python.group_commits import KafkaPythonGroupCommits
from worker.kafka.kafka_python.log import LOG_FETCH_BYTES, KafkaPythonLog
from worker.kafka.kafka_python.producer import KafkaPythonProducer, KafkaPythonTransactionalProducer
from worker.kafka.kafka_python.reader import READER_METADATA_MS, KafkaPythonReader
from worker.kafka.kafka_python.translation import translated
from worker.kafka.kafka_python.unpacking import Unpacking
from worker.kafka.port import Commit, Lease, TopicDescription
from worker.kafka.reachability import reachable
from worker.kafka.skips import Skip, Skips
from worker.records import TopicPartition
from worker.settings import KafkaSettings

# A transaction begins while the broker still ends the one before, and is told to come back.
TRANSACTION_RETRY_MS = 10
CALL_MARGIN_S = 2.0  # what a call may take beyond the time that its request has
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
        self._common = connection_config(settings)
        self._skips = Skips(self._commits_of, settings.group_id)

    def connect(self) -> None:
        wait_for_broker(self._settings, self._common)

    def reachable(self) -> bool:
        return reachable(self._settings.bootstrap_servers)

    def describe_topics(self, names: Collection[str]) -> Mapping[str, TopicDescription]:
        with translated("asking for topics"), self._admin() as admin:
            has_configurations = self._settings.api_version is None  # the embedded broker has none
            return existing_topics(admin, names, has_configurations)

    def num_brokers(self) -> int:
        with translated("asking for brokers"), self._admin() as admin:
            return num_brokers(admin)

    def configure_topics(self, changes: Mapping[str, Mapping[str, str]]) -> None:
        with translated(f"configuring {', '.join(changes)}"), self._admin() as admin:
            change_topics(admin, changes)

    def create_topics(self, topics: Mapping[str, Mapping[str, str]], num_partitions: int, replication: int) -> None:
        with translated("creating topics"), self._admin() as admin:
            add_topics(admin, topics, num_partitions, replication)

    def consumer(self, group_id: str) -> KafkaPythonConsumer:
        settings, answers = self._settings, Answers()
        with translated("opening a consumer"):
            consumer = open_client(
                KafkaConsumer,
                **self._common,
                kafka_client=lambda **config: AttentiveNetClient(answers, **config),
                group_id=group_id,
                group_instance_id=settings.group_instance_id,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                partition_assignment_strategy=[_ASSIGNORS[settings.assignor]],
                session_timeout_ms=settings.session_timeout_ms,
                heartbeat_interval_ms=settings.heartbeat_interval_ms,
                max_poll_interval_ms=settings.max_poll_interval_ms,
                client_rack=settings.client_rack or "",
                fetch_max_bytes=settings.fetch_max_bytes,
                fetch_max_wait_ms=settings.fetch_max_wait_ms,
                isolation_level=ISOLATION,
                check_crcs=settings.check_crcs,
                metrics_enabled=False,
            )
        note_fetches(consumer, answers)
        unpacking = Unpacking(consumer, settings.max_record_bytes)
        return KafkaPythonConsumer(consumer, answers, unpacking, self._skips, settings, self._common)

    def producer(self, lease: Lease | None = None) -> KafkaPythonProducer:
        settings, fence = self._settings, Fence(lease)
        with translated("opening a producer"):
            producer = open_client(
                KafkaProducer,
                **self._common,
                kafka_client=lambda **config: FencedNetClient(fence, **config),
                **self._writing,
                enable_idempotence=settings.api_version is None,  # the embedded broker checks no sequence numbers
                max_in_flight_requests_per_connection=5 if settings.api_version is None else 1,
            )
        return KafkaPythonProducer(producer, fence)

    def transactional_producer(self, transactional_id: str, timeout_ms: int) -> KafkaPythonTransactionalProducer:
        fence = Fence(None)
        with translated("opening a transactional producer"):
            producer = open_client(
                KafkaProducer,
                **{**self._common, "retry_backoff_ms": TRANSACTION_RETRY_MS},
                kafka_client=lambda **config: FencedNetClient(fence, **config),
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
            opened = self._open_reader(metadata_max_age_ms=READER_METADATA_MS)
            return KafkaPythonReader(*opened, self._skips, topic)

    def log(self) -> KafkaPythonLog:
        short_wait_ms = min(self._settings.fetch_max_wait_ms, 100)
        return KafkaPythonLog(
            lambda: self._open_reader(fetch_max_wait_ms=short_wait_ms, max_partition_fetch_bytes=LOG_FETCH_BYTES),
            lambda: self._open_groupless("read_uncommitted"),
            self._skips,
        )

    def topics(self) -> KafkaPythonTopics:
        return KafkaPythonTopics(lambda: open_client(KafkaAdminClient, **self._common))

    def group_commits(self, group_id: str, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        with self._commits_of(group_id) as commits:
            found = {partition: commits.read(partition) for partition in partitions}
        return {partition: commit for partition, commit in found.items() if commit is not None}

    def leave_out(self, partition: TopicPartition, first: int, until: int) -> None:
        self._skips.add(partition, Skip(first, until))

    def _open_reader(self, **config: Any) -> tuple[KafkaConsumer, Unpacking]:
        """Open a reader that takes our own records, too, which may be larger than a message: dead letters, states.
        What is larger still is no record of ours: with its value left out, it would look like a delete."""
        consumer = self._open_groupless(**config)
        largest = max(self._settings.max_record_bytes, DEFAULT_LIMITS.dead_letter_bytes)
        return consumer, Unpacking(consumer, largest, refuses_larger=True)

    @contextlib.contextmanager
    def _commits_of(self, group_id: str) -> Iterator[KafkaPythonGroupCommits]:
        with translated("looking at what is left out"):
            consumer = self._open_groupless(group_id=group_id)
            try:
                yield KafkaPythonGroupCommits(consumer)
            finally:
                consumer.close(autocommit=False, timeout_ms=1_000)

    def _admin(self) -> contextlib.closing[KafkaAdminClient]:
        return contextlib.closing(open_client(KafkaAdminClient, **self._common))

    def _open_groupless(self, isolation: str = ISOLATION, **config: Any) -> KafkaConsumer:
        if not self.reachable():
            raise CallTimeoutError(f"no broker answers at {self._settings.bootstrap_servers}")
        return open_client(
            KafkaConsumer,
            **self._common,
            **{"fetch_max_wait_ms": self._settings.fetch_max_wait_ms, "group_id": None, **config},
            client_rack=self._settings.client_rack or "",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level=isolation,
            check_crcs=self._settings.check_crcs,
            metrics_enabled=False,
        )
