"""A broker that is away, or does not answer: waited out, and nothing lost."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.brokers import RealKafka, library
from tests.brokers.addresses import free_ports
from tests.brokers.broker import QUICK_GROUP
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.flow import Flow
from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread, silence_s
from tests.worker_process import WorkerProcess
from worker.errors import UnreachableError
from worker.kafka import make_client
from worker.kafka.embedded import EmbeddedBroker
from worker.settings import KafkaSettings

AWAY_S = 3.0


def run_through(stream: Stream, worker: WorkerThread, outage: Callable[[], None]) -> None:
    """Items flow before, during and after."""
    worker.wait_ready()
    with Flow(stream) as flow:
        worker.until(lambda: worker.items.accounting.published > 100)
        outage()
        published = worker.items.accounting.published
        worker.until(lambda: worker.items.accounting.published > published + 100, name="publishing again")
    stream.wait_committed(worker)
    worker.until(lambda: worker.items.accounting.in_flight == 0)
    verdict = stream.verdict([worker.metrics_url])
    assert verdict.ok, verdict.explain()
    assert verdict.counts["inputs"] >= flow.num_fed  # the feeder, too, may write a batch twice when a link breaks
    assert worker.service.health.livez().ok


@pytest.mark.embedded
def test_connections_that_are_refused_for_a_while(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker
) -> None:
    stream = make_stream(own_embedded)

    def outage() -> None:
        own_embedded.set_down()
        worker.until(lambda: silence_s(worker) > AWAY_S, name="aware of the outage")
        own_embedded.set_up()

    with WorkerThread(stream.settings()) as worker:
        run_through(stream, worker, outage)


@pytest.mark.real_kafka
def test_a_killed_broker_that_comes_back(make_stream: Callable[..., Stream], own_kafka: RealKafka) -> None:
    stream = make_stream(own_kafka)

    def outage() -> None:
        own_kafka.kill()
        own_kafka.start()

    with WorkerThread(stream.settings()) as worker:
        run_through(stream, worker, outage)


@BOTH_LIBRARIES
@pytest.mark.real_kafka
def test_a_broker_that_falls_silent(make_stream: Callable[..., Stream], own_kafka: RealKafka) -> None:
    """Longer than deliveries, requests and the session may take."""
    stream = make_stream(own_kafka)

    def outage() -> None:
        own_kafka.pause()
        worker.until(lambda: silence_s(worker) > QUICK_GROUP["session_timeout_ms"] / 1_000 + 1, name="long forgotten")
        own_kafka.resume()

    with WorkerThread(stream.settings()) as worker:
        run_through(stream, worker, outage)


@contextmanager
def mute_server() -> Iterator[str]:
    """Accepts connections, reads, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for connection in connections:
                connection.close()


def test_a_broker_that_never_answers_ends_the_start_in_time(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker
) -> None:
    settings = make_stream(own_embedded, create=False).settings({"kafka.connect_timeout_s": 3})
    del settings["kafka.api_version"]  # as every user has it: the version is asked for
    with mute_server() as address:
        started = time.monotonic()
        with WorkerProcess({**settings, "kafka.bootstrap_servers": address}) as worker:
            assert worker.wait(30) == 6
        assert 3 <= time.monotonic() - started < 3 + 60  # the process has to be born, too
    assert f"kafka.bootstrap_servers={address}" in worker.stderr.splitlines()[-1]
    assert "kafka.connect_timeout_s=3" in worker.stderr.splitlines()[-1]


@BOTH_LIBRARIES
@pytest.mark.parametrize("api_version", [None, (2, 3)])
def test_connecting_takes_as_long_as_it_may(api_version: tuple[int, int] | None) -> None:
    with mute_server() as mute:
        nobody = f"127.0.0.1:{free_ports(1)[0]}"
        for address in (mute, nobody):
            settings = KafkaSettings(
                bootstrap_servers=address, client=library.current, connect_timeout_s=1.5, api_version=api_version
            )
            started = time.monotonic()
            with pytest.raises(UnreachableError, match=f"kafka.bootstrap_servers={address}"):
                make_client(settings).connect()
            assert 1.5 <= time.monotonic() - started < 20


@pytest.mark.embedded
def test_a_broker_that_comes_late_is_waited_for(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker, caplog: pytest.LogCaptureFixture
) -> None:
    stream = make_stream(own_embedded)
    stream.feed_items(names(20))
    own_embedded.set_down()
    with caplog.at_level(logging.INFO, "worker"), WorkerThread(stream.settings()) as worker:
        worker.until(lambda: any(each.__dict__.get("action") == "connect_wait" for each in caplog.records))
        assert not worker.service.health.startupz().ok
        own_embedded.set_up()
        stream.wait_committed(worker)
    assert len(stream.published()) == 20
