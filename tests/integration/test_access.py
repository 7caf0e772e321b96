"""Who is let in, and what whoever is not is told."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka.admin import (
    ACL,
    ACLOperation,
    ACLPermissionType,
    KafkaAdminClient,
    ResourcePattern,
    ResourceType,
)

from tests.brokers import Listener, Outgoing, RealKafka
from tests.brokers.certificates import Authority
from tests.integration.conftest import BOTH_LIBRARIES
from tests.integration.stream import Stream, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import WorkerProcess, in_group
from worker.errors import AccessError, ConfigError, WorkerError
from worker.kafka import make_client
from worker.settings import KafkaSettings

pytestmark = pytest.mark.real_kafka

SECRET = "wr0ng-passw0rd"
CONNECT_TIMEOUT_S = 60.0
QUICK_S = 20.0
USER = "User:worker"


@pytest.fixture
def stream(make_stream: Callable[..., Stream], secure_kafka: RealKafka) -> Stream:
    return make_stream(secure_kafka)


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    """An authority that the broker does not know."""
    return Authority(tmp_path, "strange authority")


@pytest.mark.parametrize(
    ("listener", "mechanism"),
    [
        (Listener.SASL_PLAINTEXT, "PLAIN"),
        (Listener.SASL_PLAINTEXT, "SCRAM-SHA-512"),
        (Listener.SASL_SSL, "SCRAM-SHA-256"),
        (Listener.SASL_SSL, "OAUTHBEARER"),
        (Listener.MTLS, ""),
    ],
)
def test_whoever_is_known_works(stream: Stream, secure_kafka: RealKafka, listener: Listener, mechanism: str) -> None:
    stream.feed_items(names(20))
    way_in = in_group("kafka", secure_kafka.client_settings(listener, mechanism))
    with WorkerThread(stream.settings(way_in)) as worker:
        stream.wait_committed(worker)
    assert len(stream.published()) == 20


@pytest.mark.parametrize(("written", "is_let_in"), [("{}\n", True), ("{} \n", False)], ids=["as it is", "another"])
def test_a_password_from_a_file_signs_in(
    stream: Stream, secure_kafka: RealKafka, tmp_path: Path, written: str, is_let_in: bool
) -> None:
    way_in = secure_kafka.client_settings(Listener.SASL_PLAINTEXT, "SCRAM-SHA-512")
    (tmp_path / "password").write_text(written.format(way_in.pop("sasl_password")))
    way_in |= {"sasl_password_file": str(tmp_path / "password")}
    client = make_client(KafkaSettings(**{**way_in, "connect_timeout_s": QUICK_S}))
    if is_let_in:
        client.connect()
    else:
        with pytest.raises(AccessError):
            client.connect()


def wrong_ways(kafka: RealKafka, stranger: Authority) -> Iterator[tuple[str, dict[str, Any], str]]:
    """What is wrong, the settings that are, and what the error must name."""

    def way(listener: Listener, mechanism: str = "PLAIN", **changes: Any) -> dict[str, Any]:
        settings = kafka.client_settings(listener, mechanism) | changes
        return {name: value for name, value in settings.items() if value is not None}

    def port_of(listener: Listener) -> dict[str, str]:
        return {"bootstrap_servers": kafka.bootstrap(listener)}

    wrong = {"sasl_password": SECRET}
    unnamed = {"bootstrap_servers": kafka.bootstrap(Listener.SSL).replace("127.0.0.1", "127.1")}
    unknown = stranger.issue("stranger")
    own = {"ssl_certfile": str(unknown.certificate), "ssl_keyfile": str(unknown.key)}
    protocol = "kafka.security_protocol"
    yield "PLAIN, wrong password", way(Listener.SASL_PLAINTEXT, **wrong), "kafka.sasl_password"
    yield "PLAIN over TLS, wrong password", way(Listener.SASL_SSL, **wrong), "kafka.sasl_password"
    yield "SCRAM, wrong password", way(Listener.SASL_PLAINTEXT, "SCRAM-SHA-512", **wrong), "kafka.sasl_password"
    yield "SCRAM, unknown user", way(Listener.SASL_SSL, "SCRAM-SHA-256", sasl_username="nobody"), "kafka.sasl_username"
    yield "mechanism that is off", way(Listener.SASL_PLAINTEXT, "SCRAM-SHA-256"), "kafka.sasl_mechanism"
    yield "no SASL where it is wanted", port_of(Listener.SASL_PLAINTEXT), protocol
    yield "no TLS where it is wanted", port_of(Listener.SSL), protocol
    yield "neither where both are", port_of(Listener.SASL_SSL), protocol
    yield "SASL where it is not wanted", way(Listener.SASL_PLAINTEXT) | port_of(Listener.PLAINTEXT), protocol
    yield "TLS where it is not wanted", way(Listener.SSL) | port_of(Listener.PLAINTEXT), protocol
    yield "TLS without SASL", way(Listener.SSL) | port_of(Listener.SASL_SSL), protocol
    yield "unknown authority", way(Listener.SSL, ssl_cafile=str(stranger.certificate)), "kafka.ssl_cafile"
    yield "no authority", way(Listener.SSL, ssl_cafile=None), "kafka.ssl_cafile"
    yield "another host name", way(Listener.SSL) | unnamed, "kafka.bootstrap_servers"
    yield "no certificate", way(Listener.MTLS, ssl_certfile=None, ssl_keyfile=None), "kafka.ssl_certfile"
    yield "a stranger's certificate", way(Listener.MTLS, **own), "kafka.ssl_certfile"


@BOTH_LIBRARIES
def test_whoever_is_not_is_told_why_within_seconds(secure_kafka: RealKafka, stranger: Authority) -> None:
    def outcome(settings: Mapping[str, Any]) -> tuple[float, WorkerError | None]:
        started, error = time.monotonic(), None
        try:
            make_client(KafkaSettings(**settings, connect_timeout_s=CONNECT_TIMEOUT_S)).connect()
        except WorkerError as caught:
            error = caught
        return time.monotonic() - started, error

    ways = list(wrong_ways(secure_kafka, stranger))
    with ThreadPoolExecutor(len(ways)) as pool:
        outcomes = list(pool.map(outcome, [settings for _, settings, _ in ways]))
    for (what, _, named), (seconds, error) in zip(ways, outcomes, strict=True):
        assert isinstance(error, AccessError), (what, error)
        assert named in error.one_line(), (what, error)
        assert SECRET not in repr(error)
        assert seconds < QUICK_S, what


def test_any_host_name_will_do_where_none_is_asked_for(secure_kafka: RealKafka) -> None:
    settings = secure_kafka.client_settings(Listener.SSL)
    settings["bootstrap_servers"] = secure_kafka.bootstrap(Listener.SSL).replace("127.0.0.1", "127.1")
    make_client(KafkaSettings(**settings, ssl_check_hostname=False)).connect()


def test_a_wrong_password_ends_the_process_with_one_line_and_stays_secret(
    stream: Stream, secure_kafka: RealKafka
) -> None:
    way_in = in_group("kafka", secure_kafka.client_settings(Listener.SASL_SSL) | {"sasl_password": SECRET})
    with WorkerProcess(stream.settings({**way_in, "log.level": "debug"})) as worker:
        assert worker.wait(40) == AccessError.exit_code
    (line,) = [line for line in worker.stderr.splitlines() if line.startswith("align-worker:")]
    assert "kafka.sasl_password" in line
    assert SECRET not in worker.stderr + worker.stdout


def test_a_right_password_stays_secret_too(stream: Stream, secure_kafka: RealKafka) -> None:
    way_in = secure_kafka.client_settings(Listener.SASL_PLAINTEXT)
    with WorkerProcess(stream.settings({**in_group("kafka", way_in), "log.level": "debug"})) as worker:
        worker.wait_ready()
        pages = [worker.get(path)[1] for path in ("/", "/status.json", "/metrics")]
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0
    assert str(way_in["sasl_password"]) not in "".join([worker.stderr, worker.stdout, *pages])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ssl_cafile": "nonsense"}, "kafka.ssl_cafile"),
        ({"ssl_certfile": "nonsense"}, "kafka.ssl_certfile"),
        ({"ssl_keyfile": "nonsense"}, "kafka.ssl_keyfile"),
        ({"ssl_keyfile": None}, "kafka.ssl_keyfile"),
        ({"ssl_keyfile": "stranger"}, "kafka.ssl_keyfile"),
        ({"ssl_certfile": None}, "kafka.ssl_certfile"),
    ],
)
def test_files_that_are_no_certificates_are_named_before_any_broker_is_asked(
    secure_kafka: RealKafka, stranger: Authority, tmp_path: Path, changes: dict[str, str | None], named: str
) -> None:
    nonsense = tmp_path / "nonsense.pem"
    nonsense.write_text("nonsense")
    files = {"nonsense": str(nonsense), "stranger": str(stranger.issue("stranger").key)}
    wrong = {name: value and files[value] for name, value in changes.items()}
    with pytest.raises(ConfigError, match=named):
        make_client(KafkaSettings(**secure_kafka.client_settings(Listener.MTLS) | wrong))


@contextmanager
def forbidden(kafka: RealKafka, kind: ResourceType, name: str, *operations: ACLOperation) -> Iterator[None]:
    """Everything but these operations is allowed on the resource, to our user."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.bootstrap_servers)
    resource = ResourcePattern(kind, name)
    acls = [ACL(USER, "*", operation, ACLPermissionType.DENY, resource) for operation in operations]
    try:
        admin.create_acls([ACL(USER, "*", ACLOperation.ALL, ACLPermissionType.ALLOW, resource), *acls])
        yield
    finally:
        admin.close()


@pytest.mark.parametrize(
    ("topic", "operation"),
    [
        ("items", ACLOperation.DESCRIBE),
        ("items", ACLOperation.READ),
        ("item_vectors", ACLOperation.WRITE),
        ("item_vectors", ACLOperation.READ),
        ("dead_letters", ACLOperation.WRITE),
    ],
)
def test_what_is_forbidden_on_a_topic_ends_the_worker(
    stream: Stream, secure_kafka: RealKafka, topic: str, operation: ACLOperation
) -> None:
    stream.feed_items(names(5))
    stream.feed([stream.record("poison", b"\xc1")])
    stream.feed(Outgoing(stream.vectors, b"foreign", b"\xc1", partition) for partition in range(2))  # to be read back
    way_in = in_group("kafka", secure_kafka.client_settings(Listener.SASL_PLAINTEXT))
    name = stream.topics[topic]
    with (
        forbidden(secure_kafka, ResourceType.TOPIC, name, operation),
        WorkerThread(stream.settings(way_in)) as worker,
    ):
        error = worker.failure(20)
    assert isinstance(error, AccessError)
    assert name in error.one_line()
    assert "access control" in error.one_line()


def test_a_forbidden_group_ends_the_worker(stream: Stream, secure_kafka: RealKafka) -> None:
    way_in = in_group("kafka", secure_kafka.client_settings(Listener.SASL_PLAINTEXT))
    with (
        forbidden(secure_kafka, ResourceType.GROUP, stream.group, ACLOperation.READ),
        WorkerThread(stream.settings(way_in)) as worker,
    ):
        error = worker.failure(20)
    assert isinstance(error, AccessError)
    assert stream.group in error.one_line()


@BOTH_LIBRARIES
def test_a_forbidden_transactional_id_ends_the_worker(stream: Stream, secure_kafka: RealKafka) -> None:
    way_in = in_group("kafka", secure_kafka.client_settings(Listener.SASL_PLAINTEXT))
    settings = stream.settings({**way_in, "delivery": "exactly_once", "transaction.id": "pod-1"})
    name = f"{stream.group}-pod-1"
    with (
        forbidden(secure_kafka, ResourceType.TRANSACTIONAL_ID, name, ACLOperation.WRITE),
        WorkerThread(settings) as worker,
    ):
        error = worker.failure(30)
    assert isinstance(error, AccessError)
    assert "transaction.id" in error.one_line()
    assert "access control" in error.one_line()


def test_configurations_that_may_not_be_read_are_done_without(
    stream: Stream, secure_kafka: RealKafka, caplog: pytest.LogCaptureFixture
) -> None:
    stream.feed_items(names(5))
    way_in = in_group("kafka", secure_kafka.client_settings(Listener.SASL_PLAINTEXT))
    with (
        forbidden(secure_kafka, ResourceType.TOPIC, stream.vectors, ACLOperation.DESCRIBE_CONFIGS),
        WorkerThread(stream.settings(way_in)) as worker,
    ):
        stream.wait_committed(worker)
    assert any(getattr(record, "action", "") == "topic_limits_unknown" for record in caplog.records)
