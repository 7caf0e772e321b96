"""Small model directories with random weights, written by the libraries that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    ClapAudioConfig,
    ClapAudioModelWithProjection,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

SIDE = 32
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    *["a", "disc", "moves", "over", "the", "sea", "and", "another", "one", "follows", "it", "passage", ":", "query"],
]
TEXT_TOWER = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": 8,
}


def bert(path: Path, *, max_length: int = 16) -> Path:
    """A transformer and a tokenizer, with no word on pooling."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(config).save_pretrained(path)
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(path)
    return path


def sentence_encoder(path: Path, *, pooling: str = "mean", dense: bool = False, prompts: Any = None) -> Path:
    """The same in the format of sentence-transformers, written by it."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    transformer = Transformer(str(bert(path.with_name(path.name + "-bert"))))
    modules: list[Any] = [transformer, Pooling(32, pooling)]
    if dense:
        torch.manual_seed(1)
        modules.append(Dense(32, 24))
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(path), create_model_card=False)
    return path


def clip(path: Path, *, resized_to: int = SIDE) -> Path:
    torch.manual_seed(0)
    CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION, projection_dim=24)).save_pretrained(path)
    CLIPImageProcessorPil(
        size={"shortest_edge": resized_to}, crop_size={"height": SIDE, "width": SIDE}
    ).save_pretrained(path)
    return path


def siglip(path: Path) -> Path:
    torch.manual_seed(0)
    SiglipVisionModel(SiglipVisionConfig(**VISION)).save_pretrained(path)
    SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(path)
    return path


def clap(path: Path, *, fusion: bool = False) -> Path:
    torch.manual_seed(0)
    config = ClapAudioConfig(
        hidden_size=16,
        patch_embeds_hidden_size=8,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        spec_size=64,
        window_size=4,
        num_mel_bins=16,
        projection_dim=24,
        enable_fusion=fusion,
    )
    ClapAudioModelWithProjection(config).save_pretrained(path)
    ClapFeatureExtractor(
        feature_size=16,
        sampling_rate=16_000,
        max_length_s=1,
        hop_length=160,
        fft_window_size=512,
        frequency_max=8_000,
        truncation="fusion" if fusion else "rand_trunc",
    ).save_pretrained(path)
    return path


def with_text_tower(path: Path) -> None:
    """Put the tower of the directory back into a model of two, as most are published."""
    kinds = {
        "clip_vision_model": (CLIPConfig, CLIPModel, "vision_config"),
        "siglip_vision_model": (SiglipConfig, SiglipModel, "vision_config"),
        "clap_audio_model": (ClapConfig, ClapModel, "audio_config"),
    }
    fields = json.loads((path / "config.json").read_text())
    config_kind, model_kind, tower = kinds[fields["model_type"]]
    towers = {tower: fields, "text_config": TEXT_TOWER}
    model = model_kind(config_kind(**towers, projection_dim=fields.get("projection_dim", 24)))
    names = model.state_dict().keys()
    weights = {
        name if name in names else f"vision_model.{name}": value
        for name, value in load_file(path / "model.safetensors").items()
    }
    assert weights.keys() <= names
    model.load_state_dict(weights, strict=False)
    model.save_pretrained(path)


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
