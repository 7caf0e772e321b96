"""Batches as brokers send them, and the records in them. Pure: bytes in, records or a `Fault` out.

Nothing that a batch says of itself is believed before it has been checked, and no more is unpacked at a time than a
piece of it and a record (`worker.kafka.decompression`).
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from crc32c import crc32c

from worker.kafka.decompression import CODECS, BrokenDataError, pieces
from worker.records import Headers, OversizedRecord

_HEADER = struct.Struct(">qiibIhiqqqhii")
_AFTER_LENGTH = 12
_ATTRIBUTES = 21  # where the checksum's part begins
_OLD_OVERHEAD = (14, 22)  # behind the length, by format: checksum, format, attributes, time, and two lengths
MAGIC = 2
"""Version of the format in which all brokers since 0.11 keep and send batches."""
GROUP_RECORDS = 4_096
"""Most records that are made of a batch at a time."""
MAX_HEADERS = 10_000
"""Headers of one record that are looked at. They take twenty times their size in memory."""
_KEPT_BYTES = 2**16
"""Bytes kept of the key, and of the headers, of a record whose value is not kept."""
_VARINT_BYTES = 10
_MAX_INT32 = 2**31 - 1
_MAX_OLD_BYTES = 64 * 2**20  # that a batch of an old format unpacks to, as a whole


class Fault(Exception):  # noqa: N818  # a finding about data, for the reader to make an error of
    """Why a batch cannot be read."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        """One of `errors.BATCH_FAULTS`."""
        self.detail = detail


class FetchedRecord(NamedTuple):
    """Satisfies `worker.records.Record`."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Headers


class Batch(NamedTuple):
    """A batch of the present format. The names are those by which the client asks for them."""

    base_offset: int
    length: int
    leader_epoch: int
    magic: int
    crc: int
    attributes: int
    last_offset_delta: int
    first_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    num_records: int
    data: memoryview
    """All of it."""

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.last_offset + 1

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & 0x10)

    @property
    def is_control_batch(self) -> bool:
        return bool(self.attributes & 0x20)

    def has_producer_id(self) -> bool:
        return self.producer_id > -1

    def aborts(self) -> bool:
        """Whether a control batch ends a transaction in vain. Its only record's key says so."""
        for records in unpacked(self, "", 0, 2**20):
            key = records[0].key
            return key is not None and len(key) >= 4 and key[2:4] == b"\0\0"
        return False


class OldBatch(NamedTuple):
    """One of the formats before 0.11: a message, or several behind one that is compressed."""

    base_offset: int
    magic: int
    data: memoryview

    @property
    def next_offset(self) -> int:
        return self.base_offset + 1


def slices(data: memoryview) -> Iterator[memoryview]:
    """The bytes of each batch; without the last one where the broker has cut it.

    Raises `Fault` where the bytes cannot be divided any further.
    """
    pos, end = 0, len(data)
    while end - pos > _AFTER_LENGTH:
        (length,) = struct.unpack_from(">i", data, pos + 8)
        if length < _OLD_OVERHEAD[0]:
            raise Fault("length", f"a batch gives its length as {length}")
        following = pos + _AFTER_LENGTH + length
        if following > end:
            return
        yield data[pos:following]
        pos = following


def checked(data: memoryview, *, check_crc: bool) -> Batch | OldBatch:
    """The batch in these bytes, whose header makes sense. Raises `Fault`."""
    magic = data[16]
    if magic < MAGIC:
        return _checked_old(data, magic, check_crc=check_crc)
    if magic > MAGIC:
        raise Fault("format", f"its format is {magic}, which is not known")
    if len(data) < _HEADER.size:
        raise Fault("length", f"it has {len(data)} bytes, fewer than its header takes")
    batch = Batch._make((*_HEADER.unpack_from(data), data))
    if check_crc and crc32c(data[_ATTRIBUTES:]) != batch.crc:
        raise Fault("checksum", "its checksum is wrong")
    if batch.attributes & 7 and batch.attributes & 7 not in CODECS:
        raise Fault("codec", f"its compression is {batch.attributes & 7}, which is not known")
    if batch.base_offset < 0 or batch.last_offset_delta < 0 or batch.num_records < 0:
        raise Fault("records", "its offsets or its number of records are negative")
    return batch


def unpacked(
    batch: Batch, topic: str, partition: int, max_record_bytes: int, budget: Budget | None = None
) -> Iterator[list[FetchedRecord | OversizedRecord]]:
    """The records of a batch in groups, none of them empty. Raises `Fault` where it cannot be read on."""
    feed = _Feed(batch, budget or Budget())
    appended = batch.max_timestamp if batch.attributes & 8 else None
    num_left, lowest = batch.num_records, batch.base_offset
    base, base_time, highest = batch.base_offset, batch.first_timestamp, batch.last_offset
    max_number = 2 * max_record_bytes
    while num_left:
        data, pos = feed.rest()
        size = len(data)
        records: list[FetchedRecord | OversizedRecord] = []
        add = records.append
        is_oversized = False
        try:
            for _ in range(min(num_left, GROUP_RECORDS)):
                # Each number is zigzag-encoded, and nearly all fit the one byte that is read in place: calls would
                # cost more than everything else here together.
                start = pos
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                end = pos + (number >> 1)
                if number > max_number or end > size:
                    is_oversized, pos = number > max_number and not number & 1, start
                    if number & 1:
                        raise Fault("records", "the length of a record is negative")
                    break
                number, pos = data[pos + 1], pos + 2  # behind the attributes, of which none is defined
                if number > 127:
                    number, pos = _rest(data, pos, number)
                timestamp = base_time + ((number >> 1) ^ -(number & 1)) if appended is None else appended
                number, pos = data[pos], pos + 1
                if number > 127:
                    number, pos = _rest(data, pos, number)
                offset = base + (number >> 1)
                if offset < lowest or number & 1:
                    raise Fault("records", f"a record has offset {offset}, which is not behind the one before it")
                lowest = offset + 1
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
                headers: Headers
                if number:
                    count, after = _length(data, pos - 1)
                    if count > MAX_HEADERS:
                        is_oversized, pos, lowest = True, start, offset
                        break
                    headers, pos = _headers(data, after, count)
                else:
                    headers = ()
                if pos != end:
                    raise Fault("records", f"the record at offset {offset} is not as long as it says")
                add(FetchedRecord(topic, partition, offset, timestamp, key, value, headers))
            fault = None
        except Fault as error:
            fault = error
        except IndexError:
            # A number that is cut off by the end of the piece, or by lengths that lie.
            fault, pos = Fault("records", "a record ends before its fields do"), start
            if size - start <= _VARINT_BYTES and not feed.is_whole:
                fault = None
        num_left -= len(records)
        if records:
            if records[-1].offset > highest:
                raise Fault("records", f"a record has offset {records[-1].offset}, behind the batch's last, {highest}")
            yield records
        if fault is not None:
            raise fault
        feed.advance(pos)
        if is_oversized:
            oversized = _oversized(feed, topic, partition, batch, lowest)
            if oversized.offset > highest:
                raise Fault("records", f"a record has offset {oversized.offset}, behind the batch's last, {highest}")
            lowest = oversized.offset + 1
            num_left -= 1
            yield [oversized]
        elif num_left and not (records and len(records) == GROUP_RECORDS) and not feed.more():
            raise Fault("records", f"it ends {num_left} records before it says")
    if num_behind := feed.num_behind():
        raise Fault("records", f"there are {num_behind} bytes or more behind its last record")


class Budget:
    """How much has been unpacked, for who has to give others their turn."""

    __slots__ = ("num_bytes",)

    def __init__(self) -> None:
        self.num_bytes = 0


class _Feed:
    """The bytes of a batch's records, as far as they have been unpacked and not yet used."""

    def __init__(self, batch: Batch, budget: Budget) -> None:
        packed = bytes(batch.data[_HEADER.size :])
        codec = batch.attributes & 7
        self._budget = budget
        self._pieces = pieces(codec, packed) if codec else iter(())
        self._data, self._pos = (b"", 0) if codec else (packed, 0)
        self._num_dropped = 0
        self.is_whole = not codec
        """There is nothing left to unpack."""

    def rest(self) -> tuple[bytes, int]:
        return self._data, self._pos

    def advance(self, pos: int) -> None:
        self._pos = pos

    def more(self) -> bool:
        """Unpack another piece; False where there is none."""
        if self.is_whole:
            return False
        try:
            piece = next(self._pieces, None)
        except BrokenDataError as error:
            raise Fault("data", f"its records {error}") from error
        if piece is None:
            self.is_whole = True
            return False
        self._budget.num_bytes += len(piece)
        self._num_dropped += self._pos
        self._data = self._data[self._pos :] + piece if self._pos < len(self._data) else piece
        self._pos = 0
        return True

    @property
    def num_used(self) -> int:
        return self._num_dropped + self._pos

    def num_behind(self) -> int:
        """Bytes that are left over, as far as they have been unpacked."""
        while self._pos >= len(self._data) and self.more():
            pass
        return len(self._data) - self._pos

    def number(self) -> int:
        while len(self._data) - self._pos < _VARINT_BYTES and self.more():
            pass
        try:
            number, self._pos = _length(self._data, self._pos)
        except IndexError:
            raise Fault("records", "it ends in the middle of a record") from None
        return number

    def take(self, count: int) -> bytes:
        while len(self._data) - self._pos < count and self.more():
            pass
        taken = self._data[self._pos : self._pos + count]
        self._pos += len(taken)
        if len(taken) < count:
            raise Fault("records", "it ends in the middle of a record")
        return taken

    def skip(self, count: int, note: Callable[[memoryview], None] = lambda passed: None) -> None:
        while count:
            if self._pos >= len(self._data) and not self.more():
                raise Fault("records", "it ends in the middle of a record")
            passed = memoryview(self._data)[self._pos : self._pos + count]
            note(passed)
            self._pos += len(passed)
            count -= len(passed)


def _oversized(feed: _Feed, topic: str, partition: int, batch: Batch, lowest: int) -> OversizedRecord:
    """A record that is not kept: where it lies, its key and headers unless they are large, too, and its value's
    digest."""
    num_bytes = feed.number()
    if num_bytes > _MAX_INT32:
        raise Fault("records", f"the length of a record is {num_bytes}")
    end = feed.num_used + num_bytes
    feed.take(1)
    delta, offset = feed.number(), batch.base_offset + feed.number()
    if offset < lowest:
        raise Fault("records", f"a record has offset {offset}, which is not behind the one before it")
    key, key_bytes, digest = None, feed.number(), hashlib.sha256()
    _refuse_beyond(feed, end, key_bytes, offset)
    if 0 <= key_bytes <= _KEPT_BYTES:
        key = feed.take(key_bytes)
    elif key_bytes > 0:
        feed.skip(key_bytes)
    value_bytes = feed.number()
    _refuse_beyond(feed, end, value_bytes, offset)
    if value_bytes > 0:
        feed.skip(value_bytes, digest.update)
    headers: Headers = ()
    _refuse_beyond(feed, end, 1, offset)
    left = end - feed.num_used
    if left <= _KEPT_BYTES:
        headers = _small_headers(feed.take(left), offset)
    else:
        feed.skip(left)
    timestamp = batch.max_timestamp if batch.attributes & 8 else batch.first_timestamp + delta
    sha256 = digest.digest() if value_bytes >= 0 else None
    return OversizedRecord(topic, partition, offset, timestamp, key, None, headers, num_bytes, value_bytes, sha256)


def _refuse_beyond(feed: _Feed, end: int, count: int, offset: int) -> None:
    if feed.num_used + max(0, count) > end:
        raise Fault("records", f"the record at offset {offset} is not as long as it says")


def _small_headers(data: bytes, offset: int) -> Headers:
    try:
        count, pos = _length(data, 0)
        headers, pos = _headers(data, pos, count) if count <= MAX_HEADERS else ((), len(data))
    except IndexError:
        pos = -1
    if pos != len(data):
        raise Fault("records", f"the record at offset {offset} is not as long as it says")
    return headers


def _rest(data: bytes, pos: int, first: int) -> tuple[int, int]:
    """A number, still zigzag-encoded, of which `first` is the byte before `pos`; and the position behind it."""
    number, shift = first & 127, 7
    while shift < 7 * _VARINT_BYTES:
        byte = data[pos]
        pos += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, pos
        shift += 7
    raise Fault("records", "a number in it does not end")


def _headers(data: bytes, pos: int, count: int) -> tuple[Headers, int]:
    """Names that are not UTF-8 come out as `surrogateescape` has them, and so can be written again as they were."""
    if count < 0:
        raise Fault("records", "the number of headers of a record is negative")
    headers: list[tuple[str, bytes | None]] = []
    for _ in range(count):
        size, pos = _length(data, pos)
        if size < 0:
            raise Fault("records", "the length of a header's name is negative")
        name, pos = data[pos : pos + size].decode(errors="surrogateescape"), pos + size
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


# ---------------------------------------------------------------------- formats of brokers before 0.11


def _checked_old(data: memoryview, magic: int, *, check_crc: bool) -> OldBatch:
    if len(data) < _AFTER_LENGTH + _OLD_OVERHEAD[magic]:
        raise Fault("length", f"it has {len(data)} bytes, fewer than its header takes")
    (crc,) = struct.unpack_from(">I", data, _AFTER_LENGTH)
    if check_crc and zlib.crc32(data[_AFTER_LENGTH + 4 :]) != crc:
        raise Fault("checksum", "its checksum is wrong")
    base_offset = int.from_bytes(data[:8], "big", signed=True)
    if base_offset < 0:
        raise Fault("records", "its offset is negative")
    return OldBatch(base_offset, magic, data)


def unpacked_old(batch: OldBatch, topic: str, partition: int) -> list[FetchedRecord]:
    """The records of a batch of an old format, which topics of old brokers may still hold. Raises `Fault`."""
    data, magic, codec = bytes(batch.data), batch.magic, batch.data[17] & 7
    timestamp, key, value = _old_fields(data, magic)
    if not codec:
        return [FetchedRecord(topic, partition, batch.base_offset, timestamp, key, value, ())]
    inner = _unpacked_whole(value, codec, magic)
    found = []
    try:
        for message in slices(memoryview(inner)):
            if message[16] != magic or message[17] & 7:
                raise Fault("format", "it holds messages of another format")
            offset = _checked_old(message, magic, check_crc=True).base_offset
            found.append((offset, *_old_fields(bytes(message), magic)))
    except IndexError:
        raise Fault("records", "a message ends before its fields do") from None
    if not found:
        raise Fault("records", "it holds no message")
    # Of the second format offsets count from the first message, and the batch has that of its last.
    base = batch.base_offset - found[-1][0] if magic else 0
    if data[17] & 8:
        found = [(offset, timestamp, key, value) for offset, _, key, value in found]
    return [
        FetchedRecord(topic, partition, base + offset, timestamp, key, value, ())
        for offset, timestamp, key, value in found
    ]


def _old_fields(data: bytes, magic: int) -> tuple[int, bytes | None, bytes | None]:
    """Time, key and value of a message; what is behind them is an error."""
    timestamp, pos = (-1, 18) if magic == 0 else (int.from_bytes(data[18:26], "big", signed=True), 26)
    fields: list[bytes | None] = []
    for _ in range(2):
        size = int.from_bytes(data[pos : pos + 4], "big", signed=True)
        pos += 4
        fields.append(None if size < 0 else data[pos : pos + size])
        pos += max(0, size)
    if pos != len(data):
        raise Fault("records", "a message is not as long as it says")
    return timestamp, fields[0], fields[1]


def _unpacked_whole(value: bytes | None, codec: int, magic: int) -> bytes:
    if codec not in CODECS or codec == 4 or (codec == 3 and magic == 0):
        raise Fault("codec", f"its compression is {codec}, which is not known in its format")
    made = bytearray()
    try:
        for piece in pieces(codec, value or b""):
            made += piece
            if len(made) > _MAX_OLD_BYTES:
                raise Fault("too_large", f"it unpacks to more than {_MAX_OLD_BYTES} bytes")
    except BrokenDataError as error:
        raise Fault("data", f"its records {error}") from error
    return bytes(made)
