"""Files of items and events to their topics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas import NewItem, UserEvent, decode
from tests.fakes import FakeClient, FakeCluster, feature
from worker.__main__ import main
from worker.commands.sending import check, send_files
from worker.data.files import write_encoded, write_events, write_items
from worker.errors import ClientError, DataError, TopicError, WorkerError
from worker.settings import Settings

SETTINGS = Settings()


def item(number: int) -> NewItem:
    return NewItem(item_id=f"i-{number}", revision=1, event_time_ms=0, features={"text": feature(2)})


def event(number: int) -> UserEvent:
    return UserEvent(
        event_id=f"e-{number}", user_id=f"u-{number % 3}", item_id="i-1", event_type="view", event_time_ms=0
    )


@pytest.fixture
def client() -> FakeClient:
    return FakeClient(FakeCluster())


def send(client: FakeClient | None, *paths: Path, **options: object) -> list[dict[str, object]]:
    return send_files(check(paths, SETTINGS), client, SETTINGS, **options)["files"]  # type: ignore[no-any-return, arg-type]


@pytest.mark.parametrize("suffix", ["msgpack", "msgpack.gz", "msgpack.zst"])
def test_items_and_events_go_to_their_topics_under_their_keys(suffix: str, client: FakeClient, tmp_path: Path) -> None:
    items, events = tmp_path / f"a.{suffix}", tmp_path / f"b.{suffix}"
    write_items(items, map(item, range(1_200)))
    write_events(events, map(event, range(7)))
    sent = send(client, items, events)
    assert [(each["kind"], each["sent"]) for each in sent] == [("items", 1_200), ("events", 7)]
    for topic, kind, count in (("items", NewItem, 1_200), ("events", UserEvent, 7)):
        records = client.cluster.records(topic)
        assert len(records) == count
        read: list[Any] = [decode(kind, record.value) for record in records]
        assert [record.key for record in records] == [each.key for each in read]


def test_a_run_that_is_broken_off_is_taken_up_where_it_was_acknowledged(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "items.msgpack"
    write_items(path, map(item, range(9_000)))
    refused: Iterator[WorkerError] = iter([ClientError("gone")])
    client.refuse = lambda topic, key: next(refused, None) if key == b"i-6000" else None
    with pytest.raises(ClientError):
        send(client, path)
    told: list[str] = []
    client.refuse = lambda topic, key: None
    (sent,) = send(client, path, tell=told.append)
    assert 0 < int(str(sent["before"])) <= 6_000
    assert "have been sent before" in told[0]
    assert {record.key for record in client.cluster.records("items")} == {f"i-{n}".encode() for n in range(9_000)}
    (sent,) = send(client, path)
    assert (sent["sent"], sent["before"]) == (0, 9_000)
    (sent,) = send(client, path, again=True)
    assert sent["sent"] == 9_000


def test_another_file_of_the_same_name_is_sent_from_its_beginning(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "items.msgpack"
    write_items(path, map(item, range(5)))
    send(client, path)
    write_items(path, map(item, range(6)))
    (sent,) = send(client, path)
    assert sent["sent"] == 6


def test_a_dry_run_reads_everything_and_sends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "items.msgpack"
    write_items(path, map(item, range(5)))
    assert main(["send", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out == f"5 items would be sent to items from {path}\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_rate_is_kept(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "events.msgpack"
    write_events(path, map(event, range(50)))
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    send(client, path, rate=10.0, clock=lambda: now, sleep=sleep)
    assert now == pytest.approx(4.9)


def test_a_note_that_cannot_be_written_is_told_once_and_no_reason_to_stop(client: FakeClient, tmp_path: Path) -> None:
    path = tmp_path / "items.msgpack"
    write_items(path, map(item, range(1_200)))
    (tmp_path / "items.msgpack.sent.part").mkdir()
    told: list[str] = []
    send(client, path, tell=told.append)
    assert len(client.cluster.records("items")) == 1_200
    assert len(told) == 1
    assert "begins anew" in told[0]


def test_what_cannot_be_sent_is_told(client: FakeClient, tmp_path: Path) -> None:
    empty, text, broken = tmp_path / "empty", tmp_path / "text", tmp_path / "broken"
    empty.write_bytes(b"")
    text.write_text("hello")
    write_encoded(broken, [b"\x81\xa7item_id\xa1a"])
    for path, told in (
        (empty, "there are no messages in it"),
        (text, "not a file of messages"),
        (tmp_path / "gone", "there is no such file"),
    ):
        with pytest.raises(DataError, match=told):
            check([path], SETTINGS)
    with pytest.raises(DataError, match="NewItem 1, at byte 0"):
        send(client, broken)
    path = tmp_path / "items.msgpack"
    write_items(path, map(item, range(2)))
    with pytest.raises(TopicError, match=r"topics\.items: topic 'items' does not exist"):
        send(FakeClient(FakeCluster(topics=("events",))), path)
    client.cluster.max_message_bytes = 50
    with pytest.raises(DataError, match=r"message 1 has .* raise that"):
        send(client, path)


def test_an_import_by_a_mapping_makes_the_same_messages_as_a_topic(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests.contract.mapping.samples import CLICK, PRODUCT, SHOP, record, to_json
    from worker.data.files import read_events, read_items
    from worker.mapping.source import event_source, item_source

    mapping, products, clicks = tmp_path / "shop.yaml", tmp_path / "products.jsonl", tmp_path / "clicks.jsonl"
    mapping.write_text(SHOP + "  skip: bot\n")
    products.write_bytes(to_json(PRODUCT) + b"\n" + to_json({**PRODUCT, "sku": "sku-2", "deleted": True}))
    clicks.write_bytes(to_json(CLICK) + b"\n" + to_json({**CLICK, "bot": True}))
    out = tmp_path / "data"
    flags = ["--items", str(products), "--events", str(clicks), "--mapping", str(mapping), "--out", str(out)]
    assert main(["import", "jsonl", *flags]) == 0
    assert f"to their topics: align-worker send {out}/items.msgpack {out}/events.msgpack" in capsys.readouterr().out
    (item,) = read_items(out / "items.msgpack")
    (event,) = read_events(out / "events.msgpack")
    assert item == item_source("input.items", "json", mapping, None).read_in_place(record(to_json(PRODUCT)))[1]
    assert event == event_source("input.events", "json", mapping, None).read_in_place(record(to_json(CLICK), b"s-9"))[1]
    products.write_text(json.dumps({**PRODUCT, "sku": None}))
    assert main(["import", "jsonl", *flags]) == 10
    told = capsys.readouterr().err
    assert f"{products}: row 1, item_id: is missing (shop.yaml, line 2: sku)" in told
    assert main(["import", "jsonl", *flags, "--vectors", "text=v"]) == 2
    assert "--vectors and --mapping: give one of them" in capsys.readouterr().err
