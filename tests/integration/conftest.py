"""A space and a stream for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.brokers import Broker, RealKafka, library
from tests.brokers.broker import embedded, real
from tests.conftest import USERS
from tests.integration.stream import DIMS, SPACE_DIM, Stream
from tests.stores.postgres import Postgres
from worker.align import Space, command
from worker.kafka.embedded import EmbeddedBroker

StreamMaker = Callable[..., Stream]


@pytest.fixture(scope="session")
def space_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small space, which accepts the features of any encoder."""
    path = tmp_path_factory.mktemp("spaces") / "space"
    command.create(path, DIMS, dim=SPACE_DIM)
    return path


BOTH_LIBRARIES = pytest.mark.parametrize("kafka_client", library.LIBRARIES, indirect=True)
"""For tests of what a client does, or what hangs on it."""


@pytest.fixture(autouse=True)
def kafka_client(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The client library of the workers in this test."""
    chosen: str = getattr(request, "param", library.current)
    monkeypatch.setattr(library, "current", chosen)
    return chosen


@pytest.fixture
def make_stream(topics: Mapping[str, str], space_path: Path) -> Iterator[StreamMaker]:
    """Makes a stream with topics on a broker; a `RealKafka` is talked to through its plaintext listener."""
    made: list[Stream] = []

    def make(broker: Broker | RealKafka | EmbeddedBroker, num_partitions: int = 2, *, create: bool = True) -> Stream:
        match broker:
            case RealKafka():
                broker = real(broker.bootstrap_servers)
            case EmbeddedBroker():
                broker = embedded(broker)
        stream = Stream(broker, topics, Space.load(space_path), str(space_path), num_partitions)
        made.append(stream)
        if create:
            stream.create_topics()
        return stream

    yield make
    for stream in made:
        stream.close()


@pytest.fixture(scope="session")
def own_kafka(own_kafka_allowed: None) -> Iterator[RealKafka]:
    """A real Kafka to be killed and frozen. Whoever does so brings it back."""
    with RealKafka() as kafka:
        yield kafka


@pytest.fixture(scope="session")
def secure_kafka(own_kafka_allowed: None) -> Iterator[RealKafka]:
    """A real Kafka with all its ways in, which forbids what ACLs forbid, to all but those who come in by PLAINTEXT."""
    access_control = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
        "allow.everyone.if.no.acl.found": "true",
        "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512,OAUTHBEARER",
    }
    with RealKafka(sasl=USERS, tls=True, properties=access_control) as kafka:
        yield kafka


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL with pgvector. Whoever kills it starts it again."""
    with Postgres() as started:
        yield started


@pytest.fixture
def own_embedded() -> Iterator[EmbeddedBroker]:
    """An embedded broker to be hurt."""
    with EmbeddedBroker() as started:
        yield started


@pytest.fixture
def stream(make_stream: StreamMaker, broker: Broker) -> Stream:
    """A stream of two partitions on either broker."""
    return make_stream(broker)


@pytest.fixture(autouse=True)
def _quick_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker on a thread that fails need not wait for a probe to see it."""
    monkeypatch.setattr("worker.process.service.RED_BEFORE_EXIT_S", 0.0)
