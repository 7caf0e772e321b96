"""Which encoder a setting means."""

from __future__ import annotations

from pathlib import Path

from worker.encode.builtin import BUILTIN
from worker.encode.encoder import Encoder
from worker.errors import ConfigError

IMAGE_MODELS = ("clip", "clip_vision_model", "siglip", "siglip_vision_model")
AUDIO_MODELS = ("clap", "clap_audio_model")


def load_encoder(model: str, *, device: str = "auto", dtype: str = "auto") -> Encoder:
    """A built-in encoder by name, or the one in a model directory, by the type of its model.

    Raises `ConfigError` for what is neither, and for a directory that cannot be loaded.
    """
    if model in BUILTIN:
        return BUILTIN[model]()
    if model.startswith("builtin-"):
        raise ConfigError(f"encode.encoders: {model!r} is unknown; built in are {', '.join(BUILTIN)}")
    from worker.encode.pretrained.audio import SoundEncoder
    from worker.encode.pretrained.device import placement
    from worker.encode.pretrained.directory import ModelDirectory
    from worker.encode.pretrained.image import PictureEncoder
    from worker.encode.pretrained.text import SentenceEncoder

    directory, where = ModelDirectory(Path(model)), placement(device, dtype)
    if directory.model_type in IMAGE_MODELS:
        return PictureEncoder(directory, where)
    if directory.model_type in AUDIO_MODELS:
        return SoundEncoder(directory, where)
    return SentenceEncoder(directory, where)
