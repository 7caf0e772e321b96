"""The verifier as a command, on topics of a broker."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from schemas import DeadLetter, Feature, ItemVector, NewItem, Reason, Tensor, encode
from tests.brokers import Broker, Outgoing, produce
from tests.verifier.__main__ import BROKEN, OK, UNDECIDED, main

KEYS = [b"item-%d" % n for n in range(6)]
METRICS = b"""
align_records_consumed_total{topic="TOPIC"} 20
align_records_published_total{topic="TOPIC",kind="upsert"} 12
align_records_published_total{topic="TOPIC",kind="tombstone"} 1
align_records_superseded_total{topic="TOPIC",reason="same_batch"} 6
align_records_dead_lettered_total{topic="TOPIC",reason="not_msgpack"} 1
align_records_abandoned_total{topic="TOPIC"} 0
align_records_in_flight{topic="TOPIC"} 0
"""


def item(key: bytes, revision: int) -> bytes:
    feature = Feature.from_numpy(revision + np.arange(4), encoder="e")
    features = {"text": feature}
    return encode(NewItem(item_id=key.decode(), revision=revision, event_time_ms=1, features=features))


def vector(key: bytes, revision: int, source: int) -> bytes:
    message = ItemVector(
        item_id=key.decode(),
        revision=revision,
        event_time_ms=1,
        space_id="space",
        vector=Tensor.from_numpy(np.eye(8)[revision]),
        modalities=("text",),
        produced_at_ms=1,
        source_offset=source,
    )
    return encode(message)


def letter(topic: str, offset: int, timestamp: int, value: bytes) -> bytes:
    message = DeadLetter(
        key=b"poison",
        value=value,
        topic=topic,
        partition=0,
        offset=offset,
        timestamp=timestamp,
        reason=Reason.NOT_MSGPACK,
        stage="decode",
        worker_version="1",
        failed_at_ms=1,
    )
    return encode(message)


def write_run(broker: Broker, topics: Mapping[str, str]) -> None:
    """Three revisions of six items, the second overtaken in its batch, a poisonous record and a delete."""
    items, vectors = topics["items"], topics["item_vectors"]
    broker.create_topics({items: 1, vectors: 1, topics["dead_letters"]: 1})
    inputs = [Outgoing(items, key, item(key, r), 0, (), 1_000) for r in (1, 2, 3) for key in KEYS]
    inputs += [Outgoing(items, b"poison", b"\xc1", 0, (), 2_000), Outgoing(items, KEYS[0], None, 0)]
    produce(broker.options, inputs)
    outputs = [
        Outgoing(vectors, key, vector(key, revision, 6 * (revision - 1) + n), 0)
        for revision in (1, 3)
        for n, key in enumerate(KEYS)
    ]
    outputs.append(Outgoing(vectors, KEYS[0], None, 0, [("align-source-offset", b"19")]))
    outputs.append(Outgoing(topics["dead_letters"], b"poison", letter(items, 18, 2_000, b"\xc1"), 0))
    produce(broker.options, outputs)


def arguments(broker: Broker, topics: Mapping[str, str]) -> list[str]:
    version = ["--api-version", "2.3"] if broker.kind == "embedded" else []
    names = [f"--{name.replace('_', '-')}={topics[name]}" for name in ("items", "item_vectors", "dead_letters")]
    return ["--bootstrap-servers", broker.bootstrap_servers, *version, *names]


@pytest.fixture
def metrics_url(topics: Mapping[str, str]) -> Iterator[str]:
    page = METRICS.replace(b"TOPIC", topics["items"].encode())

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *args: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_a_good_run_passes(
    broker: Broker, topics: Mapping[str, str], metrics_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(broker, topics)
    more = ["--space-id=space", "--dims=text=4", f"--metrics-url={metrics_url}"]
    assert main([*arguments(broker, topics), *more, "--json"]) == OK
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["ok"]
    counts = {name: verdict["counts"][name] for name in ("inputs", "published", "superseded", "dead_lettered")}
    assert counts == {"inputs": 20, "published": 13, "superseded": 6, "dead_lettered": 1}
    assert verdict["counts"]["workers"] == 1


def test_a_late_stale_vector_fails(
    broker: Broker, topics: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(broker, topics)
    produce(broker.options, [Outgoing(topics["item_vectors"], KEYS[1], vector(KEYS[1], 1, 1), 0)])
    assert main(arguments(broker, topics)) == BROKEN
    printed = capsys.readouterr().out
    assert "order: output 0/13 (key b'item-1', revision 1): comes from input 1" in printed
    assert "rule final" in printed


def test_items_of_other_sizes_must_be_dead_letters(broker: Broker, topics: Mapping[str, str]) -> None:
    write_run(broker, topics)
    assert main([*arguments(broker, topics), "--dims=text=5"]) == BROKEN


def test_nothing_is_decided_without_inputs(
    broker: Broker, topics: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(broker, topics)) == UNDECIDED
    assert "there are no inputs" in capsys.readouterr().out


def test_nothing_is_decided_when_metrics_are_not_there(
    broker: Broker, topics: Mapping[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(broker, topics)
    nobody = "http://127.0.0.1:1/metrics"
    assert main([*arguments(broker, topics), f"--metrics-url={nobody}"]) == UNDECIDED
    assert "cannot decide" in capsys.readouterr().err
