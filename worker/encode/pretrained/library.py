"""Models saved by sentence-transformers that the encoders here do not know: vision-language embedders, towers joined by
a router, static embeddings and others. The library puts such a model together; decoding, limits and batches stay here.

The library follows a text that looks like an address or the path of an image. So a text is never handed to it bare,
and images and audio only as arrays.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.choice import ModelChoice
from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Audio, AudioForm, Form, ImageForm, Images, Part, Text, TextForm
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory, without_origin
from worker.encode.pretrained.text import document_prompt, query_prompt
from worker.errors import ConfigError

MODALITIES = ("image", "audio", "text")
"""In the order in which they are handed over: it changes the vector."""
SIDE = 1_024
"""Pixels: larger images are shrunk to it, before the model's own processing."""
WINDOW_S = 30.0
MAX_CHARS = 32_768
CHARS_PER_TOKEN = 32
IMAGE_COST, SECOND_COST = 256, 50  # tokens, about
CPU_BATCH_COST, GPU_BATCH_COST = 2_048, 65_536
READ_FILES = (
    "sentence_bert_config.json", "processor_config.json", "preprocessor_config.json", "video_preprocessor_config.json",
    "generation_config.json", "router_config.json", "config.json",
)  # fmt: skip
TEMPLATES = ("chat_template.jinja", "chat_template.json")
OF_RECORD = ("__version__", "prompts", "default_prompt_name", "similarity_fn_name")


class LibraryEncoder:
    """A text, an image or an audio clip, the latter two also with a text, to the vector of its directory's model."""

    unit: Unit = "tokens"

    def __init__(self, directory: ModelDirectory, placement: Placement, choice: ModelChoice) -> None:
        _require_own_modules(directory)
        with directory.loading(), _weights_seen(directory):
            import sentence_transformers
            import transformers

            self._model: Any = sentence_transformers.SentenceTransformer(
                str(directory.path),
                device=placement.device,
                trust_remote_code=False,
                local_files_only=True,
                model_kwargs={"dtype": placement.dtype, "use_safetensors": True},
            ).eval()
        self._model.default_prompt_name = None
        prompt = document_prompt(directory, choice)
        self._prompt = query_prompt(directory, choice) if choice.for_queries else prompt
        known = {str(each) for each in self._model.modalities if isinstance(each, str)}
        self._modalities = tuple(name for name in MODALITIES if name in known)
        if not self._modalities:
            raise ConfigError(f"encode.encoders: {directory.path} takes none of {', '.join(MODALITIES)}")
        self._max_length = self._model.max_seq_length
        libraries = (sentence_transformers.__version__, transformers.__version__)
        self.name = directory.encoder_name(
            directory.model_type or "sentence-transformers",
            files=_effects(directory),
            prompt=prompt,
            # What they do to an input has changed between releases, and with it the vectors.
            libraries=[".".join(version.split(".")[:2]) for version in libraries],
        )
        self.batch_cost = CPU_BATCH_COST if placement.is_cpu else GPU_BATCH_COST
        self.dim = self.encode([self._sample()]).shape[1]

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        forms: dict[str, Form] = {
            "image": ImageForm(SIDE, SIDE, "within", frames=num_vectors),
            "audio": AudioForm(self._rate, WINDOW_S, num_vectors),
            "text": TextForm(min(MAX_CHARS, CHARS_PER_TOKEN * (self._max_length or MAX_CHARS))),
        }
        return tuple(forms[name] for name in self._modalities)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        texts = [part.text for part in parts if isinstance(part, Text)]
        text: dict[str, Any] = {"text": texts[0]} if texts else {}
        text_cost = len(texts[0]) // 4 + 1 if texts else 0
        for part in parts:
            if isinstance(part, Images):
                return [Piece({"image": pixels_HW3, **text}, IMAGE_COST + text_cost) for pixels_HW3 in part.pixels_NHW3]
            if isinstance(part, Audio):
                cost = int(SECOND_COST * part.samples_NT.shape[1] / self._rate) + 1
                return [Piece({"audio": samples_T, **text}, cost + text_cost) for samples_T in part.samples_NT]
        return [Piece(text, text_cost)] if text else []

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        alike: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for index, piece in enumerate(pieces):
            alike[tuple(piece.payload)].append(index)
        rows: dict[int, NDArray[np.float32]] = {}
        for mine in alike.values():
            made = self._model.encode(
                [self._input(pieces[index].payload) for index in mine],
                prompt=self._prompt or None,
                batch_size=len(mine),
                show_progress_bar=False,
                convert_to_numpy=False,
                convert_to_tensor=True,
            )
            rows |= zip(mine, made.float().cpu().numpy(), strict=True)
        return unit_rows(np.stack([rows[index] for index in range(len(pieces))]))

    def _input(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        from PIL import Image

        made = dict(payload)
        if "image" in made:
            made["image"] = Image.fromarray(made["image"])
        if "audio" in made:
            made["audio"] = {"array": made["audio"], "sampling_rate": self._rate}
        return made

    @property
    def _rate(self) -> int:
        processor = getattr(self._model[0], "processor", None)
        for holder in (getattr(processor, "feature_extractor", None), processor):
            if isinstance(rate := getattr(holder, "sampling_rate", None), int):
                return rate
        return 16_000

    def _sample(self) -> Piece:
        payloads = {
            "text": {"text": "a"},
            "image": {"image": np.full((64, 64, 3), 128, np.uint8)},
            "audio": {"audio": np.zeros(self._rate, np.float32)},
        }
        return Piece(payloads[self._modalities[-1]], 1)


def _effects(directory: ModelDirectory) -> dict[str, Any]:
    """Settings that the library reads from a directory, besides weights, and that have an effect."""
    places = dict.fromkeys(["", *(str(module.get("path", "")) for module in directory.modules)])
    effects: dict[str, Any] = {"modules": [[module.get("type"), module.get("path")] for module in directory.modules]}
    for place in places:
        for name in READ_FILES:
            if value := directory.json(f"{place}/{name}" if place else name):
                effects[f"{place}/{name}"] = without_origin(value)
    for name in TEMPLATES:
        if (directory.path / name).is_file():
            effects[name] = (directory.path / name).read_text(encoding="utf-8")
    said = directory.json("config_sentence_transformers.json")
    effects["settings"] = {key: value for key, value in said.items() if key not in OF_RECORD}
    effects["tokenizer"] = directory.tokenizer_effects()
    return effects


def _require_own_modules(directory: ModelDirectory) -> None:
    """A router's own list names classes, too."""
    for file in directory.path.rglob("router_config.json"):
        value = directory.json(str(file.relative_to(directory.path)))
        for kind in (value.get("types") or {}).values():
            if not str(kind).startswith("sentence_transformers."):
                raise ConfigError(
                    f"encode.encoders: {file} names {kind!r}, which is no part of sentence-transformers; no code of a "
                    "directory is run"
                )


@contextmanager
def _weights_seen(directory: ModelDirectory) -> Iterator[None]:
    """Refuse a model some of whose weights are not there: the library makes them up, and says so in its log alone."""
    told: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, listener = logging.getLogger("transformers"), Listener()
    level, handlers = logger.level, logger.handlers[:]
    logger.handlers = [listener]
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.handlers = handlers
        logger.setLevel(level)
    lines = [line for message in told for line in message.splitlines() if "MISSING" in line and "|" in line]
    if lines:
        names = ", ".join(line.partition("|")[0].strip() for line in lines[:3])
        raise ConfigError(f"encode.encoders: {directory.path} lacks the weights {names}")
