"""Our way from the bytes of a batch to its records gives what the client's way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.errors import CorruptRecordError
from kafka.protocol.consumer import IsolationLevel
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.structs import TopicPartition

from worker.errors import UnreadableError
from worker.kafka.kafka_python.unpacking import _QuickRecords

TP = TopicPartition("changelog", 3)
NO_PRODUCER = -1
COMPRESSIONS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
COMMIT, ABORT = b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"


class Written(NamedTuple):
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


def batch(
    base: int, records: list[Written], *, compression: str = "none", producer: int = NO_PRODUCER, control: bool = False
) -> bytearray:
    """As a broker sends it."""
    sequence, epoch = (NO_PRODUCER, NO_PRODUCER) if producer == NO_PRODUCER else (0, 0)
    builder = DefaultRecordBatchBuilder(
        2, COMPRESSIONS[compression], producer != NO_PRODUCER, producer, epoch, sequence, 2**26
    )
    for number, record in enumerate(records):
        assert builder.append(number, *record) is not None
    data = bytearray(builder.build())
    data[:8] = base.to_bytes(8, "big")
    return resealed(data, 0x20 if control else 0)


def resealed(data: bytearray, attributes: int = 0) -> bytearray:
    """With more attributes, and a checksum that is right again."""
    from crc32c import crc32c

    data[22] |= attributes
    data[17:21] = crc32c(bytes(data[21:])).to_bytes(4, "big")
    return data


def plain(*values: bytes) -> list[Written]:
    return [Written(1_000 + number, b"k%d" % number, value, []) for number, value in enumerate(values)]


class Read(NamedTuple):
    records: list[tuple[Any, ...]]
    next_offset: int
    is_broken: bool


def read(
    kind: type[Any], data: bytes, *, start: int = 0, at_once: int = 1_000, aborted: Any = (), **options: Any
) -> Read:
    faults: list[UnreadableError] = []
    if kind is _QuickRecords:
        options |= {"max_record_bytes": 2**24, "on_fault": faults.append}
    part = kind(start, TP, MemoryRecords(data), aborted_transactions=list(aborted), **options)
    records: list[tuple[Any, ...]] = []
    try:
        while part and (taken := part.take(at_once)):
            records += [(*r[:2], r.offset, _time(r), r.key, r.value, list(r.headers)) for r in taken]
    except CorruptRecordError:
        return Read(records, part.next_fetch_offset, is_broken=True)
    return Read(records, part.next_fetch_offset, is_broken=bool(faults))


def _time(record: Any) -> int:
    """The oldest format has no times, for which the client has None."""
    return -1 if record.timestamp is None else record.timestamp


def both(data: bytes | bytearray, **options: Any) -> Read:
    """What the client reads, when ours is the same."""
    theirs = read(Fetcher.PartitionRecords, bytes(data), **options)
    assert read(_QuickRecords, bytes(data), **options) == theirs
    return theirs


HEADERS = st.lists(st.tuples(st.text(max_size=3), st.none() | st.binary(max_size=3)), max_size=3)
RECORDS = st.lists(
    st.builds(
        Written,
        st.integers(0, 2**41),
        st.none() | st.binary(max_size=200),
        st.none() | st.binary(max_size=200) | st.integers(60, 20_000).map(bytes),
        HEADERS,
    ),
    min_size=1,
    max_size=5,
)


@given(st.lists(RECORDS, max_size=3), st.sampled_from(list(COMPRESSIONS)), st.integers(0, 2**40), st.integers(1, 4))
def test_whatever_was_written_is_read_as_the_client_reads_it(
    batches: Any, compression: Any, base: Any, at_once: Any
) -> None:
    data = bytearray()
    for records in batches:
        data += batch(base, records, compression=compression)
        base += len(records)
    found = both(data, at_once=at_once)
    assert [Written(*record[3:]) for record in found.records] == [record for batch in batches for record in batch]


def test_reading_begins_in_the_middle_of_a_batch() -> None:
    found = both(batch(10, plain(b"a", b"b", b"c")), start=11)
    assert [record[2] for record in found.records] == [11, 12]


def test_offsets_that_compaction_has_removed_are_passed_over() -> None:
    data = batch(10, plain(b"a", b"b"))
    data[23:27] = (6).to_bytes(4, "big")  # the offset of the last record, of which there is nothing left
    assert both(resealed(data)).next_offset == 17


def test_the_time_of_the_append_counts_where_the_topic_says_so() -> None:
    found = both(resealed(batch(0, plain(b"a", b"b")), attributes=0x08))
    assert {record[3] for record in found.records} == {1_001}


class Aborted(NamedTuple):
    producer_id: int
    first_offset: int


def test_what_was_written_in_vain_is_not_read_by_whom_only_commits_concern() -> None:
    data = (
        batch(0, plain(b"in vain"), producer=7)
        + batch(1, plain(b"counts"), producer=8)
        + batch(2, [Written(0, ABORT, b"\x00" * 6, [])], producer=7, control=True)
        + batch(3, plain(b"counts, too"), producer=7)
        + batch(4, [Written(0, COMMIT, b"\x00" * 6, [])], producer=7, control=True)
    )
    committed = both(data, isolation_level=IsolationLevel.READ_COMMITTED, aborted=[Aborted(7, 0)])
    assert [record[5] for record in committed.records] == [b"counts", b"counts, too"]
    assert committed.next_offset == 5
    assert [record[5] for record in both(data).records] == [b"in vain", b"counts", b"counts, too"]


@pytest.mark.parametrize("magic", [0, 1])
def test_formats_of_old_brokers(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 2**20)
    for number in range(2):
        builder.append(number, 1_000, b"k", b"v%d" % number)
    found = both(builder.build())
    assert [record[5] for record in found.records] == [b"v0", b"v1"]


BROKEN: dict[str, Callable[[bytearray], None]] = {
    "a checksum": lambda data: data.__setitem__(-1, data[-1] ^ 1),
    "a length": lambda data: resealed(_changed(data, 61, 2)) and None,
    "too few records": lambda data: resealed(_changed(data, 60, 1)) and None,
    "too many records": lambda data: resealed(_changed(data, 60, 9)) and None,
}


def _changed(data: bytearray, index: int, value: int) -> bytearray:
    data[index] = value
    return data


@pytest.mark.parametrize("breakage", BROKEN)
def test_what_is_broken_is_said_and_what_comes_before_it_is_read(breakage: str) -> None:
    good, broken = batch(0, plain(b"a")), batch(1, plain(b"b", b"c"))
    BROKEN[breakage](broken)
    found = both(good + broken)
    assert found.records[0][5] == b"a"
    assert found.is_broken


def test_a_checksum_is_not_looked_at_where_it_is_switched_off() -> None:
    data = batch(0, plain(b"a"))
    data[17] ^= 1
    assert len(both(data, check_crcs=False).records) == 1
