"""A model directory: what is in it, what it is called, and how its parts are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from worker.encode.pretrained.kinds import kind_of
from worker.errors import ConfigError
from worker.json_text import read_json

CONFIG = "config.json"
MODULES = "modules.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ANY_WEIGHTS = "*.safetensors"
ADAPTER = "adapter_config.json"
TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model",
    "sentencepiece.bpe.model", "bpe.codes", "added_tokens.json", "special_tokens_map.json",
)  # fmt: skip
WITHOUT_EFFECT = frozenset(
    {
        "_attn_implementation", "_commit_hash", "_name_or_path", "architectures", "auto_map", "dtype",
        "feature_extractor_type", "image_processor_type", "name_or_path", "processor_class", "tokenizer_class",
        "tokenizer_file", "torch_dtype", "transformers_version", "use_cache",
    }
)  # fmt: skip
"""Fields of configurations that say where a model comes from and how it was saved, not what it computes."""
CHUNK_BYTES = 2**20
MAX_HEADER_BYTES = 2**27
ID_CHARS = 12
NAMES_SHOWN = 3


class ModelDirectory:
    """A directory in the format of Hugging Face, or of sentence-transformers. Raises `ConfigError` if it is none, or
    of a kind that is not known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise ConfigError(
                f"encode.encoders: no directory {path}; a model is a local directory: save one with "
                "`save_pretrained(…)`, or with `hf download MODEL --local-dir …` where there is a network"
            )
        self.modules = self._modules()
        self.root = path if not self.modules else path / str(self.modules[0].get("path", ""))
        self.config = self._json_of(self.root / CONFIG)
        if not isinstance(self.config.get("model_type"), str) and not self.modules:
            raise ConfigError(f"encode.encoders: {path / CONFIG} names no model_type")
        if (path / ADAPTER).is_file() or (self.root / ADAPTER).is_file():
            raise ConfigError(
                f"encode.encoders: {path} holds an adapter to another model: merge the two (`merge_and_unload()` of "
                "peft) and save the result"
            )
        self.kind = kind_of(path, self.model_type, self.config, self.modules)
        if not any(path.rglob(ANY_WEIGHTS) if self.kind == "library" else path.glob(ANY_WEIGHTS)):
            raise ConfigError(
                f"encode.encoders: {path} holds no {ANY_WEIGHTS}; weights in other formats are not loaded"
            )

    @property
    def model_type(self) -> str:
        return str(self.config.get("model_type", ""))

    def _modules(self) -> list[dict[str, Any]]:
        modules = self.json_value(MODULES)
        if modules is None:
            return []
        if not isinstance(modules, list) or not modules or not all(isinstance(module, dict) for module in modules):
            raise ConfigError(f"encode.encoders: {self.path / MODULES} must hold a list of modules")
        for module in modules:
            part = Path(str(module.get("path", "")))
            if part.is_absolute() or ".." in part.parts:
                raise ConfigError(f"encode.encoders: {self.path / MODULES} names {str(part)!r}, outside the directory")
        return modules

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object of the directory, empty if there is no such file."""
        return self._json_of(self.path / name)

    def _json_of(self, file: Path) -> dict[str, Any]:
        value = self.json_value(str(file.relative_to(self.path)))
        if value is not None and not isinstance(value, dict):
            raise ConfigError(f"encode.encoders: {file} must hold a JSON object")
        return value or {}

    def json_value(self, name: str) -> Any:
        file = self.path / name
        try:
            return read_json(file.read_text(encoding="utf-8")) if file.is_file() else None
        except (OSError, ValueError) as error:
            raise ConfigError(f"encode.encoders: {file} cannot be read as JSON: {error}") from error

    def preprocessor(self) -> dict[str, Any]:
        """How images are prepared; empty if the directory does not say. Newer libraries write it into one file with
        what is done to text and audio."""
        whole = self.json("processor_config.json").get("image_processor")
        return self.json("preprocessor_config.json") or (whole if isinstance(whole, dict) else {})

    @property
    def _cure(self) -> str:
        is_library = self.kind == "library"
        return "pip install 'align-worker[library]'" if is_library else "pip install 'align-worker[encoders]'"

    @property
    def has_tokenizer(self) -> bool:
        return any((self.path / name).is_file() for name in TOKENIZER_FILES)

    # ------------------------------------------------------------------ identity

    def encoder_name(self, kind: str, **effects: Any) -> str:
        """Names the vectors, not the place: the kind, and a hash of the weights and of all else that changes a vector.

        `effects` is what of the directory's other files comes to bear, as plain values. Files that nothing is read
        from do not count, nor does how weights are spread over files.
        """
        digest = hashlib.sha256(self._weights_digest)
        described = {"config": without_origin(self.config), **effects}
        digest.update(json.dumps(described, sort_keys=True, default=str).encode())
        return f"{kind}-{digest.hexdigest()[:ID_CHARS]}"

    def tokenizer_effects(self) -> dict[str, Any]:
        """The files a tokenizer is made of."""
        found: dict[str, Any] = {
            name: hashlib.sha256((self.path / name).read_bytes()).hexdigest()
            for name in TOKENIZER_FILES
            if (self.path / name).is_file()
        }
        return found | {"config": without_origin(self.json("tokenizer_config.json"))}

    @cached_property
    def _weights_digest(self) -> bytes:
        try:
            return weights_digest(self._weights())
        except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
            raise ConfigError(f"encode.encoders: the weights in {self.path} cannot be loaded: {error}") from error

    def _weights(self) -> list[Path]:
        """The files that the library reads weights from, and those of the modules behind the model."""
        roots = [self.root, *(self.path / str(module.get("path", "")) for module in self.modules[1:])]
        if self.kind == "library":
            return sorted(file for file in self.path.rglob(ANY_WEIGHTS) if file.parent.name not in ("onnx", "openvino"))
        files: list[Path] = []
        for root in dict.fromkeys(roots):
            if (root / WEIGHTS).is_file():
                files.append(root / WEIGHTS)
            elif (root / INDEX).is_file():
                named = self._json_of(root / INDEX).get("weight_map", {})
                files += [root / name for name in sorted({Path(str(value)).name for value in named.values()})]
        return files or sorted(self.path.glob(ANY_WEIGHTS))

    # ------------------------------------------------------------------ loading

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
                f"encode.encoders: {self.path} needs {error.name or 'a library'}: {self._cure}"
            ) from error
        except (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, SafetensorError) as error:
            said = " ".join(str(error).split())
            raise ConfigError(f"encode.encoders: {self.path} cannot be loaded: {said}") from error


def without_origin(config: Any) -> Any:
    """A configuration without the fields that have no effect on what is computed, however deep."""
    if isinstance(config, Mapping):
        return {key: without_origin(value) for key, value in config.items() if key not in WITHOUT_EFFECT}
    return [without_origin(value) for value in config] if isinstance(config, list) else config


def weights_digest(files: Sequence[Path]) -> bytes:
    """Stands for the tensors in these files: their names, types, shapes and values, wherever each of them lies."""
    places: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    is_of_several = len({file.parent for file in files}) > 1
    for file in files:
        with file.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > MAX_HEADER_BYTES:
                raise ValueError(f"{file.name} has a header of {length} bytes")
            header = read_json(stream.read(length))
        prefix = f"{file.parent.name}/" if is_of_several and file.parent != files[0].parent else ""
        places |= {prefix + name: (file, 8 + length, place) for name, place in header.items() if name != "__metadata__"}
    digest = hashlib.sha256()
    for name, (file, start, place) in sorted(places.items()):
        first, end = place["data_offsets"]
        digest.update(f"{name}:{place['dtype']}:{place['shape']}\0".encode())
        with file.open("rb") as stream:
            stream.seek(start + first)
            left = end - first
            while left and (chunk := stream.read(min(left, CHUNK_BYTES))):
                digest.update(chunk)
                left -= len(chunk)
        if left:
            raise ValueError(f"{file.name} ends too early")
    return digest.digest()
