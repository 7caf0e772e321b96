"""How fast does a partition come back from its changelog, and where does the time go?

    python -m tests.bench.restore [--records 300000] [--bytes 300] [--rounds 3] [--json]

One partition of a changelog, read whole on the thread of this process, in turns by: the client alone, whose records are
dropped; the worker's adapter alone, which takes records out of batches by itself; the worker's restorer, into memory
and into a store on disk (`state.dir`). What one has more than the one before is the cost of what it does more. CPU time
is that of this process, all threads; the broker's comes beside it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from confluent_kafka import Producer
from kafka import KafkaConsumer
from kafka import TopicPartition as KafkaTopicPartition

from tests.bench.host import host_line
from tests.bench.parts import calm_interpreter
from tests.bench.progress import process_cpu_s
from tests.bench.workload import Bed, open_bed, rounds
from worker.kafka import make_client
from worker.kafka.port import Commit
from worker.loop.restore import READ_TIMEOUT_S, RestoreStage
from worker.partitions.tenure import Tenure
from worker.records import TopicPartition
from worker.settings import KafkaSettings, Settings, TopicSettings
from worker.state import Stores
from worker.topics import topics_of

TOPIC = "user-state"


class Figure(NamedTuple):
    per_s: float
    cpu_us: float
    """Of this process, per record."""
    broker_us: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--bytes", type=int, default=300, help="per value")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--variants", default=",".join(VARIANTS))
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host, names = host_line(), arguments.variants.split(",")
    found: dict[str, list[Figure]] = {name: [] for name in names}
    calm_interpreter()
    with open_bed(None) as bed:
        fill(bed, arguments.records, arguments.bytes)
        for _, name in rounds(names, arguments.rounds):
            found[name].append(measure(bed, VARIANTS[name], arguments.records))
    medians = {name: Figure(*map(statistics.median, zip(*figures, strict=True))) for name, figures in found.items()}
    if arguments.json:
        rows = {name: [each._asdict() for each in figures] for name, figures in found.items()}
        print(json.dumps({"host": host, "bytes": arguments.bytes, "rounds": rows}))
        return
    print(
        f"host: {host}\n{arguments.records:,} records of {arguments.bytes} bytes, median of {arguments.rounds} rounds"
    )
    print(f"{'':14} {'records/s':>10} {'CPU µs':>8} {'broker µs':>10}")
    for name, figure in medians.items():
        print(f"{name:14} {figure.per_s:10,.0f} {figure.cpu_us:8.2f} {figure.broker_us:10.2f}")


def fill(bed: Bed, count: int, num_bytes: int) -> None:
    bed.create_topics([TOPIC])
    options = {"bootstrap.servers": bed.bootstrap_servers, "linger.ms": 20, "log_level": 0}
    producer = Producer({**options, "queue.buffering.max.messages": 2_000_000})
    value = b"\x01\x00" + bytes(num_bytes - 2)
    for number in range(count):
        # No order of keys that a store could profit from: users come as they please.
        producer.produce(TOPIC, value, f"user-{number * 7_919 % count}".encode(), 0)
        producer.poll(0)
    if producer.flush(120):
        raise RuntimeError("the changelog was not written")


def measure(bed: Bed, variant: Callable[[Bed], int], count: int) -> Figure:
    brokers = [psutil.Process(pid) for pid in bed.broker_pids]
    started, cpu_s, broker_s = time.monotonic(), time.process_time(), sum(map(process_cpu_s, brokers))
    num_read = variant(bed)
    seconds, cpu_s = time.monotonic() - started, time.process_time() - cpu_s
    broker_s = sum(map(process_cpu_s, brokers)) - broker_s
    if num_read != count:
        raise RuntimeError(f"{num_read} records read, of {count}")
    return Figure(count / seconds, cpu_s / count * 1e6, broker_s / count * 1e6)


def client_alone(bed: Bed) -> int:
    """kafka-python as it is, with the worker's settings of it."""
    settings = KafkaSettings()
    consumer: Any = KafkaConsumer(
        bootstrap_servers=bed.bootstrap_servers, group_id=None, auto_offset_reset="earliest",
        isolation_level="read_committed", fetch_max_wait_ms=100, check_crcs=settings.check_crcs,
        metrics_enabled=False,
    )  # fmt: skip
    partition = KafkaTopicPartition(TOPIC, 0)
    consumer.assign([partition])
    end, num_read = consumer.end_offsets([partition])[partition], 0
    consumer.seek_to_beginning(partition)
    while consumer.position(partition) < end:
        num_read += sum(map(len, consumer.poll(500, max_records=5_000).values()))
    consumer.close()
    return num_read


def adapter_alone(bed: Bed) -> int:
    log = make_client(KafkaSettings(bootstrap_servers=bed.bootstrap_servers)).log()
    num_read = sum(map(len, log.read(TopicPartition(TOPIC, 0), None, timeout_s=READ_TIMEOUT_S)))
    log.close()
    return num_read


class _Role:
    """What the restorer asks of a role."""

    topics = topics_of("users", Settings(topics=TopicSettings(user_state=TOPIC)))

    def decode_state(self, value: bytes) -> Any:
        return value

    def recall(self, *_: Any) -> tuple[str, ...]:
        return ()


def restored(bed: Bed, directory: Path | None) -> int:
    stores = Stores(directory, TOPIC, "bench")
    client = make_client(KafkaSettings(bootstrap_servers=bed.bootstrap_servers))
    restorer = RestoreStage(client, _Role(), stores)  # type: ignore[arg-type]
    restorer.request(Tenure(TopicPartition("events", 0), Commit(0)))
    restorer.restore_next()
    (result,) = restorer.results()
    if result.error is not None:
        raise result.error
    restorer.close()
    stores.close()
    return restorer.num_records


def restored_to_disk(bed: Bed) -> int:
    with tempfile.TemporaryDirectory(prefix="align-restore-") as directory:
        return restored(bed, Path(directory))


VARIANTS: dict[str, Callable[[Bed], int]] = {
    "client": client_alone,
    "adapter": adapter_alone,
    "into memory": lambda bed: restored(bed, None),
    "onto disk": restored_to_disk,
}


if __name__ == "__main__":
    main()
