"""How soon is a worker ready, and what does it cost while nothing happens?

    python -m tests.bench.idle [--seconds 30] [--starts 3] [--json]

The real worker on a real Kafka with four empty partitions. Ready is the first 200 of /readyz after the process was
started, so importing, loading the space, warming up and joining the group are all in it.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import time
import urllib.error
import urllib.request
from typing import NamedTuple

import psutil

from tests.bench.host import host_line
from tests.bench.progress import process_cpu_s
from tests.bench.workload import Bed, open_bed, wait_until, worker

START_TIMEOUT_S = 120.0
SETTLE_S = 3.0


class Idle(NamedTuple):
    ready_s: float
    ready_cpu_s: float
    """CPU time that the start took."""
    cpu_share: float
    """Of one core, once ready."""
    rss_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="without traffic, once per start")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--bootstrap-servers", help="an existing Kafka, instead of one of our own")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    host = host_line()
    with open_bed(arguments.bootstrap_servers) as bed:
        bed.create_topics(["items"])
        found = [measure_idle(bed, arguments.seconds) for _ in range(arguments.starts)]
    median = Idle(*(statistics.median(values) for values in zip(*found, strict=True)))
    if arguments.json:
        print(json.dumps({"host": host, "starts": [each._asdict() for each in found], "median": median._asdict()}))
        return
    print(f"host: {host}\n{'ready s':>8} {'CPU s of it':>12} {'idle % of a core':>17} {'RSS MB':>7}")
    for each in (*found, median):
        print(
            f"{each.ready_s:8.2f} {each.ready_cpu_s:12.2f} {100 * each.cpu_share:17.2f} {each.rss_mb:7.0f}"
            f"{'  median' if each is median else ''}"
        )


def measure_idle(bed: Bed, seconds: float) -> Idle:
    port = free_port()
    environment = bed.worker_environment("items", http__port=port)
    started = time.monotonic()
    with worker(environment) as child:
        wait_until(lambda: is_ready(child, port), START_TIMEOUT_S, "ready")
        ready_s = time.monotonic() - started
        process = psutil.Process(child.pid)
        ready_cpu_s = process_cpu_s(process)
        time.sleep(SETTLE_S)
        begin, before_s = time.monotonic(), process_cpu_s(process)
        time.sleep(seconds)
        share = (process_cpu_s(process) - before_s) / (time.monotonic() - begin)
        return Idle(ready_s, ready_cpu_s, share, process.memory_info().rss / 2**20)


def is_ready(child: subprocess.Popen[bytes], port: int) -> bool:
    if child.poll() is not None:
        raise RuntimeError(f"the worker ended with {child.returncode}")
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{port}/readyz", timeout=1
        ):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


if __name__ == "__main__":
    main()
