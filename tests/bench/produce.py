"""What does a record cost on its way into the log, through the client alone and through the worker's adapter?

    python -m tests.bench.produce [--records 60000] [--bytes 3800] [--rounds 3] [--json]

Both send the same records to a partition in groups of 128, hear of each what became of it, and take turns. CPU time is
that of this process, all threads, from the first `send` to the last receipt; beside it what the calls of `send` took.
"""

from __future__ import annotations

import argparse
import json
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tests.bench.host import host_line
from tests.bench.parts import calm_interpreter
from tests.bench.workload import open_bed, rounds
from worker.errors import WorkerError
from worker.kafka import make_client
from worker.kafka.kafka_python.producer import KafkaPythonProducer
from worker.kafka.port import Outbound
from worker.settings import KafkaSettings

GROUP = 128
TIMEOUT_S = 120.0


class Receipts:
    """Of all records together."""

    def __init__(self, num_records: int) -> None:
        self._num_left = num_records
        self._error: WorkerError | None = None
        self._settled = threading.Event()

    def acknowledged(self, offset: int, count: int = 1) -> None:
        self._num_left -= count
        if self._num_left == 0:
            self._settled.set()

    def failed(self, error: WorkerError) -> None:
        self._error = error
        self._settled.set()

    def wait(self) -> None:
        if not self._settled.wait(TIMEOUT_S):
            raise TimeoutError(f"{self._num_left} records have no receipt after {TIMEOUT_S:g} s")
        if self._error is not None:
            raise self._error


class Figure(NamedTuple):
    cpu_us: float
    """Per record."""
    send_us: float
    """Of it in `send`, on the thread that calls it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=60_000)
    parser.add_argument("--bytes", type=int, default=3_800, help="per value")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host = host_line()
    found: dict[str, list[Figure]] = {name: [] for name in SENDS}
    calm_interpreter()
    with open_bed(None) as bed:
        for number, name in rounds(list(SENDS), arguments.rounds):
            topic = f"{name}-{number}"
            bed.create_topics([topic])
            found[name].append(measure(bed.bootstrap_servers, topic, name, arguments.records, arguments.bytes))
    medians = {name: Figure(*map(statistics.median, zip(*each, strict=True))) for name, each in found.items()}
    if arguments.json:
        print(json.dumps({"host": host, **{name: each._asdict() for name, each in medians.items()}}))
        return
    print(f"host: {host}\n{arguments.records} records of {arguments.bytes} bytes, median of {arguments.rounds} rounds")
    print(f"{'':<10}{'CPU µs/record':>15}{'of it in send':>15}")
    for name, each in medians.items():
        print(f"{name:<10}{each.cpu_us:15.1f}{each.send_us:15.1f}")


def measure(bootstrap_servers: str, topic: str, name: str, num_records: int, num_bytes: int) -> Figure:
    producer = make_client(KafkaSettings(bootstrap_servers=bootstrap_servers)).producer()
    assert isinstance(producer, KafkaPythonProducer)
    send, value = SENDS[name](producer), bytes(num_bytes)
    try:
        _send_all(send, topic, value, GROUP)  # what there is to do once
        started_s, in_send_s = time.process_time(), _send_all(send, topic, value, num_records)
        return Figure(*(seconds / num_records * 1e6 for seconds in (time.process_time() - started_s, in_send_s)))
    finally:
        producer.close(10.0)


def _send_all(send: Callable[[Sequence[Outbound]], None], topic: str, value: bytes, num_records: int) -> float:
    """Returns the seconds of this thread in `send`, once all is acknowledged."""
    receipts, in_send_s = Receipts(num_records), 0.0
    for first in range(0, num_records, GROUP):
        numbers = range(first, min(first + GROUP, num_records))
        records = [Outbound(topic, 0, b"item-%08d" % number, value, (), receipts) for number in numbers]
        before_s = time.thread_time()
        send(records)
        in_send_s += time.thread_time() - before_s
    receipts.wait()
    return in_send_s


def _through_the_client(producer: KafkaPythonProducer) -> Callable[[Sequence[Outbound]], None]:
    own: Any = producer._producer

    def send(outbound: Sequence[Outbound]) -> None:
        for topic, partition, key, value, _, receipt in outbound:
            future = own.send(topic, value, key, [], partition)
            future.add_callback(_acknowledge, receipt).add_errback(_fail, receipt)

    return send


def _acknowledge(receipt: Any, metadata: Any) -> None:
    receipt.acknowledged(metadata.offset)


def _fail(receipt: Any, error: BaseException) -> None:
    receipt.failed(WorkerError(str(error)))


SENDS: dict[str, Callable[[KafkaPythonProducer], Callable[[Sequence[Outbound]], None]]] = {
    "client": _through_the_client,
    "adapter": lambda producer: producer.send,
}


if __name__ == "__main__":
    main()
