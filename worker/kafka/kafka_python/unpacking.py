"""Records out of fetched batches, for less than half of what the client takes for them, and whatever the batches hold.

kafka-python reads each number of a record through a call, and makes two objects and three sizes of it
(`tests/bench/restore.py` has the figures). What decides which batches count, transactions and control batches, is as
the client does it; only the way from the bytes of a batch to its records is another.

A batch that cannot be read would have the client go round in circles for ever, with all partitions (kafka-python
3.0.12, `fetched_records`). Here it ends what was fetched of its partition, and pauses it: `Unpacking.take_faults` says
so. What a batch unpacks to comes in pieces, and a poll ends when it has unpacked `POLL_BYTES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from kafka import KafkaConsumer
from kafka.consumer.fetcher import Fetcher, RecordTooLargeError
from kafka.errors import CorruptRecordError, KafkaError, UnknownError
from kafka.protocol.consumer import IsolationLevel
from kafka.structs import TopicPartition

from worker.errors import UnreadableError
from worker.kafka.batches import Batch, Budget, Fault, FetchedRecord, OldBatch, checked, slices, unpacked, unpacked_old
from worker.records import OversizedRecord

POLL_BYTES = 32 * 2**20
"""Bytes that a poll unpacks before it returns; it may be a piece and a record more."""

Group = list[FetchedRecord | OversizedRecord]


class Unpacking:
    """Has a consumer return `FetchedRecord`, and `OversizedRecord` for larger ones. For the consumer's thread."""

    def __init__(self, consumer: KafkaConsumer, max_record_bytes: int, *, refuses_larger: bool = False) -> None:
        """The consumer must not have polled yet, nor have deserializers. `refuses_larger`: a larger record cannot be
        read, either, and stops its partition."""
        self._consumer = consumer
        self._faults: dict[TopicPartition, UnreadableError] = {}
        self._ahead: dict[TopicPartition, int] = {}
        """Where a batch ended that lay behind the end of the log, as its answer had it."""
        self._num_unpacked = 0
        fetcher = consumer._fetcher  # noqa: SLF001  # nothing public chooses any of it
        self._append, self._parse = fetcher._append, fetcher._parse_fetched_data  # noqa: SLF001
        fetcher.PartitionRecords = partial(
            _QuickRecords, max_record_bytes=max_record_bytes, refuses_larger=refuses_larger, on_fault=self._found,
            met_ahead=self._met_ahead,
        )  # fmt: skip
        fetcher._append = self._append_some  # noqa: SLF001
        fetcher._parse_fetched_data = self._parse_or_stop  # noqa: SLF001

    def take_faults(self) -> Mapping[TopicPartition, UnreadableError]:
        """The partitions that could not be read on since the last call. They are paused."""
        faults, self._faults = self._faults, {}
        return faults

    def _found(self, error: UnreadableError) -> None:
        partition = TopicPartition(error.topic, error.partition)
        self._faults[partition] = error
        self._consumer.pause(partition)

    def _met_ahead(self, partition: TopicPartition, next_offset: int) -> bool:
        """Take note of a batch behind the end of the log; whether the last one that was met is the same."""
        before, self._ahead[partition] = self._ahead.get(partition), next_offset
        return before == next_offset

    def _append_some(self, drained: Any, part: Any, max_records: int, update_offsets: bool) -> int:
        """Append records as the client does, and end as though all had come, once enough has been unpacked."""
        if not drained:
            self._num_unpacked = 0
        count: int = self._append(drained, part, max_records, update_offsets)
        self._num_unpacked += part.num_just_unpacked
        part.num_just_unpacked = 0
        return count if self._num_unpacked < POLL_BYTES else max_records

    def _parse_or_stop(self, fetch: Any) -> Any:
        """Parse as the client does; what it cannot make sense of stops the partition, and not the poll."""
        try:
            part = self._parse(fetch)
            if part is not None:
                part.highwater = fetch.partition_data.high_watermark
            return part
        except (CorruptRecordError, UnknownError) as error:
            self._stop(fetch, "refused", f"the broker cannot read it ({type(error).__name__})")
        except RecordTooLargeError:
            self._stop(fetch, "length", "what the broker sends is no whole batch")
        except KafkaError as error:
            if type(error) is not KafkaError:
                raise
            self._stop(fetch, "length", "what the broker sends is no whole batch")
        return None

    def _stop(self, fetch: Any, fault: str, detail: str) -> None:
        topic, partition = fetch.topic_partition
        raw = bytes(fetch.partition_data.records or b"")
        self._found(UnreadableError(topic, partition, fetch.fetched_offset, fault, detail, num_bytes=len(raw), raw=raw))


def _always(partition: TopicPartition, next_offset: int) -> bool:
    return True


class _QuickRecords(Fetcher.PartitionRecords):  # type: ignore[misc]  # the client carries no types
    """Records of one partition in one answer to a fetch."""

    def __init__(self, fetch_offset: int, tp: Any, records: Any, *more: Any, **options: Any) -> None:
        self._max_record_bytes = options.pop("max_record_bytes")
        self._refuses_larger = options.pop("refuses_larger", False)
        self._on_fault = options.pop("on_fault")
        self._met_ahead = options.pop("met_ahead", _always)  # nothing known of other answers: no second look
        self._ready: Group = []
        self._num_taken = 0
        """Records taken of those that are ready."""
        self._budget = Budget()
        self.num_just_unpacked = 0
        self.highwater: int | None = None
        """Where the log ends, as far as it counts, or ended a moment before the broker read it."""
        super().__init__(fetch_offset, tp, records, *more, **options)

    def _maybe_skip_record(self, group: Group) -> bool:
        """Records before the one that was asked for are in their batch, too, and are left out where groups are made."""
        return False

    def take(self, n: int | None = None) -> Group:
        """Up to `n` records; fewer, or none, where enough has been unpacked for once."""
        taken: Group = []
        before = self._budget.num_bytes
        while self.record_iterator is not None and (n is None or len(taken) < n):
            if self._num_taken >= len(self._ready):
                if self._budget.num_bytes - before >= POLL_BYTES:
                    break
                self._ready, self._num_taken = next(self.record_iterator, []), 0
                if not self._ready:
                    self.drain()
                    break
            stop = len(self._ready) if n is None else self._num_taken + n - len(taken)
            taken += self._ready[self._num_taken : stop]
            self._num_taken = min(stop, len(self._ready))
            self.next_fetch_offset = self._ready[self._num_taken - 1].offset + 1
            if self._num_taken == len(self._ready):
                self._ready, self._num_taken = [], 0
        self.num_just_unpacked = self._budget.num_bytes - before
        return taken

    def _unpack_records(self, tp: Any, records: Any, *_deserializers: Any) -> Iterator[Group]:
        """The records in groups, none of them empty."""
        data = memoryview(records._buffer)  # noqa: SLF001  # of which the client would make copies
        begin = end = 0
        try:
            for raw in slices(data):
                begin, end = end, end + len(raw)
                batch = checked(raw, check_crc=self.check_crcs)
                if self._is_ahead(tp, batch):
                    break
                for group in self._groups(tp, batch):
                    if group[0].offset < self.fetch_offset:
                        group = [record for record in group if record.offset >= self.fetch_offset]
                    if group:
                        if self._refuses_larger and type(group[0]) is OversizedRecord:
                            raise Fault("too_large", f"a record of {group[0].num_bytes} bytes is no record of ours")
                        yield group
                # Behind the last offset of the batch, which compaction may have removed: else it would be fetched
                # for ever.
                self.next_fetch_offset = batch.next_offset
            begin = end
        except Fault as fault:
            self._on_fault(self._error(fault, data[begin : end if end > begin else len(data)], data[end:]))

    def _groups(self, tp: Any, batch: Batch | OldBatch) -> Iterator[Group]:
        topic, partition = tp
        if isinstance(batch, OldBatch):
            yield list(unpacked_old(batch, topic, partition))
            return
        self.leader_epoch = batch.leader_epoch
        if self._holds_records(batch):
            yield from unpacked(batch, topic, partition, self._max_record_bytes, self._budget)

    def _holds_records(self, batch: Batch) -> bool:
        """Whether there is something for us in it: not in markers, nor in what was written in vain."""
        if self.isolation_level == IsolationLevel.READ_COMMITTED and batch.has_producer_id():
            self._consume_aborted_transactions_up_to(batch.last_offset)
            if batch.is_control_batch:
                if batch.aborts():
                    self.aborted_producer_ids.discard(batch.producer_id)
            elif self._is_batch_aborted(batch):
                return False
        return not batch.is_control_batch

    def _is_ahead(self, tp: Any, batch: Batch | OldBatch) -> bool:
        """Whether to leave a batch to the next fetch. No checksum covers its offsets: wrong ones would have records
        passed over, or read again.

        A broker looks where the log ends before it reads, so what was appended in between lies behind that end. The
        next answer, which is asked for from the same place, has a later end; a batch that lies behind that one, too,
        has another offset than its own.
        """
        is_ahead = self.highwater is not None and batch.next_offset > self.highwater
        if batch.next_offset <= self.next_fetch_offset or (is_ahead and self._met_ahead(tp, batch.next_offset)):
            raise Fault("records", f"its offsets, {batch.base_offset} to {batch.next_offset - 1}, are out of place")
        return is_ahead

    def _error(self, fault: Fault, raw: memoryview, rest: memoryview) -> UnreadableError:
        topic, partition = self.topic_partition
        offset = self.next_fetch_offset
        return UnreadableError(
            topic,
            partition,
            offset,
            fault.kind,
            fault.detail,
            next_offset=next_offset(raw, rest, offset, self.highwater),
            num_bytes=len(raw),
            raw=bytes(raw),
        )


def next_offset(raw: memoryview, rest: memoryview, offset: int, highwater: int | None) -> int | None:
    """Where the batch behind `raw` begins, which cannot be read from `offset` on: as that says itself, or else `raw`,
    where its checksum holds. None where neither can be had."""
    found = int.from_bytes(rest[:8], "big", signed=True) if len(rest) >= 8 else None
    if found is None:
        try:
            found = checked(raw, check_crc=True).next_offset
        except (Fault, IndexError):
            return None
    return found if found > offset and (highwater is None or found <= highwater) else None
