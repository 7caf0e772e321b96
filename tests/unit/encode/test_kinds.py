"""Kinds of models: each gives the vectors of its library, and what is none of them is refused in one line."""

from __future__ import annotations

import io
import json
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
from worker.encode.encoder import Encoder
from worker.encode.media.decoding import decode
from worker.encode.media.forms import MediaLimits, Text
from worker.encode.registry import load_encoder
from worker.errors import ConfigError

TEXTS = ["a disc moves over the sea", "a disc", "words that it does not know"]
WIDE = media_files.picture("PNG", media_files.scene(40, 96))


def unit(rows: Any) -> NDArray[np.float32]:
    array = np.asarray(rows, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def of_file(encoder: Encoder, data: bytes) -> NDArray[np.float32]:
    return encoder.encode(encoder.pieces(decode(data, encoder.forms(1), MediaLimits())))


def of_texts(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    nothing = [None] * (len(encoder.forms(1)) - 1)
    return encoder.encode([piece for text in texts for piece in encoder.pieces([*nothing, Text(text)])])


def loaded(path: Path) -> Encoder:
    return load_encoder(str(path), device="cpu")


def cosines(found: NDArray[np.float32], expected: Any) -> float:
    assert found.shape == np.shape(expected)
    return float((found * unit(expected)).sum(1).min())


# ---------------------------------------------------------------------- two sides


@pytest.fixture(scope="module", params=["clip", "siglip", "siglip2"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return models.two_sided(tmp_path_factory.mktemp(request.param) / "model", request.param)


def features(output: Any) -> Any:
    return getattr(output, "pooler_output", output).numpy()


def test_one_directory_serves_texts_and_pictures_with_the_vectors_of_its_library(pair: Path) -> None:
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model, encoder = AutoModel.from_pretrained(pair).eval(), loaded(pair)
    padding = "longest" if "clip" in str(pair) else "max_length"
    tokens = AutoTokenizer.from_pretrained(pair)(TEXTS, padding=padding, truncation=True, return_tensors="pt")
    pictures = AutoImageProcessor.from_pretrained(pair, backend="pil")(
        Image.open(io.BytesIO(WIDE)).convert("RGB"), return_tensors="pt"
    )
    tokens = {name: value for name, value in tokens.items() if name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        texts, seen = features(model.get_text_features(**tokens)), features(model.get_image_features(**pictures))
    assert cosines(of_texts(encoder, TEXTS), texts) > 0.9999
    assert cosines(of_file(encoder, WIDE), seen) > 0.9999
    assert encoder.name.startswith(("clip-", "siglip-", "siglip2-"))


def test_pieces_of_both_sides_may_share_a_batch(pair: Path) -> None:
    encoder = loaded(pair)
    nothing = [None] * (len(encoder.forms(1)) - 1)
    pieces = [
        *encoder.pieces([*nothing, Text(TEXTS[0])]),
        *encoder.pieces(decode(WIDE, encoder.forms(1), MediaLimits())),
        *encoder.pieces([*nothing, Text(TEXTS[1])]),
    ]
    alone = np.concatenate([encoder.encode([piece]) for piece in pieces])
    assert np.abs(encoder.encode(pieces) - alone).max() < 1e-5


def test_a_text_longer_than_its_side_takes_is_cut_and_says_so(pair: Path) -> None:
    encoder = loaded(pair)
    (long,) = encoder.pieces([None, Text("a " * 80)])
    (short,) = encoder.pieces([None, Text("a")])
    assert (long.is_cut, short.is_cut) == (True, False)


def test_texts_and_sounds_share_the_space_of_clap(tmp_path: Path) -> None:
    from transformers import AutoTokenizer, ClapModel

    path = models.two_sided(tmp_path / "clap", "clap")
    encoder = loaded(path)
    tokens = AutoTokenizer.from_pretrained(path)(TEXTS, padding=True, truncation=True, return_tensors="pt")
    tokens = {name: value for name, value in tokens.items() if name in ("input_ids", "attention_mask")}
    with torch.inference_mode():
        expected = features(ClapModel.from_pretrained(path).eval().get_text_features(**tokens))
    assert cosines(of_texts(encoder, TEXTS), expected) > 0.9999
    assert of_file(encoder, media_files.wav()).shape == (1, encoder.dim)


def test_without_a_tokenizer_there_is_one_side(tmp_path: Path) -> None:
    path = models.two_sided(tmp_path / "clip", "clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    assert loaded(path).name.startswith("clip-image-")


# ---------------------------------------------------------------------- pictures of any proportions, and others


def test_naflex_sees_the_whole_of_a_picture_in_its_own_proportions(tmp_path: Path) -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    encoder = loaded(models.two_sided(tmp_path / "naflex", "siglip2"))
    for height, width in ((40, 96), (96, 40), (64, 64), (8, 300), (333, 100)):
        data = media_files.picture("PNG", media_files.scene(height, width))
        (part, *_) = decode(data, encoder.forms(1), MediaLimits())
        assert part is not None
        assert part[0].shape[1:3] == get_image_size_for_max_num_patches(height, width, 8, 16)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext"])
def test_dino_gives_the_vectors_of_its_library(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModel, BitImageProcessorPil

    path = models.dino(tmp_path / kind, kind)
    inputs = BitImageProcessorPil.from_pretrained(path)(Image.open(io.BytesIO(WIDE)), return_tensors="pt")
    with torch.inference_mode():
        expected = AutoModel.from_pretrained(path).eval()(**inputs).pooler_output.numpy()
    assert cosines(of_file(loaded(path), WIDE), expected) > 0.9999


def test_whisper_is_the_mean_over_the_time_in_which_there_is_sound(tmp_path: Path) -> None:
    from transformers import WhisperFeatureExtractor, WhisperModel

    path = models.whisper(tmp_path / "whisper")
    encoder, samples = loaded(path), media_files.tone(0.5)
    data = media_files.wav(samples)
    (piece,) = encoder.pieces(decode(data, encoder.forms(1), MediaLimits()))
    inputs = WhisperFeatureExtractor.from_pretrained(path)(piece.payload, sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        steps = WhisperModel.from_pretrained(path).eval().encoder(inputs["input_features"]).last_hidden_state[0]
    expected = steps[: round(50 * len(piece.payload) / 16_000)].mean(0, keepdim=True).numpy()
    assert cosines(encoder.encode([piece]), expected) > 0.9999


# ---------------------------------------------------------------------- decoders


def test_a_decoder_is_pooled_as_its_directory_says(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    path = models.decoder(tmp_path / "qwen", pooling="lasttoken")
    expected = SentenceTransformer(str(path), device="cpu").encode(TEXTS)
    assert cosines(of_texts(loaded(path), TEXTS), expected) > 0.9999


# ---------------------------------------------------------------------- refusals


def told(path: Path) -> str:
    with pytest.raises(ConfigError) as refused:
        loaded(path)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_decoder_without_pooling_is_not_pooled_by_the_mean(tmp_path: Path) -> None:
    said = told(models.decoder(tmp_path / "qwen", pooling=None))
    assert "is a decoder (qwen3) and does not say how its tokens are pooled" in said
    assert "sentence-transformers" in said


@pytest.mark.parametrize("model_type", ["t5", "vit", "wav2vec2", "qwen3_vl", "blip", "sam", "made-up"])
def test_a_kind_that_is_not_known_is_refused_with_those_that_are(tmp_path: Path, model_type: str) -> None:
    path = models.bert(tmp_path / "model")
    models.edit(path / "config.json", model_type=model_type)
    said = told(path)
    assert f"is of type {model_type!r}, which is no known encoder" in said
    assert "DINOv2" in said


@pytest.mark.parametrize("changes", [{"is_decoder": True}, {"is_encoder_decoder": True}])
def test_a_text_encoder_that_is_none_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = models.bert(tmp_path / "model")
    models.edit(path / "config.json", **changes)
    told(path)


def test_code_of_a_directory_and_places_outside_it_are_refused(tmp_path: Path) -> None:
    path = models.sentence_encoder(tmp_path / "model")
    modules = json.loads((path / "modules.json").read_text())
    (path / "modules.json").write_text(json.dumps([{**modules[0], "type": "custom_st.Transformer"}, modules[1]]))
    assert "no code of a directory is run" in told(path)
    (path / "modules.json").write_text(json.dumps([modules[0], {**modules[1], "path": "../other"}]))
    assert "outside the directory" in told(path)


def test_an_adapter_is_not_loaded_in_silence(tmp_path: Path) -> None:
    path = models.bert(tmp_path / "model")
    (path / "adapter_config.json").write_text("{}")
    assert "merge" in told(path)


# ---------------------------------------------------------------------- identity


def sharded(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    names = sorted(weights)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, mine in parts.items():
        save_file({name: weights[name] for name in mine}, path / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, mine in parts.items() for name in mine}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "model.safetensors").unlink()


def unrelated(path: Path) -> None:
    (path / "README.json").write_text('{"likes": 7}')
    (path / "notes.txt").write_text("bought on Monday")
    (path / "onnx").mkdir()
    save_file({"other": torch.zeros(1)}, path / "onnx" / "model.safetensors")
    models.edit(path / "config.json", transformers_version="4.2.0", _name_or_path="/elsewhere", torch_dtype="bfloat16")


@pytest.mark.parametrize("change", [unrelated, sharded])
def test_what_has_no_effect_leaves_the_name_and_the_vectors(tmp_path: Path, change: Any) -> None:
    first, second = (models.sentence_encoder(tmp_path / name) for name in ("one", "two"))
    change(second)
    encoders = loaded(first), loaded(second)
    assert encoders[0].name == encoders[1].name
    assert np.array_equal(of_texts(encoders[0], TEXTS), of_texts(encoders[1], TEXTS))


def other_weights(path: Path) -> None:
    weights = load_file(path / "model.safetensors")
    weights["embeddings.word_embeddings.weight"][5, 5] += 1
    save_file(weights, path / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        other_weights,
        lambda path: models.edit(path / "config.json", hidden_act="relu"),
        lambda path: models.edit(path / "1_Pooling" / "config.json", pooling_mode="cls"),
        lambda path: models.edit(path / "config_sentence_transformers.json", prompts={"document": "passage : "}),
        lambda path: models.edit(path / "tokenizer.json", normalizer=None),
        lambda path: models.edit(path / "sentence_bert_config.json", max_seq_length=4),
    ],
    ids=["weights", "activation", "pooling", "prompt", "tokenizer", "length"],
)
def test_what_changes_a_vector_changes_the_name(tmp_path: Path, change: Any) -> None:
    first, second = (models.sentence_encoder(tmp_path / name) for name in ("one", "two"))
    change(second)
    assert loaded(first).name != loaded(second).name
