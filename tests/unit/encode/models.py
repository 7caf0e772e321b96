"""Small model directories with random weights, written by the libraries that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    BitImageProcessorPil,
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
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ConvNextConfig,
    DINOv3ConvNextModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3Model,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
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
    words(path, max_length)
    return path


def words(path: Path, max_length: int = 16, *, pad: str = "[PAD]", first: str = "[CLS]", last: str = "[SEP]") -> None:
    """A tokenizer of whole words."""
    number = {word: index for index, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(number, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        f"{first} $A {last}", special_tokens=[(first, number[first]), (last, number[last])]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad,
        unk_token="[UNK]",
        cls_token=first,
        sep_token=last,
        eos_token=last,
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(path)


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


def two_sided(path: Path, kind: str) -> Path:
    """A whole model, with what both of its sides need."""
    torch.manual_seed(0)
    text = {**TEXT_TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 2}
    if kind == "clip":
        config: Any = CLIPConfig(
            vision_config={**VISION, "projection_dim": 24},
            text_config={**text, "projection_dim": 24},
            projection_dim=24,
        )
        model: Any = CLIPModel(config)
        clip(path)
    elif kind == "siglip":
        model = SiglipModel(SiglipConfig(vision_config=VISION, text_config={**text, "projection_size": 32}))
        siglip(path)
    elif kind == "siglip2":
        vision = {**VISION, "num_patches": 16}
        del vision["image_size"]
        model = Siglip2Model(Siglip2Config(vision_config=vision, text_config={**text, "projection_size": 32}))
        Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(path)
    else:
        clap(path)
        audio = json.loads((path / "config.json").read_text())
        text = {**TEXT_TOWER, "vocab_size": len(WORDS), "max_position_embeddings": 18, "pad_token_id": 0}
        model = ClapModel(ClapConfig(audio_config=audio, text_config={**text, "projection_dim": 24}, projection_dim=24))
    (path / "model.safetensors").unlink(missing_ok=True)
    model.eval().save_pretrained(path)
    words(path)
    return path


def dino(path: Path, kind: str) -> Path:
    torch.manual_seed(0)
    small = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    made: dict[str, tuple[Any, Any]] = {
        "dinov2": (Dinov2Model, Dinov2Config(**{**small, "image_size": 48})),
        "dinov2_with_registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**{**small, "image_size": 48})),
        "dinov3_vit": (DINOv3ViTModel, DINOv3ViTConfig(**VISION)),
        "dinov3_convnext": (
            DINOv3ConvNextModel, DINOv3ConvNextConfig(hidden_sizes=[8, 8, 8, 16], depths=[1, 1, 1, 1])
        ),
    }  # fmt: skip
    model, config = made[kind]
    model(config).save_pretrained(path)
    BitImageProcessorPil(size={"shortest_edge": SIDE + 8}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        path
    )
    return path


def whisper(path: Path) -> Path:
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, num_mel_bins=16, max_source_positions=50,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(path)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(path)
    return path


def decoder(path: Path, *, pooling: str | None) -> Path:
    """Of the kind of Qwen3-Embedding; without `pooling` as one for writing texts is saved."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64,
    )  # fmt: skip
    bare = path if pooling is None else path.with_name(path.name + "-bare")
    Qwen3Model(config).save_pretrained(bare)
    words(bare)
    if pooling is not None:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

        modules: list[Any] = [Transformer(str(bare)), Pooling(32, pooling), Normalize()]
        SentenceTransformer(modules=modules, device="cpu").save(str(path), create_model_card=False)
    return path


TEMPLATE = (
    "{% for message in messages %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% elif part['type'] == 'text' %}"
    "{{ part['text'] }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
)


def vision_language(path: Path) -> Path:
    """A decoder that reads pictures between its words, pooled by the last of them; saved by sentence-transformers."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(0)
    bare = path.with_name(path.name + "-bare")
    words(bare, 128)
    tokenizer = AutoTokenizer.from_pretrained(bare)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    number = tokenizer.convert_tokens_to_ids("<image>")
    text = Qwen3Config(
        vocab_size=len(tokenizer) + 4, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
    )  # fmt: skip
    made = {"vision_config": CLIPVisionConfig(**VISION), "text_config": text, "vision_feature_layer": -1}
    config = LlavaConfig(**made, image_token_id=number)  # type: ignore[call-arg]  # one of its two names
    LlavaForConditionalGeneration(config).save_pretrained(bare)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        image_processor=pictures, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        image_token="<image>", chat_template=TEMPLATE, num_additional_image_tokens=1,
    ).save_pretrained(bare)  # fmt: skip
    modules: list[Any] = [Transformer(str(bare)), Pooling(32, "lasttoken"), Normalize()]
    prompts = {"query": "query : ", "document": ""}
    SentenceTransformer(modules=modules, device="cpu", prompts=prompts).save(str(path), create_model_card=False)
    return path
