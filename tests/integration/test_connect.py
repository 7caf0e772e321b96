"""Topics in JSON through relay and in place, from a mapping file to vectors; and the page that tells how."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from schemas import DeadLetter, ItemVector, NewItem, UserEvent, UserVector, decode
from tests.brokers import Broker, Outgoing, produce, read_topic
from tests.contract.mapping.samples import DEBEZIUM, ROW, change, to_json
from tests.integration.worker_thread import WorkerThread
from tests.stores.postgres import Postgres
from tests.worker_process import ROOT, as_text, in_group
from worker.align import command
from worker.settings import variable

PAGE = ROOT / "worker" / "mapping" / "README.md"


@pytest.fixture(scope="session")
def text_space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spaces") / "text"
    command.create(path, {"text": 1_024}, dim=16, encoders={"text": "builtin-text-v1"})
    return path


def settings(broker: Broker, topics: Mapping[str, str], space: Path, **changes: Any) -> dict[str, Any]:
    return {
        **in_group("kafka", broker.client_settings),
        **in_group("topics", topics),
        "kafka.group_id": f"group-{topics['items']}",
        "space.path": str(space),
        "encode.encoders": "text=builtin-text",
        "threads": 1,
        "commit.interval_ms": 100,
        "http.host": "127.0.0.1",
        "http.port": 0,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }


def written(broker: Broker, topic: str, kind: Any) -> list[Any]:
    return [decode(kind, record.value) for record in read_topic(broker.options, topic) if record.value is not None]


def done(thread: WorkerThread) -> None:
    """Ends by itself, once it has caught up."""
    thread._thread.join(150)
    assert not thread._thread.is_alive()


@pytest.mark.parametrize("delivery", ["at_least_once", "exactly_once"])
def test_products_and_clicks_in_json_become_vectors_through_the_relay(
    delivery: str, broker: Broker, topics: Mapping[str, str], text_space: Path, tmp_path: Path
) -> None:
    if delivery == "exactly_once" and broker.kind == "embedded":
        pytest.skip("the embedded broker keeps no transactions apart")
    from tests.contract.mapping.samples import CLICK, PRODUCT, SHOP

    run = uuid.uuid4().hex[:8]
    products, clicks = f"products-{run}", f"clicks-{run}"
    broker.create_topics(dict.fromkeys([*topics.values(), products, clicks], 2))
    mapping = tmp_path / "shop.yaml"
    mapping.write_text(SHOP.replace("    image: {uri: img_url}\n", ""))
    produce(
        broker.options,
        [
            *(Outgoing(products, None, to_json({**PRODUCT, "sku": f"sku-{n}"}), n % 2) for n in range(60)),
            Outgoing(products, None, b"no json", 0),
            *(Outgoing(clicks, b"any", to_json({**CLICK, "session": f"s-{n % 7}", "sku": f"sku-{n}"}), n % 2)
              for n in range(60)),
        ],
    )  # fmt: skip
    given = settings(
        broker, topics, text_space, roles="relay,items,users", delivery=delivery,
        relay__items__topic=products, relay__items__format="json", relay__items__mapping=mapping,
        relay__events__topic=clicks, relay__events__format="json", relay__events__mapping=mapping,
    )  # fmt: skip
    with WorkerThread(given, until_caught_up=True) as worker:
        done(worker)
    items = written(broker, topics["items"], NewItem)
    assert {item.item_id for item in items} == {f"sku-{n}" for n in range(60)}
    events = written(broker, topics["events"], UserEvent)
    assert (len(events), {event.event_type for event in events}) == (60, {"purchase"})
    vectors = written(broker, topics["item_vectors"], ItemVector)
    assert {vector.item_id for vector in vectors} == {f"sku-{n}" for n in range(60)}
    assert {vector.attributes["price"] for vector in vectors} == {39.9}
    users = {vector.user_id: vector.num_events for vector in written(broker, topics["user_vectors"], UserVector)}
    assert users == {f"s-{n}": len(range(n, 60, 7)) for n in range(7)}
    (letter,) = written(broker, topics["dead_letters"], DeadLetter)
    assert (letter.topic, letter.value, letter.reason) == (products, b"no json", "wrong_format")


def test_a_topic_of_debezium_is_read_in_place(
    broker: Broker, topics: Mapping[str, str], text_space: Path, tmp_path: Path
) -> None:
    broker.create_topics(dict.fromkeys(topics.values(), 2))
    mapping = tmp_path / "rows.yaml"
    mapping.write_text(DEBEZIUM)

    def row(name: str, op: str, before: Any, after: Any, lsn: int) -> Outgoing:
        value = None if op == "" else to_json(change(op, before, after, lsn=lsn))
        return Outgoing(topics["items"], to_json({"sku": name}), value, len(name) % 2)

    kept, gone = {**ROW, "sku": "kept"}, {**ROW, "sku": "away"}
    poison = Outgoing(topics["items"], to_json({"sku": "other"}), to_json(change("c", None, kept)), 1)
    produce(
        broker.options,
        [
            row("kept", "r", None, {**kept, "title": "Pot"}, 1),
            row("away", "c", None, gone, 2),
            row("kept", "u", None, kept, 3),
            row("away", "d", gone, None, 4),
            row("away", "", None, None, 0),
            poison,
        ],
    )
    given = settings(
        broker, topics, text_space, input__items__format="json", input__items__mapping=mapping, batch__max_age_ms=0
    )
    with WorkerThread(given, until_caught_up=True) as worker:
        done(worker)
    last = {record.key: record.value for record in read_topic(broker.options, topics["item_vectors"])}
    assert last.keys() == {b"kept", b"away"}
    assert last[b"away"] is None
    vector = decode(ItemVector, last[b"kept"])
    assert (vector.item_id, vector.revision, vector.attributes) == ("kept", 3, {"price": 39.9})
    (letter,) = written(broker, topics["dead_letters"], DeadLetter)
    assert (letter.key, letter.value, letter.reason) == (poison.key, poison.value, "key_mismatch")


# ---------------------------------------------------------------------- the page


def block(after: str) -> str:
    """The first indented block of the page behind a text."""
    found = re.search(r"(?:^    .*\n)+", PAGE.read_text().split(after, 1)[1], re.M)
    assert found, after
    return re.sub(r"^    ", "", found[0], flags=re.M)


@pytest.mark.real_kafka
@pytest.mark.timeout(600)
def test_the_page_runs_as_printed(
    real_kafka: Broker, topics: Mapping[str, str], postgres: Postgres, tmp_path: Path
) -> None:
    broker, run = real_kafka, uuid.uuid4().hex[:8]
    foreign = {"shop.products": f"products-{run}", "shop.clicks": f"clicks-{run}"}
    database = postgres.create_database(f"page-{run}")
    broker.create_topics(dict.fromkeys(foreign.values(), 1))
    for name in ("products.jsonl", "clicks.jsonl", "shop.yaml", "worker.yaml"):
        text = block(f"`{name}`")
        for printed, here in {**foreign, "postgresql://postgres@database/postgres": database}.items():
            text = text.replace(printed, here)
        (tmp_path / name).write_text(text)
    for topic, file in zip(foreign.values(), ("products.jsonl", "clicks.jsonl"), strict=True):
        produce(
            broker.options, [Outgoing(topic, None, line, 0) for line in (tmp_path / file).read_bytes().splitlines()]
        )
    variables = {name: value for name, value in os.environ.items() if not name.startswith("ALIGN_")}
    own = {**in_group("kafka", broker.client_settings), **in_group("topics", topics), "kafka.group_id": f"group-{run}"}
    variables |= {variable(name): as_text(value) for name, value in own.items()}
    variables |= {"ALIGN_HTTP__PORT": "0", "ALIGN_THREADS": "1", "PYTHONPATH": str(ROOT)}
    answers = []
    for text in ("the topics `shop.products` and `shop.clicks`", "To ask:", "with a price:", "## Files"):
        for line in block(text).splitlines():
            program, *words = shlex.split(line)
            assert program == "align-worker"
            finished = subprocess.run(
                [sys.executable, "-m", "worker", *words], cwd=tmp_path, env=variables, capture_output=True, text=True,
                timeout=300, check=False,
            )  # fmt: skip
            assert finished.returncode == 0, f"{line}\n{finished.stdout}{finished.stderr}"
            answers.append(finished.stdout)
    asked = answers[3]
    assert "k-1" in asked.splitlines()[1] or "k-1" in asked.splitlines()[0], asked
    assert answers[5] == block("It answers:")
    prices = {
        vector.item_id: vector.attributes["price"] for vector in written(broker, topics["item_vectors"], ItemVector)
    }
    assert prices == {"k-1": 39.9, "k-2": 59, "b-1": 249}
    assert len(written(broker, topics["items"], NewItem)) == 6  # once by the relay, once by send
    assert json.loads((tmp_path / "data" / "items.msgpack.sent").read_text())["sent"] == 3
