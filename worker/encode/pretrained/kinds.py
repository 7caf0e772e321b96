"""Which models are known, and what is said of the others. Pure: it looks at what a directory declares.

A model of an unknown kind is refused: taken for one of another kind, it would load, run and give vectors of nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from worker.errors import ConfigError


class Tower(NamedTuple):
    """One side of a model."""

    model: str
    """Class of transformers that loads it, from a directory of this side alone or of the whole model."""
    output: str
    """Where its vectors are."""


_CLIP_IMAGE = Tower("CLIPVisionModelWithProjection", "image_embeds")
_CLIP_TEXT = Tower("CLIPTextModelWithProjection", "text_embeds")
_CLAP_TEXT = Tower("ClapTextModelWithProjection", "text_embeds")
_SIGLIP_IMAGE, _SIGLIP_TEXT = Tower("SiglipVisionModel", "pooler_output"), Tower("SiglipTextModel", "pooler_output")
_SIGLIP2_IMAGE, _SIGLIP2_TEXT = Tower("Siglip2VisionModel", "pooler_output"), Tower("Siglip2TextModel", "pooler_output")

IMAGE: Mapping[str, Tower] = {
    "clip": _CLIP_IMAGE,
    "clip_vision_model": _CLIP_IMAGE,
    "siglip": _SIGLIP_IMAGE,
    "siglip_vision_model": _SIGLIP_IMAGE,
    "siglip2": _SIGLIP2_IMAGE,
    "siglip2_vision_model": _SIGLIP2_IMAGE,
    "dinov2": Tower("Dinov2Model", "pooler_output"),
    "dinov2_with_registers": Tower("Dinov2WithRegistersModel", "pooler_output"),
    "dinov3_vit": Tower("DINOv3ViTModel", "pooler_output"),
    "dinov3_convnext": Tower("DINOv3ConvNextModel", "pooler_output"),
}
TEXT_TOWER: Mapping[str, Tower] = {
    "clip": _CLIP_TEXT,
    "clip_text_model": _CLIP_TEXT,
    "siglip": _SIGLIP_TEXT,
    "siglip_text_model": _SIGLIP_TEXT,
    "siglip2": _SIGLIP2_TEXT,
    "siglip2_text_model": _SIGLIP2_TEXT,
    "clap": _CLAP_TEXT,
    "clap_text_model": _CLAP_TEXT,
}
AUDIO = ("clap", "clap_audio_model", "whisper")
TWO_SIDED = ("clip", "siglip", "siglip2", "clap")

TEXT = frozenset(
    {
        "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
        "electra", "ernie", "eurobert", "flaubert", "fnet", "funnel", "gte", "ibert", "jina_embeddings_v3",
        "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "mpnet", "mra", "nomic_bert",
        "nystromformer", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "squeezebert", "xlm",
        "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
    }
)  # fmt: skip
"""Bidirectional encoders: the mean over their tokens stands for a text where a directory says nothing else."""
DECODERS = frozenset(
    {
        "bitnet", "bloom", "cohere", "cohere2", "ernie4_5", "exaone4", "falcon", "gemma", "gemma2", "gemma3_text",
        "glm", "glm4", "gpt2", "gpt_neo", "gpt_neox", "gpt_oss", "granite", "helium", "lfm2", "llama", "ministral",
        "mistral", "mixtral", "nemotron", "olmo", "olmo2", "olmo3", "opt", "phi", "phi3", "qwen2", "qwen2_moe",
        "qwen3", "qwen3_moe", "seed_oss", "smollm3", "stablelm", "starcoder2",
    }
)  # fmt: skip
"""Text encoders only where the directory says how their tokens are pooled."""

SUPPORTED = (
    "text encoders (BERT and its kin), decoders with declared pooling (Qwen3-Embedding and others), CLIP, SigLIP and "
    "SigLIP 2, DINOv2 and DINOv3, CLAP, Whisper, and what sentence-transformers has saved"
)
MODULES = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
"""Modules of sentence-transformers that the text encoder here puts together itself."""
LIBRARY = "sentence_transformers."


def kind_of(path: Path, model_type: str, config: Mapping[str, Any], modules: Sequence[Mapping[str, Any]]) -> str:
    """`text`, `towers` or `library`, for what a directory declares.

    `modules` are those of `modules.json`, none where there is no such file. Raises `ConfigError`.
    """
    if modules:
        return _kind_of_modules(path, model_type, modules)
    if model_type in IMAGE or model_type in TEXT_TOWER or model_type in AUDIO:
        return "towers"
    if model_type in DECODERS or (model_type in TEXT and config.get("is_decoder")):
        raise ConfigError(
            f"encode.encoders: {path} is a decoder ({model_type}) and does not say how its tokens are pooled; their "
            "mean would be no good vector: save it with sentence-transformers, which writes modules.json and 1_Pooling"
        )
    if model_type in TEXT and not config.get("is_encoder_decoder"):
        return "text"
    raise ConfigError(
        f"encode.encoders: {path} is of type {model_type!r}, which is no known encoder; there are {SUPPORTED}"
    )


def _kind_of_modules(path: Path, model_type: str, modules: Sequence[Mapping[str, Any]]) -> str:
    types = [str(module.get("type", "")) for module in modules]
    foreign = next((kind for kind in types if not kind.startswith(LIBRARY)), None)
    if foreign is not None:
        raise ConfigError(
            f"encode.encoders: {path}/modules.json names {foreign!r}, which is no part of sentence-transformers; no "
            "code of a directory is run"
        )
    names = [kind.rpartition(".")[2] for kind in types]
    is_plain = names[:2] == ["Transformer", "Pooling"] and all(name in MODULES for name in names)
    at_root = not modules[0].get("path")
    return "text" if is_plain and at_root and (model_type in TEXT or model_type in DECODERS) else "library"
