"""Sentence encoders: a transformer, pooling over its tokens, and what its directory says comes after.

Directories of sentence-transformers say how to pool, how long a text may be and what to put before it. Where nothing is
said, encoders are pooled by the mean, and decoders refused. B texts, L tokens, D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.encode.choice import ModelChoice
from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, Part, Text, TextForm
from worker.encode.pretrained.device import Placement
from worker.encode.pretrained.directory import ModelDirectory
from worker.errors import ConfigError

CPU_BATCH_TOKENS = 512  # on a CPU larger batches win nothing and are padded more: tests/bench/README.md
GPU_BATCH_TOKENS = 65_536
CHARS_PER_TOKEN = 32  # no tokenizer makes fewer tokens of readable text than one per so many characters
DOCUMENT_PROMPTS = ("document", "passage", "corpus")
QUERY_PROMPTS = ("query", "question", "search_query")
MAX_LENGTH = 8_192

Pooling = Callable[[Tensor, Tensor], Tensor]
"""tokens_BLD, mask_BL1 → pooled_BD"""


def _mean(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return (tokens_BLD * mask_BL1).sum(1) / mask_BL1.sum(1)


def _mean_sqrt(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return (tokens_BLD * mask_BL1).sum(1) / mask_BL1.sum(1).sqrt()


def _weighted_mean(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    weights_BL1 = mask_BL1 * torch.arange(1, mask_BL1.shape[1] + 1, device=mask_BL1.device)[None, :, None]
    return (tokens_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)


def _max(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return tokens_BLD.masked_fill(mask_BL1 == 0, -torch.inf).amax(1)


def _first(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    return tokens_BLD[:, 0]


def _last(tokens_BLD: Tensor, mask_BL1: Tensor) -> Tensor:
    last_B = mask_BL1[..., 0].sum(1).long() - 1
    return tokens_BLD[torch.arange(len(tokens_BLD), device=tokens_BLD.device), last_B]


POOLINGS: dict[str, Pooling] = {
    "cls": _first,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "max": _max,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
_OLD_NAMES = {"cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "weightedmean": "weightedmean_tokens"}


class SentenceEncoder:
    """A text to the vector of its directory's model."""

    unit: Unit = "tokens"

    def __init__(self, directory: ModelDirectory, placement: Placement, choice: ModelChoice) -> None:
        self._placement = placement
        self._poolings, self._after = _modules(directory)
        prefix = document_prompt(directory, choice)
        self._prefix = query_prompt(directory, choice) if choice.for_queries else prefix
        with directory.loading() as arguments:
            from transformers import AutoModel, AutoTokenizer

            self._tokenizer: Any = AutoTokenizer.from_pretrained(directory.path, **arguments)
            model = directory.model(AutoModel, placement.dtype, optional="pooler.")
        if self._tokenizer.pad_token_id is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._tokenizer.padding_side = "right"  # the poolings count on it
        self._model = model.to(placement.device).eval()
        self._after.to(placement.device, torch.float32).eval()
        self._max_length = _max_length(directory, self._tokenizer, model)
        self.name = directory.encoder_name(
            directory.model_type,
            tokenizer=directory.tokenizer_effects(),
            pooling=[pool.__name__ for pool in self._poolings],
            after=[str(layer) for layer in self._after],
            prefix=prefix,  # a question has the name of what it is compared with
            max_length=self._max_length,
        )
        self.batch_cost = max(self._max_length, CPU_BATCH_TOKENS if placement.is_cpu else GPU_BATCH_TOKENS)
        self.dim = self.encode(self.pieces([Text("a")])).shape[1]

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (TextForm(CHARS_PER_TOKEN * self._max_length),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        texts = [part.text for part in parts if isinstance(part, Text)]
        if not texts:
            return []
        encoded = self._tokenizer(
            [self._prefix + text for text in texts],
            truncation=True,
            max_length=self._max_length,
            return_overflowing_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return [
            Piece(tokens, len(tokens), len(tokens) >= self._max_length and self._is_longer(text))
            for text, tokens in zip(texts, encoded, strict=True)
        ]

    @torch.inference_mode()
    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        longest = max(piece.cost for piece in pieces)
        tokens_BL = torch.full((len(pieces), longest), self._tokenizer.pad_token_id)
        mask_BL = torch.zeros((len(pieces), longest), dtype=torch.long)
        for row, piece in enumerate(pieces):
            tokens_BL[row, : piece.cost] = torch.tensor(piece.payload)
            mask_BL[row, : piece.cost] = 1
        device = self._placement.device
        tokens_BL, mask_BL = tokens_BL.to(device), mask_BL.to(device)
        tokens_BLD = self._model(input_ids=tokens_BL, attention_mask=mask_BL).last_hidden_state.float()
        mask_BL1 = mask_BL[..., None].float()
        pooled = torch.cat([pool(tokens_BLD, mask_BL1) for pool in self._poolings], dim=1)
        rows: NDArray[np.float32] = self._after(pooled).cpu().numpy()
        return unit_rows(rows)

    def _is_longer(self, text: str) -> bool:
        """Whether the text has more tokens than the model takes; asked only of those that fill it."""
        cut = self._tokenizer(self._prefix + text, truncation=True, max_length=self._max_length + 1)["input_ids"]
        return len(cut) > self._max_length


def _modules(directory: ModelDirectory) -> tuple[list[Pooling], nn.Sequential]:
    """How tokens are pooled, and the layers after that."""
    poolings: list[Pooling] = [POOLINGS["mean"]]
    after = nn.Sequential()
    for module in directory.modules:
        kind, path = str(module.get("type", "")).rpartition(".")[2], str(module.get("path", ""))
        if kind == "Pooling":
            poolings = [_pooling(directory, name) for name in _pooling_names(directory.json(f"{path}/config.json"))]
        elif kind == "Dense":
            after.extend(_dense(directory, path))
        elif kind not in ("Transformer", "Normalize", "Dropout"):
            raise ConfigError(f"encode.encoders: {directory.path} has a module {kind}, which is not supported")
    return poolings, after


def _pooling_names(config: dict[str, Any]) -> list[str]:
    if config.get("include_prompt") is False:
        raise ConfigError("encode.encoders: pooling without the tokens of the prompt is not supported")
    if named := config.get("pooling_mode"):
        return [named] if isinstance(named, str) else list(named)
    return [name for name in POOLINGS if config.get(f"pooling_mode_{_OLD_NAMES.get(name, name)}")] or ["mean"]


def _pooling(directory: ModelDirectory, name: str) -> Pooling:
    if name not in POOLINGS:
        raise ConfigError(f"encode.encoders: {directory.path} pools by {name}; there are {', '.join(POOLINGS)}")
    return POOLINGS[name]


def _dense(directory: ModelDirectory, path: str) -> list[nn.Module]:
    config = directory.json(f"{path}/config.json")
    activation = str(config.get("activation_function", "")).rpartition(".")[2] or "Identity"
    layer = nn.Linear(config["in_features"], config["out_features"], bias=config.get("bias", True))
    try:
        weights = load_file(directory.path / path / "model.safetensors")
        layer.load_state_dict({name.removeprefix("linear."): value for name, value in weights.items()})
        made: nn.Module = getattr(nn, activation)()
    except (OSError, RuntimeError, AttributeError) as error:
        raise ConfigError(f"encode.encoders: {directory.path / path} cannot be loaded: {error}") from error
    return [layer, made]


def document_prompt(directory: ModelDirectory, choice: ModelChoice) -> str:
    """Prefix of documents that the model was trained with, unless the settings give one."""
    return _prompt(directory, DOCUMENT_PROMPTS) if choice.document_prompt is None else choice.document_prompt


def query_prompt(directory: ModelDirectory, choice: ModelChoice) -> str:
    """The same before a question."""
    return _prompt(directory, QUERY_PROMPTS) if choice.query_prompt is None else choice.query_prompt


def _prompt(directory: ModelDirectory, names: Sequence[str]) -> str:
    config = directory.json("config_sentence_transformers.json")
    prompts = config.get("prompts") or {}
    named = (prompts.get(name) for name in (*names, config.get("default_prompt_name")))
    return next((str(prompt) for prompt in named if prompt), "")


def _max_length(directory: ModelDirectory, tokenizer: Any, model: Any) -> int:
    said = directory.json("sentence_bert_config.json").get("max_seq_length")
    places = getattr(model.config, "max_position_embeddings", None)
    lengths = [length for length in (said, tokenizer.model_max_length, places) if isinstance(length, int)]
    return min([MAX_LENGTH, *lengths])
