"""Encoders with weights of several kinds, through the whole worker: the vectors that encode and the model give."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from schemas import Content, ItemVector, NewItem, decode, encode
from tests import media_files
from tests.brokers.broker import embedded
from tests.integration.stream import Stream
from tests.integration.worker_thread import WorkerThread
from tests.unit.encode import models
from worker.align import AlignRuntime, Space, command
from worker.encode.content import Encoded
from worker.encode.setup import content_encoder
from worker.kafka.embedded import EmbeddedBroker
from worker.settings import EncodeSettings


def test_both_sides_of_a_model_and_two_contents_in_one_vector(
    embedded_broker: EmbeddedBroker, topics: Mapping[str, str], tmp_path: Path
) -> None:
    """Texts and pictures by a SigLIP 2 that takes any proportions, both together by a vision-language embedder."""
    pair = models.two_sided(tmp_path / "siglip2", "siglip2")
    mixed = models.vision_language(tmp_path / "mixed")
    encoders = {"text": str(pair), "image": str(pair), "both": f"{mixed}@image+text"}
    picture = media_files.picture("PNG", media_files.scene(40, 90))
    contents = {
        "film": {"text": Content(text="a disc moves over the sea"), "image": Content(data=picture)},
        "words": {"text": Content(text="another disc")},
        "poster": {"image": Content(data=picture)},
    }
    with contextlib.closing(content_encoder(EncodeSettings(encoders=encoders), device="cpu")) as encoder:
        made = {name: route.encoder for name, route in encoder.routes.items()}
        wanted = [encoder.modalities(content, ()) for content in contents.values()]
        results, _ = encoder.encode(list(contents.values()), wanted)
    names = {name: each.name for name, each in made.items()}
    command.create(tmp_path / "space", {name: each.dim for name, each in made.items()}, dim=16, encoders=names)
    space = Space.load(tmp_path / "space")
    with contextlib.closing(Stream(embedded(embedded_broker), topics, space, str(tmp_path / "space"))) as stream:
        stream.create_topics()
        stream.feed(
            stream.record(name, encode(NewItem(item_id=name, revision=1, event_time_ms=1, content=content)))
            for name, content in contents.items()
        )
        changes = {
            "encode.encoders": ",".join(f"{name}={model}" for name, model in encoders.items()),
            "publish.vector_dtype": "f4",
        }
        with WorkerThread(stream.settings(changes)) as worker:
            stream.wait_committed(worker)
        found = {record.key.decode(): decode(ItemVector, record.value) for record in stream.output_records()}
    assert {name: vector.modalities for name, vector in found.items()} == {
        "film": ("both", "image", "text"), "words": ("text",), "poster": ("image",),
    }  # fmt: skip
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=1)
    for name, result in zip(contents, results, strict=True):
        assert isinstance(result, Encoded)
        expected = runtime.embed([result.features]).vectors[0]
        assert np.abs(found[name].vector.to_numpy() - expected).max() < 1e-3
