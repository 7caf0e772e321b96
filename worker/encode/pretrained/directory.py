"""A model directory: what is in it, what it is called, and how its parts are loaded."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worker.errors import ConfigError

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
CHUNK_BYTES = 2**20
ID_CHARS = 12
NAMES_SHOWN = 3


class ModelDirectory:
    """A directory in the format of Hugging Face, or of sentence-transformers. Raises `ConfigError` if it is none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ConfigError(
                f"encode.encoders: no directory {path}; a model is a local directory: save one with "
                "`save_pretrained(…)`, or with `hf download MODEL --local-dir …` where there is a network"
            )
        self.config = self.json(CONFIG)
        if not isinstance(self.config.get("model_type"), str):
            raise ConfigError(f"encode.encoders: {path / CONFIG} names no model_type")
        if not any(path.glob(WEIGHTS)):
            raise ConfigError(f"encode.encoders: {path} holds no {WEIGHTS}; weights in other formats are not loaded")

    @property
    def model_type(self) -> str:
        return str(self.config["model_type"])

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the directory, empty if there is no such file."""
        value = self.json_value(name)
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"encode.encoders: {self.path / name} must hold a JSON object")
        return value or {}

    def json_value(self, name: str) -> Any:
        file = self.path / name
        try:
            return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"encode.encoders: {file} cannot be read as JSON: {error}") from error

    def encoder_name(self, kind: str) -> str:
        """Names the vectors, not the place: the kind and a hash of every file that can change them."""
        digest = hashlib.sha256()
        for file in sorted(self.path.rglob("*")):
            if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
                digest.update(str(file.relative_to(self.path)).encode())
                with file.open("rb") as stream:
                    while chunk := stream.read(CHUNK_BYTES):
                        digest.update(chunk)
        return f"{kind}-{digest.hexdigest()[:ID_CHARS]}"

    def model(self, kind: Any, dtype: Any, *, optional: str | None = None) -> Any:
        """A model of this class with the directory's weights, inside `loading`.

        Weights that are missing would be random ones: they are refused, unless their name begins with `optional`.
        """
        model, report = kind.from_pretrained(
            self.path,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=dtype,
            output_loading_info=True,
        )
        missing = [name for name in sorted(report["missing_keys"]) if not (optional and name.startswith(optional))]
        if missing:
            shown = ", ".join(missing[:NAMES_SHOWN])
            raise ConfigError(f"encode.encoders: {self.path} lacks the weights {shown}")
        return model

    @contextmanager
    def loading(self) -> Iterator[dict[str, Any]]:
        """Yields the arguments with which `from_pretrained` loads this directory and nothing else.

        What loading raises becomes a `ConfigError`, and so does a missing library.
        """
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        try:
            from transformers.utils.logging import disable_progress_bar, set_verbosity_error

            disable_progress_bar()  # type: ignore[no-untyped-call]
            set_verbosity_error()  # type: ignore[no-untyped-call]
            yield {"local_files_only": True, "trust_remote_code": False}
        except ImportError as error:
            raise ConfigError(
                f"encode.encoders: {self.path} needs {error.name or 'a library'}: pip install 'align-worker[encoders]'"
            ) from error
        except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
            raise ConfigError(f"encode.encoders: {self.path} cannot be loaded: {error}") from error
