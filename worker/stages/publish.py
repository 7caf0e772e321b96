"""Vectors, tombstones and dead letters to the output topics.

An output goes to the partition with the same number as its input's, so the outputs of one key keep the order of its
inputs and a new owner of the partition finds them in one place. Receipts go to the shares; nothing waits here for a
single record, only for room among the unacknowledged ones and for the lease.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from schemas import DeadLetter, Reason, encode
from worker import __version__
from worker.errors import RecordTooLargeError, WorkerError
from worker.kafka.port import Outbound, ProducerPort, TransactionalProducerPort
from worker.partitions.lease import MembershipLease
from worker.partitions.tenure import DeadLetterReceipt, Share
from worker.records import Change, Headers, Record, Rejection
from worker.stages.fuse import Fused, Vector

STAGE = "publish"
_CARRIED_HEADERS = frozenset({"traceparent", "tracestate"})
_WAIT_S = 0.1


class Producers(NamedTuple):
    """One client for each kind of output. A refused record makes the whole client useless, and a dead letter is the
    likelier one to be refused: it must not take the vectors of other partitions with it."""

    outputs: ProducerPort
    dead_letters: ProducerPort
    transactions: TransactionalProducerPort | None = None
    """With `exactly_once`: the one that is all of them."""

    def close(self, timeout_s: float) -> None:
        for producer in dict.fromkeys((self.outputs, self.dead_letters)):
            producer.close(timeout_s)


class OutputFormat(Protocol):
    """How a role writes what it has made."""

    @property
    def dead_letter_topic(self) -> str: ...
    @property
    def space_id(self) -> str: ...

    def output(self, share: Share, entry: Change, vector: Vector | None, now_ms: int) -> Outbound | None:
        """The record for readers; None where there is nothing to tell them."""
        ...

    def change(self, share: Share, entry: Change) -> Outbound | None:
        """The changelog record of what is to be remembered; None where that is nothing new."""
        ...


def dead_letter(output: OutputFormat, share: Share, rejection: Rejection, now_ms: int) -> Outbound:
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
        space_id=output.space_id,
        failed_at_ms=now_ms,
    )
    # A record without a key needs some key: the dead-letter topic may be compacted by mistake, its keys are not.
    key = record.key if record.key is not None else b"%s/%d/%d" % (
        record.topic.encode(), record.partition, record.offset,
    )  # fmt: skip
    value, headers = encode(letter), carried_headers(record)
    return Outbound(output.dead_letter_topic, None, key, value, headers, DeadLetterReceipt(share))


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

    def wait_for_none(self, timeout_s: float) -> bool:
        """Whether everything sent has been settled in time."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._shares, timeout_s)

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
            if outbound is not None and self._may_send(share, len(outbound)):
                self._send(share, outbound)

    def tick(self) -> None:
        """Called after each `publish`, and when `wait_s` has passed without one."""

    def wait_s(self) -> float:
        """For how long there is nothing to do without a new batch."""
        return _WAIT_S

    def _outbound(self, share: Share, fused: Fused) -> list[Outbound] | None:
        """The records of a share; None if it failed here."""
        now_ms = time.time_ns() // 1_000_000
        made: list[Outbound] = []
        for entry in list(share.newest.values()):
            self._add_records(share, entry, fused, now_ms, made)
        for rejection in share.rejections:
            letter = dead_letter(self._output, share, rejection, now_ms)
            if not self._fits(letter):
                letter.receipt.failed(
                    RecordTooLargeError(
                        f"a dead letter of {letter.num_bytes()} bytes does not fit topic {letter.topic} "
                        f"(max.message.bytes={self._max_bytes[letter.topic]}): raise the topic's limit"
                    )
                )
                return None
            made.append(letter)
        return made

    def _add_records(self, share: Share, entry: Change, fused: Fused, now_ms: int, made: list[Outbound]) -> None:
        """The output of an entry and what is to be remembered of it. Where one of them is too large, the entry is
        rejected, and what it had displaced with it: the next older one is no smaller."""
        change = self._output.change(share, entry)
        output = self._output.output(share, entry, fused.vectors.get(id(entry)), now_ms)
        refused = next(itertools.filterfalse(self._fits, (output, change)), None)
        if refused is not None:
            detail = f"the record of {refused.num_bytes()} bytes exceeds max.message.bytes of topic {refused.topic}"
            displaced: Change | None = entry
            while displaced is not None:
                displaced = share.reject(displaced, Reason.PUBLISH_REFUSED, STAGE, detail)
            return
        if output is not None:
            made.append(output)
        else:
            share.without_output.add(entry.id)
        if change is not None:
            share.changes[entry.id] = change.value
            made.append(change)

    def _fits(self, outbound: Outbound | None) -> bool:
        if outbound is None:
            return True
        limit = self._max_bytes.get(outbound.topic)
        return limit is None or outbound.num_bytes() <= limit

    def _may_send(self, share: Share, num_records: int) -> bool:
        """Wait for a producer, for room and for the lease; False once the share's tenure has ended."""
        lease, started = self._lease, time.monotonic()
        for condition in (
            self._has_producers,
            lambda: self._unacknowledged.wait_for_room(num_records, _WAIT_S),
            lambda: lease is None or lease.wait_valid(_WAIT_S),
        ):
            while share.tenure.is_live and not condition():
                self._beat()
        self.waited_s += time.monotonic() - started
        return share.tenure.is_live

    def _has_producers(self) -> bool:
        if self._producers is None:
            time.sleep(_WAIT_S)
        return self._producers is not None

    def _send(self, share: Share, outbound: list[Outbound]) -> None:
        producers = self._producers
        self._unacknowledged.add(share, len(outbound))
        share.expect(len(outbound), lambda: self._unacknowledged.remove(share))
        if producers is None or not share.tenure.is_live:
            self._unacknowledged.remove(share)
            return
        letters = [record for record in outbound if record.topic == self._output.dead_letter_topic]
        others = [record for record in outbound if record.topic != self._output.dead_letter_topic]
        for producer, records in ((producers.outputs, others), (producers.dead_letters, letters)):
            try:
                producer.send(records)
            except WorkerError as error:
                records[0].receipt.failed(error)
                return
