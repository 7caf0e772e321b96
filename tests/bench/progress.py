"""How far a process has come and what it has cost, seen from outside: nothing is asked of the process itself."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from tests.bench.workload import NUM_PARTITIONS, Bed

INTERVAL_S = 0.1
STALL_S = 180.0
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
    anonymous_mb: float
    """Of it, what is not mapped from files."""
    broker_cpu_s: float
    """The same of our own Kafka; 0 if it is somebody else's."""
    others_cpu_s: float
    """Of everybody else on the machine, since some moment."""


class Steady(NamedTuple):
    """Rate and cost between two samples."""

    items_per_s: float
    cpu_us_per_item: float
    cores: float
    """CPU time of the process per second."""
    broker_us_per_item: float
    others_cores: float
    """CPU time per second of everybody else on the machine: what the rate suffered from."""


class Watch:
    """Looks at a process and at the end of the topic it writes."""

    def __init__(self, bed: Bed, topic: str, child: subprocess.Popen[bytes]) -> None:
        self._admin = AdminClient({"bootstrap.servers": bed.bootstrap_servers, "log_level": 0})
        self._partitions = [TopicPartition(topic, number) for number in range(NUM_PARTITIONS)]
        self._child = child
        self._process = psutil.Process(child.pid)
        self._brokers = [psutil.Process(pid) for pid in bed.broker_pids]
        self._last = 0

    def sample(self) -> Sample:
        if self._child.poll() is not None:
            raise RuntimeError(f"the process ended with {self._child.returncode}")
        num_outputs = self._num_outputs()
        cpu_s, broker_cpu_s = process_cpu_s(self._process), sum(map(process_cpu_s, self._brokers))
        ours_s = cpu_s + broker_cpu_s + time.process_time()
        anonymous_mb, mapped_mb = resident_mb(self._child.pid)
        return Sample(
            time.monotonic(), num_outputs, cpu_s, anonymous_mb + mapped_mb, anonymous_mb, broker_cpu_s,
            machine_cpu_s() - ours_s,
        )  # fmt: skip

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
    num_items, seconds = end.num_outputs - begin.num_outputs, end.at - begin.at
    if num_items <= 0:
        raise ValueError(f"too few samples between {first} and {last} outputs: feed more items")
    return Steady(
        items_per_s=num_items / seconds,
        cpu_us_per_item=(end.cpu_s - begin.cpu_s) / num_items * 1e6,
        cores=(end.cpu_s - begin.cpu_s) / seconds,
        broker_us_per_item=(end.broker_cpu_s - begin.broker_cpu_s) / num_items * 1e6,
        others_cores=(end.others_cpu_s - begin.others_cpu_s) / seconds,
    )


def resident_mb(pid: int) -> tuple[float, float]:
    """Memory of a process: anonymous, and mapped from files or shared."""
    status = Path(f"/proc/{pid}/status").read_text()
    kb = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
    return kb["RssAnon"] / 1024, (kb["RssFile"] + kb["RssShmem"]) / 1024


def process_cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def machine_cpu_s() -> float:
    """Time that the cores of the machine were busy, of all processes together."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq + getattr(times, "steal", 0.0))


def wait_quiet(limit_cores: float, timeout_s: float) -> None:
    """Until the machine does less than that for three seconds; at the time-out, go on all the same."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        before_s = machine_cpu_s()
        time.sleep(3)
        if (machine_cpu_s() - before_s) / 3 < limit_cores:
            return
