"""Records into topics, each with word of what became of it; alone, or many together in a transaction.

What may no longer be written. A record is sent for `kafka.delivery_timeout_ms` at most from when it was queued: the
library looks at that again before it sends what has waited for longer than a second, so that a process that was frozen
wakes up to records that have failed. Nothing is queued without a lease that holds for as long. Beside that the thread
of the receipts throws away what is still queued once the lease is over.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka import TopicPartition as KafkaTopicPartition

from worker.errors import CallTimeoutError, ClientError, ConfigError, WorkerError
from worker.kafka.confluent_kafka.calls import Caller
from worker.kafka.confluent_kafka.membership import written
from worker.kafka.confluent_kafka.translation import codes, kafka_error, translate, translated
from worker.kafka.port import Commit, Lease, Membership, Outbound, ProducerPort, Receipt
from worker.records import TopicPartition

STEP_S = 0.2
_Told = Callable[[KafkaError | None, Message], None]
_IN_VAIN = codes("_FATAL _PURGE_QUEUE _PURGE_INFLIGHT")
_UNSUPPORTED = codes("_UNSUPPORTED_FEATURE UNSUPPORTED_VERSION _NOT_IMPLEMENTED")


class ConfluentProducer:
    """An idempotent producer. Receipts come on a thread of its own."""

    def __init__(self, producer: Producer, lease: Lease | None, second: Callable[[], ProducerPort]) -> None:
        """`second` makes a producer for what the library's binding cannot write."""
        self._producer: Producer | None = producer
        self._lease = lease
        self._open_second = second
        self._second: ProducerPort | None = None
        self._is_closing = threading.Event()
        self._failed: list[tuple[str, Receipt, KafkaError]] = []
        self._fatal: KafkaError | None = None
        """The error that this producer cannot go on from."""
        self._is_fatal = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(producer,), name="kafka-receipts", daemon=True)
        self._thread.start()

    def _serve(self, producer: Producer) -> None:
        lease = self._lease
        while not self._is_closing.is_set():
            self._hear(producer, STEP_S)
            if lease is not None and len(producer) and not lease.is_valid():
                producer.purge(in_queue=True, in_flight=False, blocking=False)

    def _hear(self, producer: Producer, timeout_s: float) -> None:
        """Receipts of what has failed wait until the call is over: it may be that only its end says why."""
        try:
            producer.poll(timeout_s)
        except KafkaException as error:
            self._fatal = self._fatal or kafka_error(error)
            self._is_fatal.set()
        failed, self._failed = self._failed, []
        for topic, receipt, why in failed:
            cause = self._fatal if self._fatal is not None and why.code() in _IN_VAIN else why
            receipt.failed(translate(cause, f"sending to {topic}"))

    def send(self, outbound: Sequence[Outbound]) -> None:
        producer = self._producer
        if producer is None:
            raise ClientError("sending: the producer is closed")
        told: dict[Receipt, _Told] = {}
        partitions: dict[tuple[str, int | None], list[Outbound]] = {}
        for record in outbound:
            partitions.setdefault(record[:2], []).append(record)
        for (topic, partition), records in partitions.items():
            try:
                with translated(f"sending to {topic}"):
                    self._send(producer, topic, partition, records, told)
            except ClientError as error:
                known = None if error.__cause__ is None else kafka_error(error.__cause__)
                if known is not None and known.code() == KafkaError._FATAL and self._is_fatal.wait(1.0):  # noqa: SLF001
                    raise translate(self._fatal or known, f"sending to {topic}") from error
                raise

    def _send(
        self,
        producer: Producer,
        topic: str,
        partition: int | None,
        records: Sequence[Outbound],
        told: dict[Receipt, _Told],
    ) -> None:
        """Those without headers many at a time, in the order that they come in."""
        batch: list[dict[str, Any]] = []
        place = {} if partition is None else {"partition": partition}
        for record in records:
            _, _, key, value, headers, receipt = record
            on_delivery = told.get(receipt) or told.setdefault(receipt, self._told(topic, receipt))
            if not headers:
                batch.append({"value": value, "key": key, "callback": on_delivery})
                continue
            _produce(producer, topic, batch, place)
            batch = []
            if _is_odd(headers):
                self._send_second(producer, record)
            else:
                producer.produce(topic, value, key, on_delivery=on_delivery, headers=list(headers), **place)
        _produce(producer, topic, batch, place)

    def _told(self, topic: str, receipt: Receipt) -> _Told:
        acknowledged = receipt.acknowledged

        def told(error: KafkaError | None, message: Message) -> None:
            if error is None:
                offset = message.offset()
                acknowledged(-1 if offset is None else offset)  # written by an earlier try, nobody knows where
            else:
                self._failed.append((topic, receipt, error))

        return told

    def _send_second(self, producer: Producer, record: Outbound) -> None:
        """Behind what is queued here. Few records ever have such headers, so this may wait."""
        while len(producer):
            time.sleep(0.001)
        if self._second is None:
            self._second = self._open_second()
        self._second.send([record])

    def close(self, timeout_s: float) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        deadline = time.monotonic() + timeout_s
        if self._second is not None:
            self._second.close(timeout_s)
        while len(producer) and time.monotonic() < deadline:  # the other thread hears of them
            time.sleep(0.002)
        if len(producer):
            producer.purge(in_queue=True, in_flight=True, blocking=True)
        self._is_closing.set()
        self._thread.join(2 * STEP_S + timeout_s)
        self._hear(producer, 0)  # of those that have been purged


def _produce(producer: Producer, topic: str, batch: list[dict[str, Any]], place: Mapping[str, int]) -> None:
    """Raises the first error of those that could not be queued. A partition in each of them would not be looked at
    (confluent-kafka 2.16.1)."""
    if batch and producer.produce_batch(topic, batch, **place) < len(batch):
        raise KafkaException(next(each["_error"] for each in batch if "_error" in each))


def _is_odd(headers: Sequence[tuple[str, bytes | None]]) -> bool:
    """Whether a name is not UTF-8, or has a null: the binding ends the process over the one, and cuts the other."""
    return any((not name.isascii() and not _is_utf8(name)) or "\0" in name for name, _ in headers)


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


class ConfluentTransactionalProducer(ConfluentProducer):
    """Transactions by the order of calls that survives any client: every record's fate is known before the offsets are
    sent, the offsets before the end is, and after any failure all of it is thrown away."""

    def __init__(self, producer: Producer, second: Callable[[], ProducerPort], call_timeout_s: float) -> None:
        super().__init__(producer, None, second)
        self._call_timeout_s = call_timeout_s
        self._is_open = False
        self._caller = Caller("kafka-transactions")

    def take_over(self, timeout_ms: int) -> None:
        """Take the place of whichever producer had this id before. Call once, first."""
        producer = self._transactional()
        try:
            self._call("taking over a transactional id", producer.init_transactions, self._call_timeout_s)
        except WorkerError as error:
            cause = error.__cause__
            known = None if cause is None else kafka_error(cause)
            if known is not None and known.code() in codes("INVALID_TRANSACTION_TIMEOUT"):
                raise ConfigError(
                    f"transaction.timeout_ms={timeout_ms} is more than the broker's transaction.max.timeout.ms: "
                    f"lower it"
                ) from error
            if known is not None and known.code() in _UNSUPPORTED:
                raise ConfigError(
                    "delivery=exactly_once needs brokers of version 2.5 or newer: set delivery=at_least_once"
                ) from error
            raise

    def begin(self) -> None:
        with translated("beginning a transaction"):
            self._transactional().begin_transaction()
        self._is_open = True

    def commit(self, commits: Mapping[TopicPartition, Commit], membership: Membership) -> None:
        producer, timeout_s = self._transactional(), self._call_timeout_s
        offsets = [KafkaTopicPartition(*tp, commit.offset, commit.metadata) for tp, commit in commits.items()]
        self._call(
            "adding offsets to a transaction",
            producer.send_offsets_to_transaction,
            offsets,
            written(membership),
            timeout_s,
        )
        self._call("committing a transaction", producer.commit_transaction, timeout_s)
        self._is_open = False

    def close(self, timeout_s: float) -> None:
        producer = self._producer
        if self._is_open and producer is not None:  # readers wait for its end
            self._is_open = False
            producer.purge(in_queue=True, in_flight=True, blocking=True)
            with contextlib.suppress(WorkerError):
                self._call("aborting a transaction", producer.abort_transaction, timeout_s, timeout_s=timeout_s)
        super().close(timeout_s)
        self._caller.close()

    def _transactional(self) -> Producer:
        if self._producer is None:
            raise ClientError("the producer is closed")
        return self._producer

    def _call(self, doing: str, call: Callable[..., Any], *arguments: Any, timeout_s: float | None = None) -> None:
        try:
            limit_s = (self._call_timeout_s if timeout_s is None else timeout_s) + 1.0
            self._caller.call(doing, lambda: call(*arguments), limit_s)
        except CallTimeoutError:
            raise
        except Exception as error:
            raise translate(error, doing) from error
