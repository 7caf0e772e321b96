"""Which encoder a setting means."""

from __future__ import annotations

from pathlib import Path

from worker.encode.builtin import BUILTIN
from worker.encode.encoder import Encoder
from worker.errors import ConfigError


def load_encoder(model: str, *, device: str = "auto", dtype: str = "auto") -> Encoder:
    """A built-in encoder by name, or the one in a model directory, by the type of its model.

    Raises `ConfigError` for what is neither, and for a directory that cannot be loaded.
    """
    if model in BUILTIN:
        return BUILTIN[model]()
    if model.startswith("builtin-"):
        raise ConfigError(f"encode.encoders: {model!r} is unknown; built in are {', '.join(BUILTIN)}")
    from worker.encode.pretrained.load import load_directory

    return load_directory(Path(model), device=device, dtype=dtype)
