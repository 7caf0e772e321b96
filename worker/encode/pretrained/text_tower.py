"""Text sides of CLIP, SigLIP, SigLIP 2 and CLAP: into the space of the images or audio they were trained with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, Part, Text, TextForm
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory
from worker.encode.pretrained.kinds import TEXT_TOWER

CPU_BATCH_TEXTS, GPU_BATCH_TEXTS = 16, 512
CHARS_PER_TOKEN = 32
INPUTS = ("input_ids", "attention_mask")


class TextTower:
    """A text to the vector of its directory's model, padded as the library pads it: SigLIP was trained on texts of one
    length, and reads the last place of it."""

    unit: Unit = "tokens"

    def __init__(self, directory: ModelDirectory, placement: Placement) -> None:
        self._placement = placement
        tower = TEXT_TOWER[directory.model_type]
        with directory.loading() as arguments:
            import transformers

            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(directory.path, **arguments)
            model = directory.model(getattr(transformers, tower.model), placement.dtype)
        self._output = tower.output
        self._model = model.to(placement.device).eval()
        said, places = self._tokenizer.model_max_length, int(model.config.max_position_embeddings)
        # Models of the RoBERTa kind begin to count their places behind that of padding.
        places -= model.config.pad_token_id + 1 if "clap" in directory.model_type else 0
        self._max_length = min(said, places) if isinstance(said, int) else places
        self._padding = "max_length" if directory.model_type.startswith("siglip") else "longest"
        self.name = directory.encoder_name(
            directory.model_type.removesuffix("_text_model").replace("_", "-") + "-text",
            tokenizer=directory.tokenizer_effects(),
            max_length=self._max_length,
        )
        self.batch_cost = self._max_length * (CPU_BATCH_TEXTS if placement.is_cpu else GPU_BATCH_TEXTS)
        self.dim = self.encode(self.pieces([Text("a")])).shape[1]

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (TextForm(CHARS_PER_TOKEN * self._max_length),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        texts = [part.text for part in parts if isinstance(part, Text)]
        if not texts:
            return []
        tokens = self._tokenizer(texts, truncation=True, max_length=self._max_length + 1)["input_ids"]
        cost = self._max_length if self._padding == "max_length" else 0
        return [
            Piece(text, cost or min(len(found), self._max_length), len(found) > self._max_length)
            for text, found in zip(texts, tokens, strict=True)
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        made = self._tokenizer(
            [piece.payload for piece in pieces],
            padding=self._padding,
            truncation=True,
            max_length=self._max_length,
            return_tensors="pt",
        )
        inputs = {name: value.to(self._placement.device) for name, value in made.items() if name in INPUTS}
        rows: NDArray[np.float32] = getattr(self._model(**inputs), self._output).float().cpu().numpy()
        return unit_rows(rows)
