"""Fixtures that give tests a broker, and topics of their own on it.

| variable | what it does |
|---|---|
| `KAFKA_HOME` | an unpacked Apache Kafka distribution: real_kafka tests start brokers from it |
| `ALIGN_TEST_BOOTSTRAP_SERVERS` | real_kafka tests use this cluster; those that stop brokers are skipped |
| `ALIGN_TEST_KAFKA_CLIENT` | the client library of workers where a test does not choose, as `confluent-kafka` |
| `ALIGN_TEST_REQUIRE_KAFKA=1` | a missing Kafka fails the tests that need one, instead of skipping them |
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # the client warns of itself while it is imported
    import kafka  # noqa: F401

from tests.brokers import Broker, RealKafka, delete_topics, find_distribution
from tests.brokers.broker import EXTERNAL_VARIABLE, embedded, external_bootstrap_servers, real
from tests.order import in_blocks
from worker.kafka.embedded import EmbeddedBroker

TOPICS = ("items", "events", "item_vectors", "user_vectors", "item_state", "user_state", "dead_letters", "rollouts")
# A busy machine is slow at drawing inputs, too, and that says nothing of what is tested.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

USERS = {"worker": "worker-secret", "other": "other-secret"}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where several processes share the tests: the slow ones first, in each."""
    num_processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    paths = [item.nodeid.partition("::")[0] for item in items]
    items[:] = [items[position] for position in in_blocks(paths, num_processes)]


def _no_kafka(reason: str) -> NoReturn:
    if os.environ.get("ALIGN_TEST_REQUIRE_KAFKA") == "1":
        pytest.fail(f"ALIGN_TEST_REQUIRE_KAFKA=1, but {reason}", pytrace=False)
    pytest.skip(f"needs a real Kafka: {reason}")


@pytest.fixture(scope="session")
def embedded_broker() -> Iterator[EmbeddedBroker]:
    """The in-process broker that tests share. A test that makes it fail starts one of its own: that takes 5 ms."""
    with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture(scope="session")
def own_kafka_allowed() -> None:
    """Skips where no Kafka can be started for the tests to stop, kill, freeze or configure."""
    if external_bootstrap_servers():
        pytest.skip(f"{EXTERNAL_VARIABLE} is set: only brokers of our own are stopped or configured")
    if isinstance(reason := find_distribution(), str):
        _no_kafka(reason)


@pytest.fixture(scope="session")
def real_kafka(request: pytest.FixtureRequest) -> Iterator[Broker]:
    """A real Kafka that tests share: they leave it running and well."""
    if servers := external_bootstrap_servers():
        broker = real(servers)
        yield broker
        delete_topics(broker.options, broker.created)
        return
    request.getfixturevalue("own_kafka_allowed")
    with RealKafka() as kafka:
        yield real(kafka.bootstrap_servers)


@pytest.fixture(scope="session")
def secure_kafka(own_kafka_allowed: None) -> Iterator[RealKafka]:
    """A real Kafka with all its ways in, for the users of `USERS`. Shared like `real_kafka`."""
    with RealKafka(sasl=USERS, tls=True) as kafka:
        yield kafka


@pytest.fixture
def start_kafka(own_kafka_allowed: None) -> Iterator[Callable[..., RealKafka]]:
    """Starts a `RealKafka` with the given arguments; it is closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **arguments: stack.enter_context(RealKafka(**arguments))


@pytest.fixture(
    params=[
        pytest.param("embedded", marks=pytest.mark.embedded),
        pytest.param("real", marks=pytest.mark.real_kafka),
    ]
)
def broker(request: pytest.FixtureRequest) -> Broker:
    """Each test that asks for it runs twice: on the embedded broker and on a real Kafka."""
    if request.param == "embedded":
        return embedded(request.getfixturevalue("embedded_broker"))
    shared: Broker = request.getfixturevalue("real_kafka")
    return shared


@pytest.fixture
def topics() -> Mapping[str, Any]:
    """Topic names that no other test has, by the names of the `topics.*` settings. They are not created."""
    run = uuid.uuid4().hex[:10]
    return {name: f"{name.replace('_', '-')}-{run}" for name in TOPICS}
