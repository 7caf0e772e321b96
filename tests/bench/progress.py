"""How far a process has come and what it has cost, seen from outside: nothing is asked of the process itself."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import psutil
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tests.bench.workload import NUM_PARTITIONS

INTERVAL_S = 0.1
STALL_S = 60.0
# Of a topic that was made a moment ago.
_NOT_YET = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
)


class Sample(NamedTuple):
    at: float
    num_outputs: int
    """Records in the output topic."""
    cpu_s: float
    """User and system time of the process since it began."""
    rss_mb: float


class Steady(NamedTuple):
    """Rate and cost between two samples."""

    items_per_s: float
    cpu_us_per_item: float
    cores: float


class Watch:
    """Looks at a process and at the end of the topic it writes."""

    def __init__(self, bootstrap_servers: str, topic: str, child: subprocess.Popen[bytes]) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap_servers, "log_level": 0})
        self._partitions = [TopicPartition(topic, number) for number in range(NUM_PARTITIONS)]
        self._child = child
        self._last = 0
        self._process = psutil.Process(child.pid)

    def sample(self) -> Sample:
        if self._child.poll() is not None:
            raise RuntimeError(f"the process ended with {self._child.returncode}")
        num_outputs = self._num_outputs()
        with self._process.oneshot():
            cpu, memory = self._process.cpu_times(), self._process.memory_info()
            return Sample(time.monotonic(), num_outputs, cpu.user + cpu.system, memory.rss / 2**20)

    def _num_outputs(self) -> int:
        end = OffsetSpec.latest()  # type: ignore[no-untyped-call]
        latest = self._admin.list_offsets(dict.fromkeys(self._partitions, end))
        try:
            self._last = sum(future.result().offset for future in latest.values())
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET:
                raise
        return self._last

    def until(self, num_outputs: int, tell: Callable[[Sample], None] = lambda sample: None) -> list[Sample]:
        """Samples up to the first with that many outputs; each is told. Raises `TimeoutError` when nothing moves."""
        samples = [self.sample()]
        moved_at = samples[0].at
        while samples[-1].num_outputs < num_outputs:
            time.sleep(INTERVAL_S)
            samples.append(self.sample())
            tell(samples[-1])
            if samples[-1].num_outputs > samples[-2].num_outputs:
                moved_at = samples[-1].at
            elif samples[-1].at - moved_at > STALL_S:
                raise TimeoutError(f"no output for {STALL_S:g} s after {samples[-1].num_outputs}")
        return samples


def steady(samples: Sequence[Sample], first: int, last: int) -> Steady:
    """Between the first sample with `first` outputs and the last with at most `last`."""
    begin = next(sample for sample in samples if sample.num_outputs >= first)
    end = next(sample for sample in reversed(samples) if sample.num_outputs <= last)
    num_items, seconds, cpu_s = end.num_outputs - begin.num_outputs, end.at - begin.at, end.cpu_s - begin.cpu_s
    if num_items <= 0:
        raise ValueError(f"too few samples between {first} and {last} outputs: feed more items")
    return Steady(num_items / seconds, cpu_s / num_items * 1e6, cpu_s / seconds)
