"""Our way from records to the bytes of a batch gives what the client's way gives, and every receipt hears its fate."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import IllegalStateError, KafkaError
from kafka.producer.record_accumulator import RecordAccumulator
from kafka.structs import TopicPartition

from worker.kafka.kafka_python import packing
from worker.kafka.kafka_python.packing import can_pack, pack
from worker.kafka.port import Outbound

TP = TopicPartition("vectors", 1)
COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}


class Receipt:
    def __init__(self) -> None:
        self.fate: list[int | str] = []

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self.fate += [offset] if offset < 0 else range(offset - count + 1, offset + 1)


def on_failed(receipt: Any, error: BaseException) -> None:
    receipt.fate.append(str(error))


class Producer:
    """The client's own accumulator, with nobody who sends what it holds."""

    def __init__(self, *, batch_size: int = 2**20, compression: str = "none", message_version: int = 2) -> None:
        self._accumulator = RecordAccumulator(
            batch_size=batch_size, compression_attrs=COMPRESSIONS[compression], message_version=message_version
        )
        self._transaction_manager = None
        self._closed = False
        self._metadata = SimpleNamespace(partitions_for_topic={TP.topic: {0, 1}}.get)
        self._sender = SimpleNamespace(wakeup=self._wake)
        self.num_wakes = 0

    def _wake(self) -> None:
        self.num_wakes += 1

    def pack(self, outbound: list[Outbound]) -> None:
        pack(self, TP.topic, TP.partition, outbound, on_failed)

    @property
    def queue(self) -> deque[Any]:
        return self._accumulator._batches[TP]

    def bytes(self) -> list[bytes]:
        found = []
        for batch in self.queue:
            batch.records.close()
            found.append(bytes(batch.records._buffer))
        return found


def outbound(key: bytes | None, value: bytes | None, headers: Any = (), receipt: Any = None) -> Outbound:
    return Outbound(TP.topic, TP.partition, key, value, headers, receipt or Receipt())


def numbered(count: int, size: int = 10) -> tuple[list[Outbound], list[Receipt]]:
    receipts = [Receipt() for _ in range(count)]
    return [outbound(b"k%d" % n, bytes(size), receipt=receipt) for n, receipt in enumerate(receipts)], receipts


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets the clock."""
    return lambda ms: monkeypatch.setattr(packing, "time", SimpleNamespace(time_ns=lambda: ms * 10**6, monotonic=float))


HEADERS = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=3)
RECORDS = st.lists(
    st.builds(
        outbound,
        st.none() | st.binary(max_size=200),
        st.none() | st.binary(max_size=200) | st.integers(60, 20_000).map(bytes),
        HEADERS,
    ),
    min_size=1,
    max_size=5,
)


@given(
    st.lists(st.tuples(st.integers(0, 2**41), RECORDS), min_size=1, max_size=3),
    st.sampled_from(list(COMPRESSIONS)),
    st.integers(100, 30_000),
)
def test_batches_are_those_that_the_client_makes(groups: Any, compression: Any, batch_size: Any) -> None:
    ours, theirs = (Producer(batch_size=batch_size, compression=compression) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        for now_ms, records in groups:
            clock = SimpleNamespace(time_ns=lambda now_ms=now_ms: now_ms * 10**6, monotonic=float)
            patch.setattr(packing, "time", clock)
            ours.pack(records)
            for record in records:
                headers = [(name, value or b"") for name, value in record.headers]
                theirs._accumulator.append(TP, now_ms, record.key, record.value, headers)
    assert ours.bytes() == theirs.bytes()
    assert [batch.record_count for batch in ours.queue] == [batch.record_count for batch in theirs.queue]


def test_each_receipt_learns_the_offset_of_its_record() -> None:
    producer = Producer()
    records, receipts = numbered(3)
    producer.pack(records)
    producer.queue[0].complete(40, -1)
    assert [receipt.fate for receipt in receipts] == [[40], [41], [42]]


def test_receipts_that_stand_for_many_records_hear_of_all_at_once() -> None:
    calls: list[tuple[str, int, int]] = []

    def receipt(name: str) -> Any:
        return SimpleNamespace(acknowledged=lambda offset, count=1: calls.append((name, offset, count)))

    first, second = receipt("first"), receipt("second")
    producer = Producer()
    producer.pack([Outbound(TP.topic, TP.partition, b"k", b"v", (), each) for each in (first, first, second, first)])
    producer.queue[0].complete(100, 1)
    assert calls == [("first", 101, 2), ("second", 102, 1), ("first", 103, 1)]


def test_a_batch_that_an_earlier_try_has_written_has_no_offsets() -> None:
    producer = Producer()
    records, receipts = numbered(2)
    producer.pack(records)
    producer.queue[0].complete(-1, -1)
    assert [receipt.fate for receipt in receipts] == [[-1], [-1]]


def test_each_receipt_learns_the_error_of_its_record() -> None:
    producer = Producer()
    records, receipts = numbered(2)
    producer.pack(records)
    producer.queue[0].complete_exceptionally(KafkaError("all"), lambda index: KafkaError(f"record {index}"))
    assert [receipt.fate for receipt in receipts] == [["KafkaError: record 0"], ["KafkaError: record 1"]]


def test_aborting_fails_what_is_queued() -> None:
    producer = Producer()
    records, receipts = numbered(2)
    producer.pack(records)
    producer._accumulator.abort_batches(KafkaError("closed"))
    assert [receipt.fate for receipt in receipts] == [["KafkaError: closed"]] * 2


def test_records_go_into_the_open_batch_until_it_is_full() -> None:
    producer = Producer(batch_size=400)
    records, _ = numbered(20, size=20)
    for record in records:
        producer.pack([record])
    counts = [batch.record_count for batch in producer.queue]
    assert sum(counts) == 20
    assert len(counts) > 1
    assert max(counts) > 1


def test_a_record_that_is_larger_than_a_batch_has_one_to_itself() -> None:
    producer = Producer(batch_size=100)
    producer.pack([outbound(b"a", b"x"), outbound(b"b", bytes(5_000)), outbound(b"c", b"x")])
    assert [batch.record_count for batch in producer.queue] == [1, 1, 1]


def test_nothing_is_added_to_a_batch_that_is_on_its_way() -> None:
    producer = Producer()
    producer.pack(numbered(1)[0])
    producer.queue[0].records.close()
    producer.pack(numbered(1)[0])
    assert [batch.record_count for batch in producer.queue] == [1, 1]


def test_the_clients_own_records_stay_apart_and_in_order() -> None:
    producer = Producer()
    producer.pack(numbered(1)[0])
    future, *_ = producer._accumulator.append(TP, 1, b"own", b"", [])
    producer.pack(numbered(1)[0])
    assert [batch.record_count for batch in producer.queue] == [1, 1, 1]
    producer.queue[1].complete(7, -1)
    assert future.value.offset == 7


def test_the_sender_is_woken_for_a_new_batch_and_a_full_one() -> None:
    producer = Producer(batch_size=300)
    producer.pack(numbered(1)[0])
    assert producer.num_wakes == 1
    producer.pack(numbered(1)[0])
    assert producer.num_wakes == 1
    producer.pack(numbered(20)[0])
    assert producer.num_wakes == 2


def split_first(producer: Producer) -> None:
    """As the client does where the broker says that the first batch in the queue is too large."""
    batch = producer.queue.popleft()
    batch.records.close()
    producer._accumulator.split_and_reenqueue(batch)


def test_receipts_follow_their_records_when_the_client_splits_a_batch() -> None:
    producer = Producer()
    records, receipts = numbered(5)
    producer.pack(records)
    split_first(producer)
    _, second = producer.queue
    split_first(producer)  # still too large
    assert [len(each._record_futures) for each in producer.queue] == [2, 1, 2]
    for base, each in zip((10, 20, 30), producer.queue, strict=True):
        each.complete(base, -1)
    assert [receipt.fate for receipt in receipts] == [[10], [11], [20], [30], [31]]
    assert second is producer.queue[2]


def test_a_split_batch_may_fail_in_part() -> None:
    producer = Producer()
    records, receipts = numbered(2)
    producer.pack(records)
    split_first(producer)
    producer.queue[0].complete(10, -1)
    producer.queue[1].complete_exceptionally(KafkaError("x"), lambda index: KafkaError(f"record {index}"))
    assert [receipt.fate for receipt in receipts] == [[10], ["KafkaError: record 0"]]


@pytest.mark.parametrize("closed", ["producer", "accumulator"])
def test_what_is_closed_takes_nothing(closed: str) -> None:
    producer = Producer()
    (producer if closed == "producer" else producer._accumulator)._closed = True
    with pytest.raises(IllegalStateError, match="closed"):
        producer.pack(numbered(1)[0])
    assert not producer.queue
    assert producer._accumulator._appends_in_progress.get() == 0


def test_a_partition_joins_the_transaction_once_for_all_its_records() -> None:
    producer, added = Producer(), list[Any]()
    vars(producer)["_transaction_manager"] = SimpleNamespace(
        is_transactional=lambda: True, maybe_add_partition_to_transaction=added.append
    )
    producer.pack(numbered(3)[0])
    assert added == [TP]


@pytest.mark.parametrize(
    ("topic", "partition", "version", "expected"),
    [("vectors", 1, 2, True), ("vectors", 2, 2, False), ("others", 1, 2, False), ("vectors", None, 2, False),
     ("vectors", 1, 1, False)],
)  # fmt: skip
def test_what_the_client_has_to_ask_or_to_choose_goes_its_own_way(
    topic: str, partition: int | None, version: int, expected: bool
) -> None:
    assert can_pack(Producer(message_version=version), topic, partition) is expected
