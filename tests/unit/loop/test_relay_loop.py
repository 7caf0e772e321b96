"""The relay in the loop: foreign records to messages under the right keys, whatever happens on the way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import DeadLetter, NewItem, UserEvent, decode, encode
from tests.fakes import FakeClient, FakeCluster, item_value
from tests.unit.loop.harness import EXACTLY_ONCE, SETTINGS, LoopHarness
from worker.errors import ClientError
from worker.mapping.source import event_source, item_source
from worker.roles.relay import RelayRole, events_translator, items_translator
from worker.settings import RelaySettings, RelayTopic, Settings
from worker.state import Stores
from worker.topics import RoleName, topics_of

MAPPING = """\
items: {item_id: sku, content: {text: title}}
events:
  user_id: session
  item_id: sku
  event_type: {path: type, rename: {buy: purchase}}
  event_time: {path: ts, unit: iso}
  skip: bot
"""
TOPICS = ("products", "clicks", "items", "events", "dead-letters")
RELAY = RelaySettings(items=RelayTopic(topic="products"), events=RelayTopic(topic="clicks"))


@pytest.fixture
def mapping(tmp_path: Path) -> Path:
    path = tmp_path / "shop.yaml"
    path.write_text(MAPPING)
    return path


def click(number: int, **fields: Any) -> bytes:
    values = {"session": f"s-{number % 5}", "sku": f"sku-{number}", "type": "buy", "ts": "2026-01-01T00:00:00Z"}
    return json.dumps({**values, **fields}).encode()


def relay(name: RoleName, mapping: Path | None, settings: Settings = SETTINGS, client: FakeClient | None = None) -> Any:
    client = client or FakeClient(FakeCluster(num_partitions=2, topics=TOPICS))
    topics = topics_of(name, settings.model_copy(update={"relay": RELAY}))
    if name == "relay-items":
        translate = items_translator(None if mapping is None else item_source("relay.items", "json", mapping, None))
    else:
        translate = events_translator(None if mapping is None else event_source("relay.events", "json", mapping, None))
    role = RelayRole(topics, translate, 3600.0)
    return client, LoopHarness(client, role, Stores(None, "", topics.group_id), settings)


@pytest.mark.parametrize("settings", [SETTINGS, EXACTLY_ONCE], ids=["at_least_once", "exactly_once"])
def test_every_event_is_written_once_under_its_user_and_in_order(settings: Settings, mapping: Path) -> None:
    client, harness = relay("relay-events", mapping, settings)
    for number in range(40):
        client.cluster.append("clicks", number % 2, None, click(number))
    client.cluster.append("clicks", 0, None, click(99, bot=True))
    client.cluster.append("clicks", 1, b"any", b"{}")
    with harness:
        harness.until_committed()
    written = client.cluster.records("events")
    events = [decode(UserEvent, record.value) for record in written]
    assert [record.key for record in written] == [event.key for event in events]
    assert sorted(event.item_id for event in events) == sorted(f"sku-{number}" for number in range(40))
    assert {event.event_type for event in events} == {"purchase"}
    for parity in (0, 1):
        of_partition = [int(event.item_id[4:]) for event in events if int(event.item_id[4:]) % 2 == parity]
        assert of_partition == sorted(of_partition)
    (letter,) = [decode(DeadLetter, record.value) for record in client.cluster.records("dead-letters")]
    assert (letter.topic, letter.key, letter.value, letter.stage) == ("clicks", b"any", b"{}", "relay")
    assert letter.detail == "event_type: is missing (shop.yaml, line 5: type)"
    totals = harness.metrics.accounting.totals
    assert (totals.consumed, totals.published["upsert"], totals.superseded["skipped"]) == (42, 40, 1)
    assert totals.unaccounted() == 0


def test_an_item_and_its_deletion_are_both_written(mapping: Path) -> None:
    client, harness = relay("relay-items", mapping)
    client.cluster.append("products", 0, b"sku-1", b'{"sku": "sku-1", "title": "Kettle"}')
    client.cluster.append("products", 0, b"sku-1", b'{"sku": "sku-1", "title": "Pot"}')
    client.cluster.append("products", 0, b"sku-1", None)
    with harness:
        harness.until_committed()
    first, second, gone = client.cluster.records("items")
    assert [decode(NewItem, each.value).content["text"].text for each in (first, second)] == ["Kettle", "Pot"]
    assert {each.key for each in (first, second, gone)} == {b"sku-1"}
    assert gone.value is None
    assert harness.metrics.accounting.totals.published == {"upsert": 2, "tombstone": 1}


def test_messages_of_the_contract_are_passed_on_under_the_right_key() -> None:
    client, harness = relay("relay-items", None)
    value = item_value("a")
    client.cluster.append("products", 0, None, value)
    client.cluster.append("products", 1, b"b", None)
    client.cluster.append("products", 1, None, b"{}")
    with harness:
        harness.until_committed()
    assert {(each.key, each.value) for each in client.cluster.records("items")} == {(b"a", value), (b"b", None)}
    assert len(client.cluster.records("dead-letters")) == 1


def test_a_refused_output_is_written_again(mapping: Path) -> None:
    client, harness = relay("relay-events", mapping)
    for number in range(20):
        client.cluster.append("clicks", 0, None, click(number))
    failures = iter([ClientError("the broker is away")])
    client.refuse = lambda topic, key: next(failures, None) if topic == "events" else None
    with harness:
        harness.until_committed()
    written = {decode(UserEvent, record.value).item_id for record in client.cluster.records("events")}
    assert written == {f"sku-{number}" for number in range(20)}


def test_the_bytes_are_those_that_the_contract_s_own_writer_makes(mapping: Path) -> None:
    source = item_source("relay.items", "json", mapping, None)
    mapping.write_text(
        "items: {item_id: sku, content: {text: title}, neighbors: near, partial: true,"
        " attributes: {price: price, tags: tags}, features: {text: {path: v, encoder: e},"
        " image: {path: w, dtype: i1}}}"
    )
    source = item_source("relay.items", "json", mapping, None)
    value = {"sku": "a", "title": "T", "near": ["b", 7], "price": 1.5, "tags": ["x"], "v": [1, 2.5], "w": [[1, -3]]}
    from tests.fakes import FakeRecord

    fields = source.read(FakeRecord(value=json.dumps(value).encode(), timestamp=1_767_225_600_000))
    assert isinstance(fields, dict)
    packed = source.packed(fields)
    assert decode(NewItem, packed) == source.mapping.item(fields)
    assert packed == encode(source.mapping.item(fields))
