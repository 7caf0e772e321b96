"""The Kafka client behind its port, where the library by itself does something else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager

from tests.integration.stream import Stream, names
from tests.worker_process import as_text
from worker.kafka import Commit, ConsumerPort, make_client
from worker.records import TopicPartition
from worker.settings import load

NUM_PER_PARTITION = 60
FEW = 10


class Listener:
    def __init__(self) -> None:
        self.partitions: set[TopicPartition] = set()

    def assigned(self, partitions: Collection[TopicPartition]) -> None:
        self.partitions |= set(partitions)

    def revoked(self, partitions: Collection[TopicPartition]) -> Mapping[TopicPartition, Commit]:
        self.partitions -= set(partitions)
        return {}

    def lost(self, partitions: Collection[TopicPartition]) -> None:
        self.partitions -= set(partitions)


@contextmanager
def member(stream: Stream) -> Iterator[ConsumerPort]:
    settings = load({name: as_text(value) for name, value in stream.settings().items()})
    consumer = make_client(settings.kafka).consumer()
    try:
        consumer.subscribe([stream.items], Listener())
        yield consumer
    finally:
        consumer.close(2.0)


def poll_until(
    consumer: ConsumerPort, seen: Counter[TopicPartition], condition: Callable[[], bool], max_records: int
) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, seen
        for partition, records in consumer.poll(200, max_records).items():
            seen[TopicPartition(*partition)] += len(records)


def test_a_partition_that_was_paused_with_records_at_hand_goes_on_after_it(stream: Stream) -> None:
    """The library puts the records aside and, once another partition has been read meanwhile, forgets them: the
    partition stands still for ever."""
    for partition in range(2):
        in_one_batch = (stream.upsert(name, partition=partition) for name in names(NUM_PER_PARTITION))
        stream.feed(in_one_batch, linger_ms=500)
    seen: Counter[TopicPartition] = Counter()
    with member(stream) as consumer:
        poll_until(consumer, seen, lambda: seen.total() > 0, FEW)
        (halted,) = seen
        consumer.pause([halted])
        (other,) = {TopicPartition(stream.items, partition) for partition in range(2)} - {halted}
        poll_until(consumer, seen, lambda: seen[other] == NUM_PER_PARTITION, FEW)
        assert seen[halted] == FEW
        consumer.resume([halted])
        poll_until(consumer, seen, lambda: seen[halted] == NUM_PER_PARTITION, FEW)
