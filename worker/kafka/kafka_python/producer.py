"""Records into topics, each with word of what became of it; alone, or many together in a transaction."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from kafka import KafkaProducer
from kafka.errors import InvalidTransactionTimeoutError, KafkaError
from kafka.structs import ConsumerGroupMetadata

from worker.errors import CallTimeoutError, ClientError, ConfigError, WorkerError
from worker.kafka.kafka_python.fence import Fence
from worker.kafka.kafka_python.packing import can_pack, pack
from worker.kafka.kafka_python.structs import kafka_commits
from worker.kafka.kafka_python.translation import translate, translated
from worker.kafka.port import Commit, Membership, Outbound, Receipt
from worker.records import Headers, TopicPartition

TRANSACTIONS_SINCE = (2, 5)  # older brokers do not check the place in the group of who commits in a transaction


class KafkaPythonProducer:
    """An idempotent producer. After a record of it has failed, throw it away: kafka-python then fails every later
    record with the same error."""

    def __init__(self, producer: KafkaProducer, fence: Fence) -> None:
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
        """Records go the client's own way for as long as it has to ask or to choose something for them. That way is no
        good for header names that are not UTF-8: for those it is asked beforehand."""
        if partition is not None and not all(_is_utf8(name) for record in records for name, _ in record.headers):
            self._producer.partitions_for(topic)
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

    def __init__(self, producer: KafkaProducer, fence: Fence, call_timeout_s: float) -> None:
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
            kafka_commits(commits),
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


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _kafka_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """kafka-python cannot write a null header value; an empty one is the nearest."""
    return [(name, value or b"") for name, value in headers] if headers else []
