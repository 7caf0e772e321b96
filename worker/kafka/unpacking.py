"""Records out of fetched batches, for less than half of what the client takes for them.

kafka-python reads each number of a record through a call, and makes two objects and three sizes of it
(`tests/bench/restore.py` has the figures). What decides which batches count, checksums, transactions and control
batches, is as the client does it; only the way from the bytes of a batch to its records is another.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel

from worker.records import Headers

_MAGIC = 2  # of the format in which all brokers since 0.11 keep and send batches


class FetchedRecord(NamedTuple):
    """Satisfies `worker.records.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def unpack_quickly(consumer: KafkaConsumer) -> None:
    """Have a consumer return `FetchedRecord`. It must not have polled yet, nor have deserializers."""
    consumer._fetcher.PartitionRecords = _QuickRecords  # noqa: SLF001  # nothing public chooses it


class _QuickRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # the client carries no types
    """What one answer to a fetch holds of a partition."""

    def _unpack_records(self, tp: Any, records: Any, *_deserializers: Any) -> Iterator[FetchedRecord]:
        last = None
        while (batch := records.next_batch()) is not None:
            last = batch
            if self.check_crcs and not batch.validate_crc():
                raise self._corrupt(batch, "its checksum is wrong")
            if batch.magic != _MAGIC:
                yield from self._unpack_old(tp, batch)
                continue
            self.leader_epoch = batch.leader_epoch
            if self._holds_records(batch):
                yield from self._unpack(tp, batch)
            else:
                self.next_fetch_offset = batch.next_offset
        if last is not None and last.magic == _MAGIC:
            # Behind the last offset of the batch, which compaction may have removed: else it would be fetched for ever.
            self.next_fetch_offset = last.next_offset
        self.drain()

    def _holds_records(self, batch: Any) -> bool:
        """Whether there is something for us in it: not in markers, nor in what was written in vain."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if self._contains_abort_marker(batch):
                self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return False
        return not batch.is_control_batch

    def _unpack(self, tp: Any, batch: Any) -> Iterator[FetchedRecord]:
        """The records of a batch. Each number is zigzag-encoded, and nearly all fit the one byte that is read in place:
        calls would cost more than everything else here together."""
        topic, partition = tp
        data, pos = _decompressed(batch)
        base_offset, base_time = batch.base_offset, batch.first_timestamp
        appended = batch.max_timestamp if batch.timestamp_type else None
        headers: Headers
        try:
            for _ in range(batch.records_count):
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                end = pos + (number >> 1)
                number, pos = data[pos + 1], pos + 2  # behind the attributes, of which none is defined
                if number > 127:
                    number, pos = _rest(data, pos, number)
                timestamp = base_time + ((number >> 1) ^ -(number & 1)) if appended is None else appended
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                offset = base_offset + (number >> 1)
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                if number & 1:  # a length of -1
                    key = None
                else:
                    begin, pos = pos, pos + (number >> 1)
                    key = data[begin:pos]
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                if number & 1:
                    value = None
                else:
                    begin, pos = pos, pos + (number >> 1)
                    value = data[begin:pos]
                number, pos = data[pos], pos + 1
                if number:
                    headers, pos = _headers(data, pos - 1)
                else:
                    headers = ()
                if pos != end:
                    raise self._corrupt(batch, f"the record at offset {offset} is not as long as it says")
                self.next_fetch_offset = offset + 1
                yield FetchedRecord(topic, partition, offset, timestamp, key, value, headers)
        except (IndexError, UnicodeDecodeError) as error:
            raise self._corrupt(batch, repr(error)) from error
        if pos != len(data):
            raise self._corrupt(batch, f"there are {len(data) - pos} bytes behind its last record")

    def _unpack_old(self, tp: Any, batch: Any) -> Iterator[FetchedRecord]:
        """Formats of brokers before 0.11, which topics of theirs may still hold."""
        topic, partition = tp
        for record in batch:
            if self.check_crcs and not record.validate_crc():
                raise self._corrupt(batch, f"the checksum at offset {record.offset} is wrong")
            self.next_fetch_offset = record.offset + 1
            yield FetchedRecord(
                topic, partition, record.offset, record.timestamp, record.key, record.value, record.headers
            )

    def _corrupt(self, batch: Any, detail: str) -> Exception:
        topic, partition = self.topic_partition
        return CorruptRecordError(f"{topic}/{partition}: a batch at offset {batch.base_offset} is corrupt: {detail}")  # type: ignore[no-any-return]


def _decompressed(batch: Any) -> tuple[bytes, int]:
    """The bytes that hold a batch's records, and where they begin."""
    iter(batch)  # decompresses
    return bytes(batch._buffer), batch._pos  # noqa: SLF001


def _rest(data: bytes, pos: int, first: int) -> tuple[int, int]:
    """A number, still zigzag-encoded, of which `first` is the byte before `pos`; and the position behind it."""
    number, shift = first & 127, 7
    while True:
        byte = data[pos]
        pos += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, pos
        shift += 7


def _headers(data: bytes, pos: int) -> tuple[Headers, int]:
    count, pos = _length(data, pos)
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, pos = _length(data, pos)
        name, pos = data[pos : pos + size].decode(), pos + size
        size, pos = _length(data, pos)
        if size < 0:
            headers.append((name, None))
        else:
            headers.append((name, data[pos : pos + size]))
            pos += size
    return headers, pos


def _length(data: bytes, pos: int) -> tuple[int, int]:
    number, pos = _rest(data, pos + 1, data[pos]) if data[pos] > 127 else (data[pos], pos + 1)
    return (number >> 1) ^ -(number & 1), pos
