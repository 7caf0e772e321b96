"""Topics that are missing, unequal, growing, or full of another space's vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient, NewPartitions

from tests.brokers import Broker, Outgoing, RealKafka, log_ranges
from tests.brokers.broker import real
from tests.integration.stream import DIMS, SPACE_DIM, Stream, item, names
from tests.integration.worker_thread import WorkerThread
from tests.worker_process import as_text
from worker.__main__ import main
from worker.align import Space, command
from worker.align.space import record_compatible
from worker.errors import SpaceError, TopicError
from worker.kafka.embedded import EmbeddedBroker
from worker.kafka.kafka_python.connection import connection_config
from worker.settings import Settings, TopicSettings
from worker.topics import wanted_topics


def flags(stream: Stream) -> list[str]:
    groups = ("kafka.", "topics.")
    return [f"--{name}={as_text(value)}" for name, value in stream.settings().items() if name.startswith(groups)]


@pytest.fixture(scope="module")
def careless_kafka(own_kafka_allowed: None) -> Iterator[Broker]:
    """A broker that makes every topic that is asked for."""
    with RealKafka(auto_create_topics=True) as kafka:
        yield real(kafka.bootstrap_servers)


def existing(stream: Stream) -> list[str]:
    return [name for name in stream.topics.values() if log_ranges(stream.broker.options, name)]


@pytest.mark.real_kafka
def test_missing_topics_are_named_and_not_made(make_stream: Callable[..., Stream], careless_kafka: Broker) -> None:
    stream = make_stream(careless_kafka, create=False)
    with WorkerThread(stream.settings()) as worker:
        error = worker.failure(20)
    assert isinstance(error, TopicError)
    for setting in ("items", "item_vectors", "item_state", "dead_letters"):
        assert f"topics.{setting}: topic '{stream.topics[setting]}' does not exist" in error.one_line()
    assert "align-worker topics create" in error.one_line()
    assert existing(stream) == []


@pytest.mark.real_kafka
def test_topics_are_made_checked_and_used(
    make_stream: Callable[..., Stream], careless_kafka: Broker, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(careless_kafka, 3, create=False)
    create = ["topics", "create", "--partitions", "3", "--replication", "1", *flags(stream)]
    assert main(["topics", "check", *flags(stream)]) == TopicError.exit_code
    assert "does not exist" in capsys.readouterr().err
    assert existing(stream) == []
    assert main(create) == 0
    created = capsys.readouterr().out
    assert all(name in created for name in (stream.items, stream.vectors, stream.state, stream.letters))
    assert main(create) == 0
    assert "all topics exist" in capsys.readouterr().out
    assert main(["topics", "check", *flags(stream)]) == 0
    assert "usable" in capsys.readouterr().out
    assert sorted(existing(stream)) == sorted([stream.items, stream.vectors, stream.state, stream.letters])
    assert_configured(stream)

    stream.feed_items(names(30))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    verdict = stream.verdict()
    assert verdict.ok, verdict.explain()


def assert_configured(stream: Stream) -> None:
    """As the broker tells it."""
    admin = KafkaAdminClient(**stream.broker.options)
    try:
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, name) for name in (stream.items, stream.state, stream.letters)
        ]
        described: Mapping[str, Mapping[str, Mapping[str, str]]] = admin.describe_configs(resources)["topic"]
        wanted = wanted_topics(Settings(topics=TopicSettings(**stream.topics)))
        for name, configs in described.items():
            assert {key: configs[key]["value"] for key in wanted[name]} == wanted[name]
        partitions = {each["name"]: len(each["partitions"]) for each in admin.describe_topics([stream.vectors])}
        assert partitions == {stream.vectors: 3}
    finally:
        admin.close()


@pytest.mark.parametrize("name", ["item_vectors", "item_state"])
def test_fewer_partitions_than_the_input_has_are_refused(
    make_stream: Callable[..., Stream], broker: Broker, name: str
) -> None:
    stream = make_stream(broker, create=False)
    lacking = stream.topics[name]
    stream.broker.create_topics({stream.items: 3, stream.vectors: 3, stream.state: 3, stream.letters: 1, lacking: 2})
    with WorkerThread(stream.settings()) as worker:
        error = worker.failure(20)
    assert isinstance(error, TopicError)
    assert f"topics.{name}: topic '{lacking}' has 2 partitions, '{stream.items}' has 3" in error.one_line()


@pytest.mark.real_kafka
def test_new_partitions_of_the_items_alone_end_the_worker_and_lose_nothing(
    make_stream: Callable[..., Stream], real_kafka: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their vectors have nowhere to go. With as many partitions in both topics the next start goes on."""
    monkeypatch.setattr(
        "worker.kafka.kafka_python.client.connection_config",
        lambda settings: {**connection_config(settings), "metadata_max_age_ms": 500},
    )
    stream = make_stream(real_kafka)
    admin = KafkaAdminClient(**real_kafka.options)
    try:
        stream.feed_items(names(20, "before"))
        with WorkerThread(stream.settings()) as worker:
            stream.wait_committed(worker)
            admin.create_partitions({stream.items: NewPartitions(3), stream.state: NewPartitions(3)})
            stream.feed([Outgoing(stream.items, b"new", item("new"), 2)])
            stream.feed_items(names(20, "beside"))
            error = worker.failure(30)
        assert isinstance(error, TopicError)
        assert f"'{stream.vectors}' has 2 partitions, '{stream.items}' has 3" in error.one_line()
        admin.create_partitions({stream.vectors: NewPartitions(3)})
        stream.num_partitions = 3
        with WorkerThread(stream.settings()) as worker:
            stream.wait_committed(worker)
            verdict = stream.verdict([worker.metrics_url])
    finally:
        admin.close()
    assert verdict.ok, verdict.explain()
    assert len({name for name, _ in stream.published()}) == 41


def test_vectors_of_another_space_are_not_mixed_in(stream: Stream, tmp_path: Path) -> None:
    stream.feed_items(names(20))
    with WorkerThread(stream.settings()) as worker:
        stream.wait_committed(worker)
    before = stream.published()
    command.create(tmp_path / "other", DIMS, dim=SPACE_DIM, seed=1)
    other = Space.load(tmp_path / "other").space_id
    stream.feed_items(names(20, "later"))
    with WorkerThread(stream.settings({"space.path": tmp_path / "other"})) as stranger:
        error = stranger.failure(30)
    assert isinstance(error, SpaceError)
    assert error.exit_code == 3
    for told in (stream.vectors, stream.space.space_id, other, "topics.item_vectors", "space.path"):
        assert told in error.one_line()
    assert stream.published() == before
    record_compatible(tmp_path / "other", stream.space.space_id, {"overlap@10/new among old": 1.0})
    with WorkerThread(stream.settings({"space.path": tmp_path / "other"})) as related:
        stream.wait_committed(related)
    assert len({name for name, _ in stream.published()}) == 40, "where that was measured, they are added"


@pytest.mark.embedded
def test_a_topic_that_exists_already_is_no_news(
    make_stream: Callable[..., Stream], own_embedded: EmbeddedBroker, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = make_stream(own_embedded)
    assert main(["topics", "check", *flags(stream)]) == 0
    assert main(["topics", "create", *flags(stream)]) == 0
    assert "all topics exist" in capsys.readouterr().out
