"""Vectors, tombstones and dead letters to the output topics.

An output goes to the partition with the same number as its input's, so the outputs of one key keep the order of its
inputs and a new owner of the partition finds them in one place. Receipts go to the shares; nothing waits here for a
single record, only for room among the unacknowledged ones and for the lease.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from schemas import DeadLetter, Reason, encode, encode_item_vector
from worker import __version__
from worker.errors import RecordTooLargeError, WorkerError
from worker.fuse import Fused, Vector
from worker.kafka.port import ProducerPort, Receipt
from worker.lease import MembershipLease
from worker.records import Delete, Headers, Item, Record, Rejection
from worker.settings import TopicSettings
from worker.tenure import DeadLetterReceipt, Share

STAGE = "publish"
SOURCE_OFFSET_HEADER = "align-source-offset"
_CARRIED_HEADERS = frozenset({"traceparent", "tracestate"})
_BATCH_OVERHEAD_BYTES = 128  # record batch header (61 bytes) and the record's own lengths, rounded up
_WAIT_S = 0.1


class Producers(NamedTuple):
    """One client for each kind of output. A refused record makes the whole client useless, and a dead letter is the
    likelier one to be refused: it must not take the vectors of other partitions with it."""

    outputs: ProducerPort
    dead_letters: ProducerPort


class Outbound(NamedTuple):
    """One record to send."""

    topic: str
    partition: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    receipt: Receipt

    def num_bytes(self) -> int:
        headers = sum(len(name) + len(value or b"") + 10 for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + _BATCH_OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class OutputFormat:
    """What every vector of this process has in common."""

    topics: TopicSettings
    space_id: str
    dtype: Literal["f2", "f4"]
    dim: int

    def vector(self, share: Share, item: Item, vector: Vector, now_ms: int) -> Outbound:
        value = encode_item_vector(
            item_id=item.item_id,
            revision=item.revision,
            event_time_ms=item.event_time_ms,
            space_id=self.space_id,
            dtype=self.dtype,
            shape=(self.dim,),
            data=vector.data,
            modalities=vector.modalities,
            prior=vector.prior,
            modality_vectors=vector.modality_data,
            produced_at_ms=now_ms,
            source_offset=item.record.offset,
        )
        record = item.record
        return Outbound(self.topics.item_vectors, record.partition, record.key, value, carried_headers(record), share)

    def tombstone(self, share: Share, delete: Delete) -> Outbound:
        record = delete.record
        headers = [*carried_headers(record), (SOURCE_OFFSET_HEADER, b"%d" % record.offset)]
        return Outbound(self.topics.item_vectors, record.partition, record.key, None, headers, share)

    def dead_letter(self, share: Share, rejection: Rejection, now_ms: int) -> Outbound:
        record = rejection.record
        letter = DeadLetter(
            key=record.key,
            value=record.value,
            headers=tuple(record.headers),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            timestamp=record.timestamp,
            reason=rejection.reason,
            stage=rejection.stage,
            detail=rejection.detail[:2_000],
            worker_version=__version__,
            space_id=self.space_id,
            failed_at_ms=now_ms,
        )
        # A record without a key needs some key: the dead-letter topic may be compacted by mistake, its keys are not.
        key = record.key if record.key is not None else b"%s/%d/%d" % (
            record.topic.encode(), record.partition, record.offset,
        )  # fmt: skip
        return Outbound(
            self.topics.dead_letters,
            None,
            key,
            encode(letter),
            carried_headers(record),
            DeadLetterReceipt(share),
        )


def carried_headers(record: Record) -> Headers:
    """The trace context of an input, which its output carries on."""
    if not record.headers:
        return ()
    return [(name, value) for name, value in record.headers if name in _CARRIED_HEADERS]


class Unacknowledged:
    """Records sent and not yet settled, with a bound: the client itself would take any number."""

    def __init__(self, max_records: int) -> None:
        self._max_records = max_records
        self._changed = threading.Condition()
        self._shares: dict[int, int] = {}
        self.num_records = 0

    def wait_for_room(self, num_records: int, timeout_s: float) -> bool:
        with self._changed:
            return self._changed.wait_for(
                lambda: not self._shares or self.num_records + num_records <= self._max_records, timeout_s
            )

    def wait_for_change(self, timeout_s: float) -> None:
        with self._changed:
            self._changed.wait(timeout_s)

    def add(self, share: Share, num_records: int) -> None:
        with self._changed:
            self._shares[id(share)] = num_records
            self.num_records += num_records

    def remove(self, share: Share) -> None:
        with self._changed:
            self.num_records -= self._shares.pop(id(share), 0)
            self._changed.notify_all()

    def clear(self) -> None:
        """Nothing sent so far counts any more: its producer is gone."""
        with self._changed:
            self._shares.clear()
            self.num_records = 0
            self._changed.notify_all()


class Publisher:
    """Sends what a micro-batch became. `publish` runs on the publish thread, everything else on the poll thread."""

    def __init__(
        self,
        output: OutputFormat,
        lease: MembershipLease,
        unacknowledged: Unacknowledged,
        beat: Callable[[], None],
    ) -> None:
        self._output = output
        self._lease = lease
        self._unacknowledged = unacknowledged
        self._beat = beat
        self._producers: Producers | None = None
        self._max_bytes: dict[str, int] = {}

    def use(self, producers: Producers | None) -> None:
        """Send through these from now on; None holds everything back."""
        self._producers = producers

    def limit(self, topic: str, max_bytes: int) -> None:
        """The largest record that `topic` takes. One that is larger must not reach the client, because a refusal by
        the broker makes the whole producer useless."""
        self._max_bytes[topic] = max_bytes

    def publish(self, fused: Fused) -> None:
        for share in fused.batch.shares:
            outbound = self._outbound(share, fused)
            if outbound is None or not self._may_send(share, len(outbound)):
                continue
            self._unacknowledged.add(share, len(outbound))
            share.expect(lambda share=share: self._unacknowledged.remove(share))  # type: ignore[misc]
            self._send(share, outbound)

    def _outbound(self, share: Share, fused: Fused) -> list[Outbound] | None:
        """The records of a share; None if it failed here."""
        now_ms = time.time_ns() // 1_000_000
        vectors_and_tombstones = []
        for entry in list(share.newest.values()):
            made = (
                self._output.vector(share, entry, fused.vectors[id(entry)], now_ms)
                if isinstance(entry, Item)
                else self._output.tombstone(share, entry)
            )
            if self._fits(made):
                vectors_and_tombstones.append(made)
            else:
                self._refuse(share, entry, made)
        dead_letters = [self._output.dead_letter(share, rejection, now_ms) for rejection in share.rejections]
        for made in dead_letters:
            if not self._fits(made):
                made.receipt.failed(
                    RecordTooLargeError(
                        f"a dead letter of {made.num_bytes()} bytes does not fit topic {made.topic} "
                        f"(max.message.bytes={self._max_bytes[made.topic]}): raise the topic's limit"
                    )
                )
                return None
        return vectors_and_tombstones + dead_letters

    def _fits(self, outbound: Outbound) -> bool:
        limit = self._max_bytes.get(outbound.topic)
        return limit is None or outbound.num_bytes() <= limit

    def _refuse(self, share: Share, entry: Item | Delete | None, made: Outbound) -> None:
        """Reject an entry, and what it had displaced: the next older output of the item is no smaller."""
        detail = f"the output of {made.num_bytes()} bytes exceeds max.message.bytes of topic {made.topic}"
        while entry is not None:
            entry = share.reject(entry, Reason.PUBLISH_REFUSED, STAGE, detail)

    def _may_send(self, share: Share, num_records: int) -> bool:
        """Wait for a producer, for room and for the lease; False once the share's tenure has ended."""
        for condition in (
            self._has_producers,
            lambda: self._unacknowledged.wait_for_room(num_records, _WAIT_S),
            lambda: self._lease.wait_valid(_WAIT_S),
        ):
            while share.tenure.is_live and not condition():
                self._beat()
        return share.tenure.is_live

    def _has_producers(self) -> bool:
        if self._producers is None:
            time.sleep(_WAIT_S)
        return self._producers is not None

    def _send(self, share: Share, outbound: list[Outbound]) -> None:
        producers = self._producers
        for record in outbound:
            if producers is None or not share.tenure.is_live:
                return
            is_dead_letter = record.topic == self._output.topics.dead_letters
            try:
                (producers.dead_letters if is_dead_letter else producers.outputs).send(*record)
            except WorkerError as error:
                record.receipt.failed(error)
                return
