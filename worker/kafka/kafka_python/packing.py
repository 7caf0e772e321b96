"""Records into batches to send, for a sixth of what the client takes for them.

kafka-python makes a future, a callback and a lock of each record, writes each number of it through a call, and looks
its topic up again (`tests/bench/produce.py` measures it). Batches, their order, retries, sequence numbers and
transactions are the client's own; only the way from records to the bytes of a batch is another, and that a batch's
answer goes straight to the receipts of its records.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Any, NamedTuple

from kafka import KafkaProducer
from kafka.errors import IllegalStateError
from kafka.producer.producer_batch import ProducerBatch
from kafka.record.memory_records import MemoryRecordsBuilder
from kafka.record.util import encode_varint
from kafka.structs import TopicPartition

from worker.kafka.port import Outbound, Receipt
from worker.records import Headers

OnFailed = Callable[[Receipt, BaseException], None]
_Answer = tuple[int, int | None, Callable[[int], BaseException] | None]
"""Answer of the broker to a batch: its first offset, its time, and, where it failed, the error of each of its
records."""

_MAGIC = 2  # of the format in which all brokers since 0.11 take batches


def can_pack(producer: KafkaProducer, topic: str, partition: int | None) -> bool:
    """Whether the client knows the partition, so that it need not ask for or choose one."""
    if producer._accumulator.config["message_version"] != _MAGIC:  # noqa: SLF001
        return False
    return partition in (producer._metadata.partitions_for_topic(topic) or ())  # noqa: SLF001


def pack(
    producer: KafkaProducer, topic: str, partition: int, outbound: Sequence[Outbound], on_failed: OnFailed
) -> None:
    """Queue records of one partition, for which `can_pack` has said yes, behind those that are queued already."""
    # The steps of `KafkaProducer.send` and `RecordAccumulator.append`, each taken once instead of for every record.
    tp = TopicPartition(topic, partition)
    manager, accumulator = producer._transaction_manager, producer._accumulator  # noqa: SLF001
    if manager is not None and manager.is_transactional():
        manager.maybe_add_partition_to_transaction(tp)
    config, must_wake = accumulator.config, False
    now_ms, num_packed = time.time_ns() // 1_000_000, 0
    accumulator._appends_in_progress.increment()  # noqa: SLF001  # who aborts all batches waits for us
    try:
        with accumulator._tp_lock(tp):  # noqa: SLF001
            if producer._closed or accumulator._closed:  # noqa: SLF001
                raise IllegalStateError("the producer is closed")
            queue = accumulator._batches[tp]  # noqa: SLF001
            if queue and isinstance(queue[-1], _PackedBatch):
                num_packed = queue[-1].fill(outbound, 0, now_ms)
            while num_packed < len(outbound):
                records = MemoryRecordsBuilder(_MAGIC, config["compression_attrs"], config["batch_size"])
                batch = _PackedBatch(tp, records, on_failed)
                num_packed = batch.fill(outbound, num_packed, now_ms)
                queue.append(batch)
                accumulator._incomplete.add(batch)  # noqa: SLF001
                must_wake = True
            must_wake |= queue[-1].records.is_full()
    finally:
        accumulator._appends_in_progress.decrement()  # noqa: SLF001
    if must_wake:
        producer._sender.wakeup()  # noqa: SLF001


class _PackedBatch(ProducerBatch):  # type: ignore[misc]  # the client carries no types
    """Has receipts, where the client's own has a future for each record."""

    def __init__(self, tp: TopicPartition, records: MemoryRecordsBuilder, on_failed: OnFailed) -> None:
        super().__init__(tp, records)
        self._receipts = _Receipts(on_failed)
        # Not a method of ours: the two would refer to each other, and the bytes of the batch stay until collected.
        self.produce_future._add_cb_eb(self._receipts.settle, self._receipts.fail)  # noqa: SLF001
        self._record_futures = self._receipts  # which a batch that is too large takes along when it is split

    def try_append(self, *_record: Any, **_more: Any) -> None:
        """Full for the client's own records: they would have futures."""

    def fill(self, outbound: Sequence[Outbound], start: int, now_ms: int) -> int:
        """Take in records from `start` on, at least one if the batch is new; returns the first that found no room.

        Called with the lock on the partition held.
        """
        if self.records._closed:  # noqa: SLF001  # on its way, or back for another try
            return start
        builder = self.records._builder  # noqa: SLF001
        buffer, room = builder._buffer, builder._batch_size  # noqa: SLF001
        first_ms = builder._first_timestamp  # noqa: SLF001
        if first_ms is None:
            first_ms = builder._first_timestamp = builder._max_timestamp = now_ms  # noqa: SLF001
        time_delta = _varint(now_ms - first_ms)
        num_before: int = self.records._next_offset  # noqa: SLF001
        number = num_before
        add_receipt = self._receipts.all.append
        for _, _, key, value, headers, receipt in islice(outbound, start, None):
            head = b"".join((b"\0", time_delta, _varint(number), _length(key), key or b"", _length(value)))
            tail = _headers(headers) if headers else b"\0"
            size = len(head) + len(value or b"") + len(tail)
            length = _varint(size)
            if number and len(buffer) + len(length) + size > room:
                break
            buffer += length
            buffer += head
            if value:
                buffer += value
            buffer += tail
            add_receipt(receipt)
            number += 1
        if number > num_before:
            self.records._next_offset = number  # noqa: SLF001
            builder._last_offset, builder._num_records = number - 1, number  # noqa: SLF001
            builder._max_timestamp = max(builder._max_timestamp, now_ms)  # noqa: SLF001
            self.last_append = time.monotonic()
        return start + number - num_before


class _Receipts:
    """The receipts of a batch, in the order of its records.

    Where the client splits a batch, it takes them for the futures of its records, and binds each to the batch that its
    record has come into.
    """

    def __init__(self, on_failed: OnFailed) -> None:
        self.all: list[Receipt] = []
        self._on_failed = on_failed

    def settle(self, answer: _Answer) -> None:
        base_offset, _, error_of = answer
        if error_of is not None or base_offset < 0:
            for index in range(len(self.all)):
                self.settle_one(index, index, answer)
            return
        end = base_offset
        for receipt, run in groupby(self.all):  # a batch has records of few slices, one after the other
            count = len(list(run))
            end += count
            receipt.acknowledged(end - 1, count)

    def settle_one(self, number: int, index: int, answer: _Answer) -> None:
        """Tell the receipt `number` what became of record `index` of a batch."""
        base_offset, _, error_of = answer
        if error_of is not None:
            self._on_failed(self.all[number], error_of(index))
        else:  # an offset of -1: written by an earlier try, nobody knows where
            self.all[number].acknowledged(base_offset + index if base_offset >= 0 else base_offset)

    def fail(self, error: BaseException) -> None:
        for number in range(len(self.all)):
            self.fail_one(number, error)

    def fail_one(self, number: int, error: BaseException) -> None:
        self._on_failed(self.all[number], error)

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, number: int) -> _Rebindable:
        return _Rebindable(self, number)


class _Rebindable(NamedTuple):
    """One of the receipts, for the client to take along."""

    receipts: _Receipts
    number: int

    def rebind(self, produce_future: Any, index: int) -> None:
        """Only the last future that it is bound to will ever be done."""
        settle = partial(self.receipts.settle_one, self.number, index)
        fail = partial(self.receipts.fail_one, self.number)
        produce_future._add_cb_eb(settle, fail)  # noqa: SLF001


def _headers(headers: Headers) -> bytes:
    parts = [_varint(len(headers))]
    for name, value in headers:
        encoded = name.encode(errors="surrogateescape")  # as the bytes came
        # kafka-python's own records cannot have a null here, and theirs and ours are to be the same.
        parts += (_varint(len(encoded)), encoded, _varint(len(value or b"")), value or b"")
    return b"".join(parts)


def _length(data: bytes | None) -> bytes:
    return _MISSING if data is None else _varint(len(data))


def _varint(number: int) -> bytes:
    """Encode an integer as records have it: zigzag-encoded, seven bits to a byte."""
    return _VARINTS[number] if 0 <= number < len(_VARINTS) else _encoded(number)


def _encoded(number: int) -> bytes:
    encoded = bytearray()
    encode_varint(number, encoded.append)
    return bytes(encoded)


_VARINTS = [_encoded(number) for number in range(8_192)]
_MISSING = _encoded(-1)
