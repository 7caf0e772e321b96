"""Vectors, tombstones and dead letters to the output topics.

An output goes to the partition with the same number as its input's, so the outputs of one key keep the order of its
inputs and a new owner of the partition finds them in one place. Receipts go to the slices; nothing waits here for a
single record, only for room among the unacknowledged ones and for the lease.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from schemas import DeadLetter, Reason, SchemaError, encode
from worker import __version__
from worker.errors import RecordTooLargeError, WorkerError
from worker.kafka.port import Outbound, ProducerPort, TransactionalProducerPort
from worker.partitions.backfill import STAGES
from worker.partitions.batch_slice import BatchSlice, Receipt, Receipts, Written
from worker.partitions.lease import MembershipLease
from worker.records import Change, Headers, OversizedRecord, Rejection, as_read
from worker.stages.fuse import Fused, FusedSlice, OutputFormat
from worker.stages.trace import carried_headers
from worker.state.input_log import KEY as LOG_KEY
from worker.state.input_log import InputLog

STAGE = "publish"
_WAIT_S = 0.1


class OpenProducers(NamedTuple):
    """One client for each kind of output. A refused record makes the whole client useless, and a dead letter is the
    likelier one to be refused: it must not take the vectors of other partitions with it."""

    outputs: ProducerPort
    dead_letters: ProducerPort
    transactions: TransactionalProducerPort | None = None
    """With `exactly_once`: the one that is all of them."""

    def close(self, timeout_s: float) -> None:
        for producer in dict.fromkeys((self.outputs, self.dead_letters)):
            producer.close(timeout_s)


def log_record(output: OutputFormat, partition: int, log: InputLog, receipt: Receipt) -> Outbound:
    """The changelog record of which log the states come from."""
    return Outbound(output.state_topic, partition, LOG_KEY, log.encode(), (), receipt)


def dead_letter(
    output: OutputFormat, rejection: Rejection, now_ms: int, receipt: Receipt, max_bytes: int | None = None
) -> Outbound:
    """The letter of a record; without the record's value, and then without its key and headers, where it would be
    larger than `max_bytes`. The log has them."""
    record = as_read(rejection.record)
    rejection = rejection._replace(record=record)
    for kept in (record.key, record.value, tuple(record.headers)), (record.key, None, tuple(record.headers)):
        try:
            letter = _letter(output, rejection, now_ms, receipt, *kept)
        except SchemaError:  # larger than the contract lets a dead letter be
            continue
        if max_bytes is None or letter.num_bytes() <= max_bytes:
            return letter
    return _letter(output, rejection, now_ms, receipt, None, None, ())


def _letter(
    output: OutputFormat,
    rejection: Rejection,
    now_ms: int,
    receipt: Receipt,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
) -> Outbound:
    record, num_bytes, digest = rejection.record, None, None
    if isinstance(record, OversizedRecord):
        num_bytes, digest = record.num_bytes, record.value_sha256
    elif (key, value, len(headers)) != (record.key, record.value, len(record.headers)):
        num_bytes = sum(len(name) + len(data or b"") for name, data in record.headers)
        num_bytes += len(record.key or b"") + len(record.value or b"")
        digest = None if record.value is None else hashlib.sha256(record.value).digest()
    letter = DeadLetter(
        key=key,
        value=value,
        headers=tuple(headers),
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        timestamp=max(-(2**63), min(2**63 - 1, record.timestamp)),
        reason=rejection.reason,
        stage=rejection.stage,
        detail=rejection.detail[:2_000],
        worker_version=__version__,
        space_id=output.space_id,
        failed_at_ms=now_ms,
        original_bytes=num_bytes,
        value_sha256=digest,
    )
    # A record without a key needs some key: the dead-letter topic may be compacted by mistake, its keys are not.
    carried = key if key is not None else b"%s/%d/%d" % (record.topic.encode(), record.partition, record.offset)
    encoded, trace = encode(letter), carried_headers(record) if headers else ()
    return Outbound(output.dead_letter_topic, None, carried, encoded, trace, receipt)


class Unacknowledged:
    """Records sent and not yet settled, with a bound: the client itself would take any number."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._changed = threading.Condition()
        self._slices: dict[Written, int] = {}
        self.num_records = 0

    def wait_for_room(self, num_records: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._slices or self.num_records + num_records <= self._max_records, timeout_s
            )

    def wait_for_none(self, timeout_s: float) -> bool:
        """Whether everything sent has been settled in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._slices, timeout_s)

    def wait_for_change(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def add(self, written: Written, num_records: int) -> None:
        with self._changed:
            self._slices[written] = num_records
            self.num_records += num_records

    def remove(self, written: Written) -> None:
        with self._changed:
            self.num_records -= self._slices.pop(written, 0)
            self._changed.notify_all()

    def clear(self) -> None:
        """Nothing sent so far counts any more: its producer is gone."""
        with self._changed:
            self._slices.clear()
            self.num_records = 0
            self._changed.notify_all()


class Publisher:
    """Sends what a micro-batch became. `publish` and `tick` run on the publish thread, everything else on the poll
    thread."""

    def __init__(
        self,
        output: OutputFormat,
        lease: MembershipLease | None,
        unacknowledged: Unacknowledged,
        beat: Callable[[], None],
    ) -> None:
        """Without a `lease` nothing but the tenure is asked for leave to send."""
        self._output = output
        self._lease = lease
        self._unacknowledged = unacknowledged
        self._beat = beat
        self.waited_s = 0.0
        """Time so far that went by until there was a producer, room or a lease."""
        self._producers: OpenProducers | None = None
        self._max_bytes: dict[str, int] = {}

    def use(self, producers: OpenProducers | None) -> None:
        """Send through these from now on; None holds everything back."""
        self._producers = producers

    def limit(self, topic: str, max_bytes: int) -> None:
        """The largest record that `topic` takes. One that is larger must not reach the client, because a refusal by
        the broker makes the whole producer useless."""
        self._max_bytes[topic] = max_bytes

    def publish(self, fused: Fused) -> None:
        for each in fused.slices:
            outbound = self._outbound(each)
            if outbound is not None and self._may_send(each.read, len(outbound)):
                self._send(each.read, outbound)

    def tick(self) -> None:
        """Called after each `publish`, and when `wait_s` has passed without one."""

    def wait_s(self) -> float:
        """For how long there is nothing to do without a new batch."""
        return _WAIT_S

    def _outbound(self, fused: FusedSlice) -> list[Outbound] | None:
        """The records of a slice; None if it failed here."""
        read, now_ms, receipts = fused.read, time.time_ns() // 1_000_000, fused.read.written.receipts()
        made: list[Outbound] = []
        if read.log is not None:
            made.append(log_record(self._output, read.tenure.partition.partition, read.log, receipts.state))
        changes: dict[str, bytes | None] = {}
        without_output: set[str] = set()
        refused: list[tuple[Change, str]] = []
        written_as = fused.output or self._output
        change_of, output_of, fits = written_as.change, written_as.output, self._fits
        for entry, vector in fused.results:
            change = change_of(entry, vector, receipts.state)
            output = output_of(entry, vector, now_ms, receipts.vectors)
            if not (fits(output) and fits(change)):
                refused.append((entry, _too_large(next(each for each in (output, change) if not fits(each)))))
                continue
            if output is not None:
                made.append(output)
            else:
                without_output.add(entry.id)
            if change is not None:
                changes[entry.id] = change.value
                made.append(change)
        rejections, num_restored = _refusals(read, refused)
        ids_refused = frozenset(entry.id for entry, _ in refused)
        read.written.note(changes, without_output, rejections, ids_refused, num_restored)
        made += self._in_next(fused, ids_refused, now_ms, receipts.next)
        letters = self._letters(written_as, [*read.rejections, *rejections], now_ms, receipts)
        return None if letters is None else made + letters

    def _in_next(self, fused: FusedSlice, refused: frozenset[str], now_ms: int, receipt: Receipt) -> list[Outbound]:
        """The records of a slice in the next space, where it is published in that."""
        beside = fused.beside
        if beside is None:
            return []
        missing, made = dict(beside.missing), []
        for entry, vector in beside.results:
            if entry.id in refused:
                continue
            output = beside.space.output.output(entry, vector, now_ms, receipt)
            if not self._fits(output):
                missing[entry.id] = _too_large(output)
            elif output is not None:
                made.append(output)
        fused.read.written.note_next(missing)
        is_taken_back = refused or any(each.stage in STAGES for each in fused.read.rejections)
        if is_taken_back and fused.read.backfill is not None:
            fused.read.backfill.doubt()
        return made

    def _letters(
        self, output: OutputFormat, rejections: Sequence[Rejection], now_ms: int, receipts: Receipts
    ) -> list[Outbound] | None:
        """None if one of them does not fit its topic: then the slice has failed."""
        max_bytes = self._max_bytes.get(self._output.dead_letter_topic)
        letters = [dead_letter(output, each, now_ms, receipts.dead_letters, max_bytes) for each in rejections]
        too_large = next(itertools.filterfalse(self._fits, letters), None)
        if too_large is None:
            return letters
        receipts.dead_letters.failed(
            RecordTooLargeError(
                f"a dead letter of {too_large.num_bytes()} bytes does not fit topic {too_large.topic} "
                f"(max.message.bytes={self._max_bytes[too_large.topic]}): raise the topic's limit"
            )
        )
        return None

    def _fits(self, outbound: Outbound | None) -> bool:
        if outbound is None:
            return True
        limit = self._max_bytes.get(outbound.topic)
        return limit is None or outbound.num_bytes() <= limit

    def _may_send(self, read: BatchSlice, num_records: int) -> bool:
        """Wait for a producer, for room and for the lease; False once the slice's tenure has ended."""
        lease, started = self._lease, time.monotonic()
        for condition in (
            self._has_producers,
            lambda: self._unacknowledged.wait_for_room(num_records, _WAIT_S),
            lambda: lease is None or lease.wait_valid(_WAIT_S),
        ):
            while read.tenure.is_live and not condition():
                self._beat()
        self.waited_s += time.monotonic() - started
        return read.tenure.is_live

    def _has_producers(self) -> bool:
        if self._producers is None:
            time.sleep(_WAIT_S)
        return self._producers is not None

    def _send(self, read: BatchSlice, outbound: list[Outbound]) -> None:
        producers, written = self._producers, read.written
        self._unacknowledged.add(written, len(outbound))
        written.expect(len(outbound), lambda: self._unacknowledged.remove(written))
        if producers is None or not read.tenure.is_live:
            self._unacknowledged.remove(written)
            return
        letters = [record for record in outbound if record.topic == self._output.dead_letter_topic]
        others = [record for record in outbound if record.topic != self._output.dead_letter_topic]
        for producer, records in ((producers.outputs, others), (producers.dead_letters, letters)):
            try:
                producer.send(records)
            except WorkerError as error:
                records[0].receipt.failed(error)
                return


def _too_large(record: Outbound | None) -> str:
    assert record is not None  # what is not there fits
    return f"the record of {record.num_bytes()} bytes exceeds max.message.bytes of topic {record.topic}"


def _refusals(read: BatchSlice, refused: Sequence[tuple[Change, str]]) -> tuple[list[Rejection], int]:
    """The inputs whose output or state no topic takes, and how many of them had been displaced: they are refused with
    the newest, because an older one is no smaller."""
    rejections: list[Rejection] = []
    num_displaced = 0
    for newest, detail in refused:
        displaced = read.displaced_by(newest)
        num_displaced += sum(each.is_record for each in displaced)
        rejections += [
            Rejection(each.record, Reason.PUBLISH_REFUSED, STAGE, detail)
            for each in (newest, *reversed(displaced))
            if each.is_record  # or there is none to keep
        ]
    return rejections, num_displaced
