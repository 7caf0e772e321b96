"""Whatever lies in a log is read, or said to be unreadable, in bounded time and memory."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from kafka.record import MemoryRecords
from kafka.record.legacy_records import LegacyRecordBatchBuilder
from kafka.structs import TopicPartition

from tests.unit.kafka.batch_bytes import CODECS, batch, record, sealed, sized, varint
from worker.errors import BATCH_FAULTS, UnreadableError
from worker.kafka.batches import GROUP_RECORDS, MAX_HEADERS
from worker.kafka.kafka_python.unpacking import POLL_BYTES, _QuickRecords
from worker.records import OversizedRecord

TP = TopicPartition("items", 3)
LIMIT = 2**20


class Read:
    """What there is to read of a partition."""

    def __init__(
        self, data: bytes, *, start: int = 0, at_once: int = 1_000, limit: int = LIMIT, **options: Any
    ) -> None:
        self.errors: list[UnreadableError] = []
        self.records: list[Any] = []
        highwater, ahead = options.pop("highwater", None), options.pop("ahead", None)
        self.met_ahead: list[int] = []

        def met_ahead(partition: TopicPartition, next_offset: int) -> bool:
            self.met_ahead.append(next_offset)
            return bool(next_offset == ahead)

        part = _QuickRecords(
            start,
            TP,
            MemoryRecords(data),
            max_record_bytes=limit,
            on_fault=self.errors.append,
            met_ahead=met_ahead,
            **options,
        )
        part.highwater = highwater
        while part:
            taken = part.take(at_once)
            self.records += taken
        self.next_offset = part.next_fetch_offset

    @property
    def values(self) -> list[bytes | None]:
        return [record.value for record in self.records]

    @property
    def error(self) -> UnreadableError:
        (error,) = self.errors
        return error


def simple(*values: bytes) -> list[bytes]:
    return [record(number, b"k", value) for number, value in enumerate(values)]


# ---------------------------------------------------------------------- odd, but readable


def test_no_header_is_too_odd() -> None:
    headers = [
        (b"caf\xe9", b"latin"),
        (b"\xff\xfe", None),
        (b"", b""),
        (b"same", b"1"),
        (b"same", b"2"),
        (b"\xed\xa0\x80", b"half of a pair"),
        ("gr\u00fc\u00dfe \U0001f600".encode(), b"x"),
        (b"n" * 30_000, b"v" * 30_000),
    ]
    headers += [(b"h%d" % number, b"v") for number in range(1_000)]
    (found,) = Read(batch(0, [record(0, b"k", b"v", headers)])).records
    assert [(name.encode(errors="surrogateescape"), value) for name, value in found.headers] == headers


def test_a_record_with_more_headers_than_are_looked_at_is_not_kept() -> None:
    headers = [(b"", None)] * (MAX_HEADERS + 1)
    data = batch(0, [record(0, b"k", b"value", headers), record(1, b"k", b"next")])
    large, after = Read(data).records
    assert isinstance(large, OversizedRecord)
    assert (large.key, large.value_sha256) == (b"k", sha256(b"value").digest())
    assert after.value == b"next"


@pytest.mark.parametrize("codec", CODECS)
def test_records_that_are_too_large_leave_their_values_behind_one_by_one(codec: str) -> None:
    values = [b"small", bytes(3 * LIMIT), b"x" * (LIMIT + 1), b"end"]
    headers = [(b"traceparent", b"00")]
    records = [record(number, b"k%d" % number, value, headers) for number, value in enumerate(values)]
    found = Read(batch(7, records, codec)).records
    assert [each.offset for each in found] == [7, 8, 9, 10]
    assert [type(each) is OversizedRecord for each in found] == [False, True, True, False]
    for large, value, written in zip(found[1:3], values[1:3], records[1:3], strict=True):
        assert (large.value, large.value_bytes, large.value_sha256) == (None, len(value), sha256(value).digest())
        assert len(sized(bytes(large.num_bytes))) == len(written)
        assert large.headers == [("traceparent", b"00")]
        assert large.timestamp == 1_000 + large.offset - 7
    assert [large.key for large in found[1:3]] == [b"k1", b"k2"]


def test_what_is_large_need_not_be_the_value() -> None:
    records = [
        record(0, bytes(2 * LIMIT), b"v"),
        record(1, b"k", None, [(b"h", bytes(2 * LIMIT))]),
        record(2, None, bytes(2 * LIMIT)),
    ]
    key, headers, value = Read(batch(0, records, "zstd")).records
    assert (key.key, key.value_bytes, key.headers) == (None, 1, [])
    assert (headers.key, headers.value_bytes, headers.value_sha256, headers.headers) == (b"k", -1, None, ())
    assert (value.key, value.value_bytes) == (None, 2 * LIMIT)


def test_a_reader_that_takes_no_larger_records_stops_at_one() -> None:
    data = batch(0, [record(0, b"k", b"v"), record(1, b"k", bytes(2 * LIMIT))], "lz4")
    found = Read(data, refuses_larger=True)
    assert found.values == [b"v"]
    assert (found.error.fault, found.error.offset) == ("too_large", 1)


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("at_once", [1, 700, 10_000])
def test_many_records_come_in_order_whatever_is_taken_at_once(codec: str, at_once: int) -> None:
    count = 2 * GROUP_RECORDS + 17
    data = batch(0, [record(number, b"%d" % number, b"v" * (number % 300)) for number in range(count)], codec)
    found = Read(data, at_once=at_once)
    assert [each.offset for each in found.records] == list(range(count))
    assert [len(each.value) for each in found.records] == [number % 300 for number in range(count)]
    assert found.next_offset == count


def test_reading_begins_in_the_middle_of_a_group() -> None:
    found = Read(batch(0, simple(*[b"v"] * 50)) + batch(50, simple(b"w")), start=17)
    assert [each.offset for each in found.records] == list(range(17, 51))


def test_a_take_ends_when_enough_has_been_unpacked() -> None:
    value = bytes(LIMIT - 100)
    data = batch(0, [record(number, b"k", value) for number in range(2 * POLL_BYTES // LIMIT)], "zstd")
    part = _QuickRecords(0, TP, MemoryRecords(data), max_record_bytes=LIMIT, on_fault=pytest.fail)
    first = part.take(1_000)
    assert POLL_BYTES / 2 < sum(len(each.value) for each in first) <= POLL_BYTES + LIMIT
    assert part.num_just_unpacked >= POLL_BYTES
    assert part.next_fetch_offset == first[-1].offset + 1


@pytest.mark.parametrize("magic", [0, 1])
@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4"])
def test_old_formats_are_unpacked(magic: int, codec: str) -> None:
    if (magic, codec) == (0, "lz4"):
        pytest.skip("its frames have a header of their own that no library reads")
    builder = LegacyRecordBatchBuilder(magic, CODECS[codec], 2**20)
    for number in range(3):
        builder.append(number, 1_000, b"k", b"v%d" % number)
    data = bytearray(builder.build())
    data[:8] = (12).to_bytes(8, "big") if magic else data[:8]
    found = Read(bytes(data), start=10 if magic else 0)
    assert found.values == [b"v0", b"v1", b"v2"]
    assert [each.offset for each in found.records] == ([10, 11, 12] if magic else [0, 1, 2])


# ---------------------------------------------------------------------- unreadable

ENDLESS = b"\xff" * 200_000
GOOD = batch(0, simple(b"before"))
BROKEN = {
    "checksum": (GOOD[:0] + batch(1, simple(b"a"))[:-1] + b"!", "checksum"),
    "format": (batch(1, simple(b"a"))[:16] + b"\x03" + batch(1, simple(b"a"))[17:], "format"),
    "codec": (batch(1, simple(b"a"), attributes=6), "codec"),
    "codec whose data are of another": (batch(1, simple(b"a"), "lz4", payload=b"no frame"), "data"),
    "compressed data that are cut": (batch(1, simple(b"a"), "gzip", payload=b"\x1f\x8b\x08"), "data"),
    "more records than it says": (batch(1, simple(b"a", b"b"), count=1), "records"),
    "fewer records than it says": (batch(1, simple(b"a"), count=2, last_delta=1), "records"),
    "fewer records than it says, compressed": (batch(1, simple(b"a"), "zstd", count=2, last_delta=1), "records"),
    "a negative number of records": (batch(1, simple(b"a"), count=-1), "records"),
    "more records than offsets": (batch(1, simple(b"a"), count=2**31 - 1), "records"),
    "offsets that go back": (batch(1, simple(b"a"), last_delta=-5), "records"),
    "a record with a negative length": (batch(1, [varint(-40) + bytes(40)]), "records"),
    "a record longer than the batch": (batch(1, [varint(5_000) + bytes(40)]), "records"),
    "a record longer than memory": (batch(1, [varint(2**40) + bytes(40)]), "records"),
    "a record longer than memory, compressed": (batch(1, [varint(2**29) + bytes(40)], "snappy"), "records"),
    "a number that does not end": (batch(1, [ENDLESS]), "records"),
    "a number that does not end, compressed": (batch(1, [ENDLESS], "gzip"), "records"),
    "a number that does not end in a record": (batch(1, [sized(b"\0" + ENDLESS)]), "records"),
    "a key longer than its record": (batch(1, [sized(b"\0\0\0" + varint(10**9) + b"kk")]), "records"),
    "a value longer than its record": (batch(1, [sized(b"\0\0\0" + varint(1) + b"k" + varint(99) + b"v")]), "records"),
    "a negative number of headers": (batch(1, [sized(b"\0\0\0\1\1" + varint(-7))]), "records"),
    "more headers than there are": (batch(1, [sized(b"\0\0\0\1\1" + varint(900) + b"\0\1")]), "records"),
    "a header with a negative name": (batch(1, [sized(b"\0\0\0\1\1" + varint(1) + varint(-1) + b"\1")]), "records"),
    "an offset before the batch": (batch(1, [sized(b"\0\0" + varint(-1) + b"\1\1\0")]), "records"),
    "an offset behind the batch": (batch(1, [sized(b"\0\0" + varint(9) + b"\1\1\0")]), "records"),
    "two records of one offset": (batch(1, [record(0, b"k", b"a")] * 2), "records"),
    "bytes behind the last record": (batch(1, [*simple(b"a"), b"more"], count=1), "records"),
    "bytes behind the last record, compressed": (batch(1, [*simple(b"a"), bytes(9)], "zstd", count=1), "records"),
    "a length too short for anything": (batch(1, [])[:8] + (3).to_bytes(4, "big") + bytes(60), "length"),
    "a negative length": (batch(1, [])[:8] + (-1).to_bytes(4, "big", signed=True) + bytes(60), "length"),
    "a length too short for its header": (sealed(1, bytes(9)), "length"),
    "offsets that were read before": (batch(-5, simple(b"a")), "records"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_cannot_be_read_is_said_with_its_place_and_its_bytes_and_nothing_else_is_lost(what: str) -> None:
    data, fault = BROKEN[what]
    started = time.process_time()
    found = Read(GOOD + data + batch(9, simple(b"behind")), highwater=10)
    assert found.values[0] == b"before"
    assert b"behind" not in found.values
    error = found.error
    assert (error.topic, error.partition, error.fault) == ("items", 3, fault)
    assert error.offset == found.next_offset >= 1
    assert f"items/3@{error.offset}" in error.one_line()
    assert fault in BATCH_FAULTS
    if fault != "length":
        assert (error.raw, error.num_bytes, error.next_offset) == (data, len(data), 9)
    assert time.process_time() - started < 2


def test_what_behind_a_broken_batch_is_not_there_to_be_seen_is_what_the_batch_says_if_it_can_be_believed() -> None:
    torn = batch(1, simple(b"a", b"b", b"c"), payload=b"no record")
    assert Read(GOOD + torn).error.next_offset == 4
    assert Read(GOOD + torn[:-1] + b"!").error.next_offset is None


def test_offsets_out_of_place_stop_a_partition_though_no_checksum_covers_them() -> None:
    assert Read(GOOD + batch(2**40, simple(b"a")), highwater=2, ahead=2**40 + 1).error.fault == "records"
    assert Read(GOOD + batch(1, simple(b"a")), highwater=2).errors == []


def test_what_was_appended_while_the_broker_read_is_left_to_the_next_fetch() -> None:
    found = Read(GOOD + batch(1, simple(b"a", b"b")) + batch(3, simple(b"c")), highwater=1)
    assert (found.values, found.next_offset, found.met_ahead) == ([b"before"], 1, [3])
    assert found.errors == []
    assert Read(GOOD + batch(1, simple(b"a", b"b")), highwater=1, ahead=3).error.fault == "records"


def test_records_before_the_break_in_a_batch_are_read() -> None:
    records = [record(number, b"k", b"v%d" % number) for number in range(10)]
    found = Read(batch(0, [*records, b"\xff\xff"], count=11, last_delta=10))
    assert len(found.records) == 10
    assert found.error.offset == 10


def mutated(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        match rng.randrange(4):
            case 0:
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            case 1:
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            case 2:
                start = rng.randrange(len(changed))
                changed[start : start + rng.randint(1, 8)] = rng.randbytes(rng.randint(0, 8))
            case _:
                del changed[rng.randrange(len(changed)) :]
        if len(changed) < 13:
            return bytes(13)
    return bytes(changed)


@pytest.mark.parametrize("check_crcs", [True, False])
@pytest.mark.parametrize("codec", CODECS)
def test_thousands_of_changed_batches_are_each_read_or_said_to_be_unreadable(codec: str, check_crcs: bool) -> None:
    rng = random.Random(f"{codec}{check_crcs}")
    headers = [(b"name", b"value"), (b"other", None)]
    records = [record(number, b"key", rng.randbytes(number * 9), headers) for number in range(6)]
    data = batch(0, records, codec) + batch(6, simple(b"a"), codec)
    num_broken = num_read = 0
    for _ in range(400):
        found = Read(mutated(data, rng), check_crcs=check_crcs, highwater=7)
        assert len(found.errors) <= 1
        num_broken += len(found.errors)
        num_read += len(found.records)
        offsets = [each.offset for each in found.records]
        assert offsets == sorted(set(offsets))
        assert all(0 <= offset < 7 for offset in offsets)
    assert num_broken > 40
    assert num_read > 40


BOMB = """
import resource, sys
from kafka.record import MemoryRecords
from kafka.structs import TopicPartition
from tests.unit.kafka.batch_bytes import batch, record
from worker.kafka.kafka_python.unpacking import _QuickRecords
value = bytes(8_000_000)
with open(sys.argv[2], "rb") as file:
    data = file.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
limit = int(sys.argv[3])
part = _QuickRecords(0, TopicPartition("t", 0), MemoryRecords(data), max_record_bytes=limit, on_fault=print)
count = 0
while part:
    count += len(part.take(1_000))
print(count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize(
    ("codec", "limit"),
    [("snappy", 2**20), ("zstd", 2**20), ("zstd", 2**24)],
)
def test_a_batch_that_unpacks_to_much_more_than_it_is_stays_within_memory(
    codec: str, limit: int, tmp_path: Path
) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(batch(0, [record(number, b"k", bytes(8_000_000)) for number in range(16)], codec))
    command = [sys.executable, "-c", BOMB, codec, str(path), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    count, grown_kb = map(int, done.stdout.split())
    assert count == 16
    assert grown_kb < 100 * 1024
