"""What lies in the log stops its partition at most: torn batches on a broker's disk, odd headers, and bombs."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from confluent_kafka import Producer
from crc32c import crc32c

from schemas import DeadLetter, Reason, decode
from tests.brokers import Outgoing, RealKafka
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.stream import Stream, names
from tests.integration.test_dead_letters import flags
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import as_text
from worker.__main__ import main
from worker.errors import UnreadableError
from worker.kafka import make_client
from worker.records import TopicPartition
from worker.settings import load

pytestmark = pytest.mark.real_kafka
RETRY_S = 1.0


@pytest.fixture(autouse=True)
def _retries_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.loop.read_faults.UNREADABLE_RETRY_S", RETRY_S)
    monkeypatch.setattr("worker.kafka.kafka_python.reader.UNREADABLE_RETRY_S", RETRY_S)
    monkeypatch.setattr("worker.kafka.confluent_kafka.reader.UNREADABLE_RETRY_S", RETRY_S)


@pytest.fixture
def stream(make_stream: Callable[..., Stream], own_kafka: RealKafka) -> Stream:
    return make_stream(own_kafka)


def batches(segment: bytes) -> Iterator[tuple[int, int, int]]:
    """First offset, and where it begins and ends, of each batch in a file of the log."""
    pos = 0
    while pos + 12 <= len(segment):
        base, length = struct.unpack_from(">qi", segment, pos)
        yield base, pos, pos + 12 + length
        pos += 12 + length


def damage(kafka: RealKafka, topic: str, partition: int, offset: int, mend: Callable[[bytearray], None]) -> None:
    """Change the bytes of the batch that begins at an offset, as they lie on the broker's disk."""
    deadline = time.monotonic() + 30
    while True:
        (path,) = kafka.data_directory().rglob(f"{topic}-{partition}/{0:020}.log")
        segment = bytearray(path.read_bytes())
        found = [(begin, end) for base, begin, end in batches(segment) if base == offset and end <= len(segment)]
        if found:
            break
        assert time.monotonic() < deadline, f"no batch at offset {offset}"
        time.sleep(0.05)
    ((begin, end),) = found
    batch = segment[begin:end]
    mend(batch)
    with path.open("r+b") as file:
        file.seek(begin)
        file.write(batch)
        file.flush()
        os.fsync(file.fileno())


def flip(batch: bytearray) -> None:
    batch[-20] ^= 1


def unknown_codec(batch: bytearray) -> None:
    batch[22] |= 7
    batch[17:21] = crc32c(bytes(batch[21:])).to_bytes(4, "big")


def feed_one_by_one(stream: Stream, items: list[str], partition: int) -> None:
    """Each in a batch of its own."""
    for name in items:
        stream.feed([stream.upsert(name, partition=partition)])


def published(stream: Stream) -> set[str]:
    return {name for name, _ in stream.published()}


def feed_in_one_batch(stream: Stream, records: list[Outgoing], codec: str) -> None:
    """Together, as they are when a producer waits for more; only packed do they fit the topic."""
    failed: list[object] = []
    producer = Producer(
        {
            "bootstrap.servers": stream.broker.bootstrap_servers,
            "compression.type": codec,
            "linger.ms": 2_000,
            "batch.size": 2**31 - 1,
            "message.max.bytes": 10**9,
            "queue.buffering.max.kbytes": 2**21 - 1,
            "log_level": 0,
        }
    )
    for record in records:
        producer.produce(
            record.topic, record.value, record.key, record.partition,
            on_delivery=lambda error, message: failed.append(error) if error else None,
        )  # fmt: skip
    assert producer.flush(60) == 0
    assert not failed, failed


@pytest.mark.parametrize("mend", [flip, unknown_codec])
def test_a_torn_batch_stops_its_partition_until_it_is_left_out(
    stream: Stream, own_kafka: RealKafka, mend: Callable[[bytearray], None], capsys: pytest.CaptureFixture[str]
) -> None:
    torn, other = [f"torn-{n}" for n in range(4)], list(names(50))
    feed_one_by_one(stream, torn, 0)
    damage(own_kafka, stream.items, 0, 2, mend)
    with WorkerThread(stream.settings()) as worker:
        worker.wait_ready()
        stream.feed(stream.upsert(name, partition=1) for name in other)
        worker.until(lambda: worker.items.accounting.published >= 52)
        worker.until(lambda: f"{stream.items}/0@2" in worker.items.partitions[0].detail)
        assert worker.items.partitions[1].state == "running"
        assert worker.service.health.livez().ok
        assert worker.service.health.readyz().ok
        assert worker.metric("align_unreadable_offset", topic=stream.items, partition="0") == 2
        worker.until(lambda: worker.items.partitions[0].committed == 2)

        skip = ["dlq", "skip", f"{stream.items}/0@2", *flags(stream)]
        assert main(skip) == 1
        captured = capsys.readouterr()
        assert "offset 2 cannot be read" in captured.out
        assert "--yes" in captured.err
        assert main([*skip, "--yes"]) == 0
        worker.until(lambda: worker.items.accounting.published >= 53)
        worker.until(lambda: worker.items.partitions[0].committed == 4)
        worker.until(lambda: worker.items.partitions[0].detail == "")
    assert published(stream) == {"torn-0", "torn-1", "torn-3", *other}
    (letter,) = [decode(DeadLetter, record.value) for record in stream.letter_records()]
    assert (letter.topic, letter.partition, letter.offset, letter.reason) == (stream.items, 0, 2, Reason.UNREADABLE)
    assert letter.value is not None
    assert len(letter.value) == letter.original_bytes
    assert main(["dlq", "skip", f"{stream.items}/0@3", *flags(stream)]) != 0


@BOTH_LIBRARIES
def test_a_batch_left_out_before_the_worker_starts(stream: Stream, own_kafka: RealKafka) -> None:
    feed_one_by_one(stream, ["a", "b", "c"], 0)
    damage(own_kafka, stream.items, 0, 0, flip)
    damage(own_kafka, stream.items, 0, 2, flip)
    for offset in (0, 2):  # the last one has none behind it
        assert main(["dlq", "skip", f"{stream.items}/0@{offset}", "--yes", *flags(stream)]) == 0
    stream.feed([stream.upsert("d", partition=0)])
    with WorkerThread(stream.settings()) as worker:
        worker.until(lambda: worker.items.accounting.published == 2)
        worker.until(lambda: worker.items.partitions[0].committed == 4)
    assert published(stream) == {"b", "d"}


def test_a_torn_changelog_keeps_its_partition_restoring(stream: Stream, own_kafka: RealKafka) -> None:
    for partition in (0, 1):
        stream.feed([stream.upsert(f"first-{partition}", partition=partition)])
    with WorkerThread(stream.settings()) as worker:
        worker.until(lambda: worker.items.accounting.published == 2)
        worker.until(lambda: worker.items.accounting.in_flight == 0)
    damage(own_kafka, stream.state, 0, 0, flip)
    for partition in (0, 1):
        stream.feed([stream.upsert(f"second-{partition}", partition=partition)])
    with WorkerThread(stream.settings()) as worker:
        worker.until(lambda: worker.items.accounting.published == 1)
        worker.until(lambda: f"{stream.state}/0@0" in worker.items.partitions[0].detail)
        assert worker.items.partitions[0].state == "restoring"
        assert main(["dlq", "skip", f"{stream.state}/0@0", "--yes", *flags(stream)]) == 0
        worker.until(lambda: worker.items.accounting.published == 2)
    assert {"second-0", "second-1"} <= published(stream)


def test_a_run_until_caught_up_does_all_else_and_says_what_it_cannot_read(stream: Stream, own_kafka: RealKafka) -> None:
    feed_one_by_one(stream, ["a", "b", "c"], 0)
    damage(own_kafka, stream.items, 0, 1, flip)
    stream.feed([stream.upsert("other", partition=1)])
    with WorkerThread(stream.settings(), until_caught_up=True) as worker:
        error = worker.failure()
    assert isinstance(error, UnreadableError)
    assert error.offset == 1
    assert published(stream) == {"a", "other"}


def test_dead_letters_beside_a_torn_batch_are_listed(
    stream: Stream, own_kafka: RealKafka, capsys: pytest.CaptureFixture[str]
) -> None:
    for partition in (0, 1):
        for number in range(2):
            stream.feed([stream.record(b"k%d" % number, b"\xc1", partition=partition)])
    with WorkerThread(stream.settings()) as worker:
        worker.until(lambda: worker.items.accounting.dead_lettered == 4)
    (partition, offset), *_ = sorted((record.partition, record.offset) for record in stream.letter_records())
    damage(own_kafka, stream.letters, partition, offset, flip)
    assert main(["dlq", "list", *flags(stream)]) == 14
    captured = capsys.readouterr()
    assert f"{stream.letters}/{partition}@{offset}" in captured.err
    assert main(["dlq", "skip", f"{stream.letters}/{partition}@{offset}", "--yes", *flags(stream)]) == 0
    assert main(["dlq", "list", *flags(stream)]) == 0


@BOTH_LIBRARIES
def test_item_vectors_are_followed_past_a_torn_partition(stream: Stream, own_kafka: RealKafka) -> None:
    for partition in (0, 1):
        feed_one_by_one(stream, [f"{partition}-a", f"{partition}-b"], partition)
    damage(own_kafka, stream.items, 0, 1, flip)
    client = make_client(load({name: as_text(value) for name, value in stream.settings().items()}).kafka)
    client.connect()
    reader = client.reader(stream.items)
    try:
        keys: list[bytes] = []
        deadline = time.monotonic() + 60
        while not (reader.num_behind() == 0 and reader.unreadable()):
            keys += [record.key for record in reader.poll(200)]
            assert time.monotonic() < deadline
        assert sorted(keys) == [b"0-a", b"1-a", b"1-b"]
        (error,) = reader.unreadable()
        assert (error.partition, error.offset) == (0, 1)
        client.leave_out(TopicPartition(stream.items, 0), 1, 2)
        stream.feed([stream.upsert("0-c", partition=0)])
        while b"0-c" not in keys:
            keys += [record.key for record in reader.poll(200)]
            assert time.monotonic() < deadline
        assert not reader.unreadable()
    finally:
        reader.close()


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_a_bomb_becomes_dead_letters_one_by_one(stream: Stream, codec: str) -> None:
    large = bytes(8_000_000)
    records = [stream.record(b"large-%d" % number, large, partition=0) for number in range(2)]
    records.append(stream.upsert("small", partition=0))
    feed_in_one_batch(stream, records, codec)
    with WorkerThread(stream.settings({"kafka.max_record_bytes": 2**20})) as worker:
        worker.until(lambda: worker.items.accounting.dead_lettered == 2)
        worker.until(lambda: worker.items.accounting.published == 1)
    letters = stream.dead_letters()
    assert [letter.key for letter in letters] == [b"large-%d" % number for number in range(2)]
    assert {letter.reason for letter in letters} == {Reason.TOO_LARGE}
    assert all((letter.value, (letter.original_bytes or 0) > 8_000_000) == (None, True) for letter in letters)
