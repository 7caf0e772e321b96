"""The worker as its operators meet it: signals, exit codes, start-up errors, probes, and what it costs at rest."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.conftest import StreamMaker, worker_on
from tests.brokers import Broker, RealKafka
from tests.brokers.broker import embedded, real
from tests.integration.stream import SHORT_SESSION, Stream, names
from tests.worker_process import ROOT, WorkerProcess
from worker.kafka.embedded import EmbeddedBroker

pytestmark = pytest.mark.acceptance

DRAIN_TIMEOUT_S = 20.0
NUM_ITEMS = 12_000
SLOW = {"batch.max_records": 8, "batch.queue_records": 64}
"""Else all is done before a signal arrives."""


@pytest.fixture
def own_embedded() -> Iterator[EmbeddedBroker]:
    """For tests that slow the broker, or take it away."""
    with EmbeddedBroker() as broker:
        yield broker


# ---------------------------------------------------------------------- the end


def test_sigterm_mid_stream_drains_commits_and_leaves_the_rest(make_stream: StreamMaker, broker: Broker) -> None:
    stream = make_stream(broker, 4)
    stream.feed_items(names(NUM_ITEMS))
    with worker_on(stream, SLOW) as first:
        first.wait_until(lambda: first.metric("align_records_published_total") > 500, name="publishing")
        first.signal(signal.SIGTERM)
        started = time.monotonic()
        assert first.wait(DRAIN_TIMEOUT_S + 10) == 0
        took_s = time.monotonic() - started
        draining, drained = first.logged("drain")[0]["message"], first.logged("drained")[0]["message"]
    print(f"{draining}; {drained} after {took_s:.1f} s")
    assert took_s < DRAIN_TIMEOUT_S
    assert re.search(r"draining [1-9]\d* records", draining)
    assert "0 records left" in drained
    commits = stream.commits()
    assert 500 < sum(commits.values()) < NUM_ITEMS
    # What is published is committed, and the other way about: the next owner finds neither gaps nor work done twice.
    assert len(stream.output_records()) == sum(commits.values())
    with worker_on(stream) as second:
        second.wait_until(lambda: stream.is_committed(stream.ends()), name="done")
    verdict = stream.verdict()
    assert verdict.ok, verdict.explain()
    assert (verdict.counts["published"], verdict.counts["duplicates"]) == (NUM_ITEMS, 0)


@pytest.mark.embedded
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_it_at_once(
    make_stream: StreamMaker, own_embedded: EmbeddedBroker, number: signal.Signals, code: int
) -> None:
    stream = make_stream(embedded(own_embedded))
    with worker_on(stream, PATIENT) as worker:
        worker.wait_ready()
        keep_in_flight(stream, own_embedded, worker)
        worker.signal(number)
        worker.wait_until(lambda: bool(worker.logged("drain")), name="draining")
        assert probes(worker) == {"startupz": 200, "readyz": 503, "livez": 200}
        assert worker.exit_code is None
        worker.signal(number)
        assert worker.wait(3) == code


# A broker that takes seconds to answer is neither dead nor late.
PATIENT = {
    "kafka.session_timeout_ms": 60_000,
    "kafka.heartbeat_interval_ms": 10_000,
    "kafka.delivery_timeout_ms": 30_000,
    "kafka.request_timeout_ms": 20_000,
}


def keep_in_flight(stream: Stream, broker: EmbeddedBroker, worker: WorkerProcess) -> None:
    """Bring the worker to where it waits for acknowledgements for seconds."""
    worker.signal(signal.SIGSTOP)
    stream.feed_items(names(500))
    broker.set_round_trip(3_000)
    worker.signal(signal.SIGCONT)
    worker.wait_until(lambda: worker.metric("align_records_in_flight") > 0, name="waiting for acknowledgements")


@pytest.mark.embedded
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_of_an_end_drain_too(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, number: signal.Signals
) -> None:
    stream = make_stream(embedded(embedded_broker))
    with worker_on(stream) as worker:
        worker.wait_ready()
        stream.feed_items(names(100))
        worker.wait_until(lambda: stream.is_committed(stream.ends()), name="done")
        worker.signal(number)
        assert worker.wait() == 0
        assert worker.logged("drained")


def catches_sigterm(worker: WorkerProcess) -> bool:
    """Whether its handler is in place: before, the kernel's default holds for any program."""
    mask = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{worker.pid}/status").read_text())
    return mask is not None and bool(int(mask[1], 16) >> (signal.SIGTERM - 1) & 1)


MOMENTS: Mapping[str, Callable[[WorkerProcess], bool]] = {
    "importing": catches_sigterm,
    "connecting": lambda worker: bool(worker.logged("connect_wait")),
    "loading the model": lambda worker: bool(worker.logged("http")),
    "joining the group": lambda worker: bool(worker.logged("warm_up")),
}


@pytest.mark.embedded
@pytest.mark.parametrize("moment", MOMENTS)
def test_sigterm_during_start_up_is_no_failure(
    make_stream: StreamMaker, embedded_broker: EmbeddedBroker, moment: str
) -> None:
    stream = make_stream(embedded(embedded_broker))
    nobody = {"kafka.bootstrap_servers": f"127.0.0.1:{closed_port()}"} if moment == "connecting" else {}
    with worker_on(stream, nobody) as worker:
        worker.wait_until(lambda: MOMENTS[moment](worker), name=moment)
        worker.signal(signal.SIGTERM)
        assert worker.wait(20) == 0
        assert complaints(worker) == []


# ---------------------------------------------------------------------- start-up errors


def complaints(worker: WorkerProcess) -> list[str]:
    """The lines on stderr that are not log records: what a person who reads no logs gets to see."""
    assert "Traceback" not in worker.stderr
    return [line for line in worker.stderr.splitlines() if not line.startswith("{")]


def assert_refuses(worker: WorkerProcess, code: int, *patterns: str) -> None:
    with worker:
        assert worker.wait(60) == code
        lines = complaints(worker)
    assert len(lines) == 1, worker.stderr
    for pattern in ("^align-worker: ", *patterns):
        assert re.search(pattern, lines[0]), lines[0]


@pytest.mark.parametrize(
    ("arguments", "environment", "patterns"),
    [
        (["--kafka.groupid=hunter2"], {}, ["--kafka.groupid: no such option", "did you mean --kafka.group_id"]),
        (["--kafka.group=hunter2"], {}, ["--kafka.group: no such option"]),
        ([], {"ALIGN_KAFKA__GROUPID": "hunter2"}, ["ALIGN_KAFKA__GROUPID: no such setting", "ALIGN_KAFKA__GROUP_ID"]),
        ([], {"ALIGN_KAFKA_GROUP_ID": "hunter2"}, ["ALIGN_KAFKA_GROUP_ID: no such setting", "ALIGN_KAFKA__GROUP_ID"]),
        (["--batch.max_records=many"], {}, [r"batch.max_records \(--batch.max_records\)"]),
        (["--kafka.sasl_mechanism=PLAIN"], {}, ["kafka.sasl_mechanism", "kafka.security_protocol"]),
        (["--config=/nowhere/worker.yaml"], {}, ["/nowhere/worker.yaml", "No such file"]),
        (
            ["--kafka.bootstrap_servers=broker"],
            {"ALIGN_SPACE__PATH": "/x"},
            ["kafka.bootstrap_servers .*'broker' has no"],
        ),
        ([], {}, ["space.path is not set", "align-worker space create"]),
    ],
)
def test_a_wrong_setting_is_named(arguments: list[str], environment: Mapping[str, str], patterns: list[str]) -> None:
    worker = WorkerProcess(environment, command=["run", *arguments])
    assert_refuses(worker, 2, *patterns)
    assert "hunter2" not in worker.stderr


def test_an_unknown_key_of_the_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "worker.yaml"
    file.write_text("kafka: {group_id: g}\nbatch: {max_record: 5}\n")
    worker = WorkerProcess({}, command=["run", "--config", str(file)])
    assert_refuses(worker, 2, r"batch.max_record \(.*, line 2\): no such setting", "did you mean batch.max_records")


@pytest.mark.embedded
def test_a_port_in_use_is_named(make_stream: StreamMaker, embedded_broker: EmbeddedBroker) -> None:
    stream = make_stream(embedded(embedded_broker))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refuses(worker_on(stream, {"http.port": port}), 2, "http.port", str(port))


def truncate_weights(space: Path) -> None:
    weights = space / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def break_document(space: Path) -> None:
    (space / "space.json").write_text('{"dim": ')


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("harm", "pattern"),
    [
        (shutil.rmtree, "is not a directory"),
        (truncate_weights, "weights.safetensors cannot be read"),
        (break_document, "space.json is not JSON"),
    ],
)
def test_a_bad_space_is_named(
    make_stream: StreamMaker,
    embedded_broker: EmbeddedBroker,
    space_path: Path,
    tmp_path: Path,
    harm: Callable[[Path], Any],
    pattern: str,
) -> None:
    stream = make_stream(embedded(embedded_broker))
    space = Path(shutil.copytree(space_path, tmp_path / "space"))
    harm(space)
    assert_refuses(worker_on(stream, {"space.path": space}), 3, f"space.path: {re.escape(str(space))}", pattern)


def test_missing_topics_are_named(make_stream: StreamMaker, broker: Broker) -> None:
    stream = make_stream(broker, create=False)
    worker = worker_on(stream)
    assert_refuses(worker, 4, f"topics.items: topic '{stream.items}' does not exist", "align-worker topics create")


def test_different_partition_counts_are_refused(make_stream: StreamMaker, broker: Broker) -> None:
    stream = make_stream(broker, create=False)
    broker.create_topics({stream.items: 3, stream.vectors: 2, stream.state: 3, stream.letters: 1})
    assert_refuses(worker_on(stream), 4, "topics.item_vectors", "same number")


def test_an_unreachable_broker_is_named(space_path: Path) -> None:
    servers = f"127.0.0.1:{closed_port()}"
    worker = WorkerProcess(
        {"kafka.bootstrap_servers": servers, "kafka.connect_timeout_s": "2", "space.path": str(space_path)}
    )
    assert_refuses(worker, 6, f"kafka.bootstrap_servers={servers}", "kafka.connect_timeout_s=2")


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


# ---------------------------------------------------------------------- probes


def probes(worker: WorkerProcess) -> dict[str, int]:
    return {path: worker.get(f"/{path}")[0] for path in ("startupz", "readyz", "livez")}


STARTING = {"startupz": 503, "readyz": 503, "livez": 200}
READY = {"startupz": 200, "readyz": 200, "livez": 200}


@pytest.mark.embedded
def test_probes_follow_the_life_of_the_process(make_stream: StreamMaker, own_embedded: EmbeddedBroker) -> None:
    stream = make_stream(embedded(own_embedded))
    own_embedded.set_down()
    with worker_on(stream, PATIENT) as worker:
        worker.wait_until(lambda: bool(worker.logged("connect_wait")), name="waiting for a broker")
        assert probes(worker) == STARTING
        own_embedded.set_up()
        worker.wait_ready()
        assert probes(worker) == READY
        keep_in_flight(stream, own_embedded, worker)
        worker.signal(signal.SIGTERM)
        worker.wait_until(lambda: bool(worker.logged("drain")), name="draining")
        assert probes(worker) == {"startupz": 200, "readyz": 503, "livez": 200}
        assert worker.get("/readyz")[1] == "draining\n"


@pytest.mark.real_kafka
@pytest.mark.timeout(300)
def test_an_outage_is_waited_out(make_stream: StreamMaker, start_kafka: Callable[..., RealKafka]) -> None:
    """No probe asks for a restart, which would not help, however long the broker is away."""
    kafka = start_kafka()
    stream = make_stream(real(kafka.bootstrap_servers))
    unstable_s = 8.5
    changes = {
        **SHORT_SESSION,
        "kafka.heartbeat_interval_ms": 500,
        "kafka.max_poll_interval_ms": 5_000,
        "shutdown.drain_timeout_s": 4,
        "watchdog.group_unstable_s": unstable_s,
    }
    with worker_on(stream, changes) as worker:
        worker.wait_ready()
        stream.feed_items(names(200))
        worker.wait_until(lambda: stream.is_committed(stream.ends()), name="done")
        kafka.kill()
        until = time.monotonic() + 2 * unstable_s
        while time.monotonic() < until:
            assert probes(worker) == READY
            time.sleep(0.2)
        kafka.start()
        stream.feed_items(names(200, "after"))
        worker.wait_until(lambda: stream.is_committed(stream.ends()), timeout=120, name="done after the outage")
        assert probes(worker) == READY
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
        verdict = stream.verdict()
        assert verdict.ok, verdict.explain()


# ---------------------------------------------------------------------- cost


def cpu_s(worker: WorkerProcess) -> float:
    times = psutil.Process(worker.pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.embedded
def test_it_is_ready_within_seconds(make_stream: StreamMaker, embedded_broker: EmbeddedBroker) -> None:
    """Shared machines stretch the time on the wall, so the bound is on what the process itself takes."""
    stream = make_stream(embedded(embedded_broker))
    started = time.monotonic()
    with worker_on(stream) as worker:
        worker.wait_ready()
        took_s, cpu = time.monotonic() - started, cpu_s(worker)
        print(f"ready after {took_s:.1f} s, {cpu:.1f} s of CPU")
        assert cpu < 10
        assert took_s < 60


@pytest.mark.real_kafka
def test_it_idles_cheaply(make_stream: StreamMaker, real_kafka: Broker) -> None:
    stream = make_stream(real_kafka)
    with worker_on(stream) as worker:
        worker.wait_ready()
        stream.feed_items(names(100))
        worker.wait_until(lambda: stream.is_committed(stream.ends()), name="done")
        for _ in range(3):  # the first look may still see the last of the work
            before, started = cpu_s(worker), time.monotonic()
            time.sleep(4)
            share = (cpu_s(worker) - before) / (time.monotonic() - started)
            print(f"idle: {share:.1%} of a core")
            if share < 0.10:
                return
    pytest.fail(f"{share:.1%} of a core")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"]])
def test_help_is_quick(arguments: list[str]) -> None:
    """It loads neither the model's library nor the Kafka client, which take seconds."""
    command = [sys.executable, "-X", "importtime", "-m", "worker", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith(("usage: align-worker", "align-worker "))
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "argparse" in loaded
    assert not loaded & {"torch", "kafka", "numpy"}
