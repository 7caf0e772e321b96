"""Models that sentence-transformers has saved and puts together: its own vectors, and nothing followed on the way."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from schemas import Content
from tests import media_files
from tests.unit.encode import models
from worker.encode.choice import ModelChoice
from worker.encode.content import ContentEncoder, Encoded, Route
from worker.encode.decoder_pool import DecoderPool
from worker.encode.encoder import Encoder
from worker.encode.media.decoding import decode
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import MediaLimits, Text
from worker.encode.registry import load_encoder
from worker.errors import ConfigError

PICTURE = media_files.picture("PNG", media_files.scene(40, 90))
TEXTS = ["a disc moves over the sea", "a disc", "the sea"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.vision_language(tmp_path_factory.mktemp("library") / "model")


@pytest.fixture(scope="module")
def encoder(path: Path) -> Encoder:
    return load_encoder(str(path), device="cpu")


@pytest.fixture(scope="module")
def reference(path: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(path), device="cpu")


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(1)
    yield made
    made.close()


def image() -> Image.Image:
    return Image.open(io.BytesIO(PICTURE)).convert("RGB")


def of(encoder: Encoder, *parts: Any) -> NDArray[np.float32]:
    return encoder.encode(encoder.pieces(parts))


def seen(encoder: Encoder) -> Any:
    return decode(PICTURE, encoder.forms(1), MediaLimits())[0]


def test_texts_pictures_and_both_together_have_the_vectors_of_the_library(encoder: Encoder, reference: Any) -> None:
    found = [of(encoder, None, Text(text))[0] for text in TEXTS]
    assert (np.stack(found) * reference.encode([{"text": text} for text in TEXTS])).sum(1).min() > 0.9999
    assert float(of(encoder, seen(encoder), None)[0] @ reference.encode([{"image": image()}])[0]) > 0.9999
    both = reference.encode([{"image": image(), "text": TEXTS[0]}])[0]
    assert float(of(encoder, seen(encoder), Text(TEXTS[0]))[0] @ both) > 0.9999
    assert float(found[0] @ both) < 0.999


def test_pieces_of_several_kinds_may_share_a_batch(encoder: Encoder) -> None:
    pieces = [
        *encoder.pieces([None, Text(TEXTS[0])]), *encoder.pieces([seen(encoder), None]),
        *encoder.pieces([seen(encoder), Text(TEXTS[1])]), *encoder.pieces([None, Text(TEXTS[2])]),
    ]  # fmt: skip
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    assert np.abs(encoder.encode(pieces) - alone).max() < 1e-4


@pytest.mark.parametrize("text", ["{file}", "https://models.test/a.png", "data:image/png;base64,AAAA"])
def test_a_text_that_looks_like_a_picture_is_a_text(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    import socket

    file = tmp_path / "picture.png"
    file.write_bytes(PICTURE)
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("something is fetched"))
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("a file is read"))
    assert of(encoder, None, Text(text.format(file=file))).shape == (1, encoder.dim)


def test_a_question_has_the_prompt_of_questions_and_the_name_of_documents(path: Path, reference: Any) -> None:
    asking = load_encoder(ModelChoice(str(path), for_queries=True), device="cpu")
    expected = reference.encode([{"text": "a disc"}], prompt="query : ")[0]
    assert float(of(asking, None, Text("a disc"))[0] @ expected) > 0.9999
    assert asking.name == load_encoder(str(path), device="cpu").name
    other = load_encoder(ModelChoice(str(path), document_prompt="passage : "), device="cpu")
    assert other.name != asking.name


def test_picture_and_text_of_an_item_go_into_one_vector(encoder: Encoder, reference: Any, pool: DecoderPool) -> None:
    content = ContentEncoder([Route("both", "image+text", encoder)], pool)
    picture, text = Content(data=PICTURE), Content(text=TEXTS[0])
    items = [{"image": picture, "text": text}, {"text": text}, {"text": text, "image": picture}]
    wanted = [content.modalities(item, ()) for item in items]
    assert wanted == [("both",), (), ("both",)]
    (first, second), report = content.encode([items[0], items[2]], [("both",)] * 2)
    assert isinstance(first, Encoded)
    assert isinstance(second, Encoded)
    expected = reference.encode([{"image": image(), "text": TEXTS[0]}])[0]
    assert float(first.features["both"].to_numpy() @ expected) > 0.999
    assert (report.by_modality["both"].encoded, report.by_modality["both"].reused) == (1, 1)
    (again,), _ = content.encode([items[0]], [("both",)])
    assert isinstance(again, Encoded)
    assert again.digests == first.digests


def test_one_of_two_contents_that_cannot_be_used_refuses_the_item(encoder: Encoder, pool: DecoderPool) -> None:
    content = ContentEncoder([Route("both", "image+text", encoder)], pool)
    broken, text = Content(data=PICTURE[:100]), Content(text="a disc")
    (result,), report = content.encode([{"image": broken, "text": text}], [("both",)])
    assert isinstance(result, ContentError)
    assert result.detail.startswith("content.image+text: image: ")
    assert report.by_modality["both"].failed.total() == 1


def test_a_question_in_words_finds_pictures(encoder: Encoder, path: Path, pool: DecoderPool) -> None:
    asking = load_encoder(ModelChoice(str(path), for_queries=True), device="cpu")
    content = ContentEncoder([Route("both", "image+text", asking, needs_all=False)], pool)
    assert content.modalities({"text": 1}, ()) == ("both",)
    (result,), _ = content.encode([{"text": Content(text="a disc")}], [("both",)])
    assert isinstance(result, Encoded)
    assert result.features["both"].encoder == encoder.name


def test_missing_weights_are_refused_and_not_made_up(path: Path, tmp_path: Path) -> None:
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(path, broken)
    weights = load_file(broken / "model.safetensors")
    del weights[next(name for name in weights if "q_proj" in name)]
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"lacks the weights .*q_proj"):
        load_encoder(str(broken), device="cpu")


def test_classes_that_a_router_names_are_none_of_the_directory(path: Path, tmp_path: Path) -> None:
    import shutil

    foreign = tmp_path / "foreign"
    shutil.copytree(path, foreign)
    (foreign / "router_config.json").write_text(json.dumps({"types": {"a": "os.system"}}))
    with pytest.raises(ConfigError, match="no code of a directory is run"):
        load_encoder(str(foreign), device="cpu")
