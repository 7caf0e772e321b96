"""Which encoder a setting means."""

from __future__ import annotations

from pathlib import Path

from worker.encode.builtin import BUILTIN
from worker.encode.choice import ModelChoice
from worker.encode.encoder import Encoder
from worker.encode.plugins import PREFIX, load_plugin
from worker.errors import ConfigError
from worker.settings import RemoteSettings


def load_encoder(
    model: str | ModelChoice, *, device: str = "auto", dtype: str = "auto", remote: RemoteSettings | None = None
) -> Encoder:
    """A built-in encoder or a plug-in by name, the one behind an address, or the one in a model directory.

    Raises `ConfigError` for what is none of them, and for a directory that cannot be loaded.
    """
    choice = model if isinstance(model, ModelChoice) else ModelChoice(model)
    name = choice.model
    if name in BUILTIN:
        return BUILTIN[name]()
    if name.startswith("builtin-"):
        raise ConfigError(f"encode.encoders: {name!r} is unknown; built in are {', '.join(BUILTIN)}")
    if name.startswith(PREFIX):
        return load_plugin(name, device)
    if "://" in name:
        return _load_remote(choice, remote or RemoteSettings())
    from worker.encode.pretrained.load import load_directory

    return load_directory(Path(name), choice, device=device, dtype=dtype)


def _load_remote(choice: ModelChoice, settings: RemoteSettings) -> Encoder:
    try:
        from worker.encode.remote.load import load_remote
    except ImportError as error:
        raise ConfigError(
            f"encode.encoders: servers need {error.name or 'a library'}: pip install 'align-worker[remote]'"
        ) from error
    query_prompt = choice.query_prompt or "" if choice.for_queries else None
    return load_remote(choice.model, settings, prompt=choice.document_prompt or "", query_prompt=query_prompt)
