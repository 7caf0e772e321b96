"""A schema registry that is down, in the loop: partitions wait for it visibly, and nothing is lost, refused or seen
twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import NewItem, UserEvent, decode
from tests.contract.mapping.samples import to_avro
from tests.fakes import FakeClient, FakeCluster, FakeConsumer
from tests.registry import SchemaRegistry
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from worker.errors import AccessError, ClientError
from worker.mapping.registry import ConfluentRegistry
from worker.mapping.source import event_source, item_source
from worker.partitions.state import PartitionState, StopReason
from worker.roles.relay import RelayRole, events_translator, items_translator
from worker.settings import RegistrySettings, RelaySettings, RelayTopic, Settings
from worker.state import Stores
from worker.topics import topics_of

MAPPING = """\
items: {item_id: sku, content: {text: sku}}
events: {user_id: sku, item_id: sku, event_type: {value: view}, event_time: $timestamp}
"""
SCHEMA = {"type": "record", "name": "P", "fields": [{"name": "sku", "type": "string"}]}
OTHER = {**SCHEMA, "name": "Q"}
TOPICS = ("products", "clicks", "items", "events", "dead-letters")
RELAY = RelaySettings(items=RelayTopic(topic="products"), events=RelayTopic(topic="clicks"))


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as started:
        started.register("p-value", json.dumps(SCHEMA))
        started.register("q-value", json.dumps(OTHER))
        yield started


class Relay:
    """Of items or events in Avro, in two partitions."""

    def __init__(self, name: Any, registry: SchemaRegistry, path: Path, settings: Settings = SETTINGS) -> None:
        self.name = name
        self.input = "products" if name == "relay-items" else "clicks"
        self.cluster = FakeCluster(num_partitions=2, topics=TOPICS)
        mapping = path / "shop.yaml"
        mapping.write_text(MAPPING)
        self.registry = ConfluentRegistry(RegistrySettings(url=registry.url, timeout_s=1), wait_s=0.5)
        topics = topics_of(name, settings.model_copy(update={"relay": RELAY}))
        translate = (
            items_translator(item_source("relay.items", "avro", mapping, self.registry))
            if name == "relay-items"
            else events_translator(event_source("relay.events", "avro", mapping, self.registry))
        )
        role = RelayRole(topics, translate, 3600.0)
        self.harness = LoopHarness(FakeClient(self.cluster), role, Stores(None, "", topics.group_id), settings)

    def __enter__(self) -> Relay:
        self.harness.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.harness.stop()
        self.registry.close()

    def feed(self, partition: int, numbers: range, schema_id: int = 1) -> None:
        schema = SCHEMA if schema_id == 1 else OTHER
        for number in numbers:
            value = to_avro(schema, {"sku": f"{partition}-{number}"}, schema_id)
            self.cluster.append(self.input, partition, None, value)

    def written(self, partition: int) -> list[int]:
        output = "items" if self.name == "relay-items" else "events"
        kind: Any = NewItem if output == "items" else UserEvent
        found = [str(decode(kind, record.value).item_id) for record in self.cluster.records(output)]  # type: ignore[attr-defined]
        return [int(name[2:]) for name in found if name.startswith(f"{partition}-")]

    def held(self) -> dict[int, str]:
        return {
            each.partition.partition: each.detail
            for each in self.harness.pipeline.assignment.all()
            if each.state == PartitionState.STOPPED and each.reason == StopReason.REGISTRY_DOWN
        }

    def until_held(self, *partitions: int) -> None:
        self.harness.until(lambda: set(self.held()) == set(partitions))

    def until_written(self, **counts: int) -> None:
        self.harness.until(lambda: all(len(self.written(int(name[1:]))) == count for name, count in counts.items()))


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
@pytest.mark.parametrize("name", ["relay-items", "relay-events"])
def test_a_registry_that_is_down_at_the_start_stops_partitions_and_costs_nothing(
    name: str, settings: Settings, registry: SchemaRegistry, tmp_path: Path
) -> None:
    registry.status = 503
    with Relay(name, registry, tmp_path, settings) as relay:
        relay.feed(0, range(20))
        relay.feed(1, range(20))
        relay.until_held(0, 1)
        relay.harness.until(lambda: all("answers 503" in detail for detail in relay.held().values()))
        assert not relay.harness.pipeline.assignment.in_flight
        registry.status = None
        relay.harness.until_committed()
        assert not relay.held()
    assert relay.written(0) == relay.written(1) == list(range(20))
    assert not relay.cluster.records("dead-letters")
    totals = relay.harness.metrics.accounting.totals
    assert (totals.consumed, totals.abandoned, totals.unaccounted()) == (40, 0, 0)


def test_a_registry_that_goes_down_in_the_middle_stops_the_partitions_that_need_it_alone(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    with Relay("relay-events", registry, tmp_path) as relay:
        relay.feed(0, range(10))
        relay.until_written(p0=10)
        registry.status = 500
        relay.feed(0, range(10, 20))
        relay.feed(0, range(20, 40), schema_id=2)
        relay.feed(0, range(40, 50))
        relay.until_held(0)
        relay.until_written(p0=20)  # all before the schema that is not known
        relay.feed(1, range(30))
        relay.until_written(p1=30)
        assert set(relay.held()) == {0}
        registry.status = None
        relay.harness.until_committed()
    assert relay.written(0) == list(range(50))
    assert not relay.cluster.records("dead-letters")
    assert relay.harness.metrics.accounting.totals.unaccounted() == 0


def test_a_registry_that_refuses_us_ends_the_process(registry: SchemaRegistry, tmp_path: Path) -> None:
    registry.status = 401
    with Relay("relay-items", registry, tmp_path) as relay:
        relay.feed(0, range(3))
        error = relay.harness.until_failed()
    assert isinstance(error, AccessError)
    assert "input.registry.username" in str(error)
    assert not relay.cluster.records("dead-letters")


def test_a_partition_that_goes_while_it_waits_begins_at_the_same_record_again(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    registry.status = 503
    with Relay("relay-items", registry, tmp_path) as relay:
        relay.feed(0, range(5))
        relay.until_held(0)
        consumer: FakeConsumer = relay.harness.consumer
        partitions = [each.partition for each in relay.harness.pipeline.assignment.all()]
        consumer.rebalance("revoked", partitions)
        consumer.rebalance("assigned", partitions)
        registry.status = None
        relay.harness.until_committed()
    assert relay.written(0) == list(range(5))


def test_a_partition_that_cannot_be_wound_back_begins_again_from_its_commit(
    registry: SchemaRegistry, tmp_path: Path
) -> None:
    registry.status = 503
    with Relay("relay-items", registry, tmp_path) as relay:
        consumer = relay.harness.consumer
        seek, failures = consumer.seek, iter([None, ClientError("not ours at present"), None])

        def failing(partition: Any, offset: int) -> None:
            if partition.partition == 0 and (error := next(failures, None)) is not None:
                raise error
            seek(partition, offset)

        relay.harness.until(lambda: len(relay.harness.pipeline.assignment.all()) == 2)
        consumer.seek = failing  # type: ignore[method-assign]
        relay.feed(0, range(9))
        relay.until_held(0)
        registry.status = None
        relay.harness.until_committed()
    assert sorted(set(relay.written(0))) == list(range(9))
