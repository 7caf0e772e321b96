"""Features, items and spaces for the tests of `worker.align`, and the model written out plainly as their oracle."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from worker.align.features import ElementType
from worker.align.space import Space, write_space
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.align.weights import expected_shapes

Array = NDArray[np.float64]
TORCH_TYPES = {"f2": torch.float16, "f4": torch.float32, "bf2": torch.bfloat16}


@dataclass(frozen=True)
class Feature:
    encoder: str
    dtype: ElementType
    shape: tuple[int, ...]
    data: bytes
    scale: float | None = None


Item = dict[str, Feature]


def feature(values: NDArray[np.floating], dtype: ElementType = "f4", encoder: str = "any") -> Feature:
    """`values`, `[K]` or `[N, K]`, as an encoder would send them in this element type."""
    shape = tuple(values.shape)
    if dtype == "i1":
        scale = float(np.abs(values).max()) / 127
        return Feature(encoder, dtype, shape, np.round(values / scale).astype(np.int8).tobytes(), scale)
    elements = torch.from_numpy(values.reshape(-1)).to(TORCH_TYPES[dtype])
    return Feature(encoder, dtype, shape, elements.view(torch.uint8).numpy().tobytes())


def values_of(source: Feature) -> Array:
    """What a feature's bytes stand for, `[N, K]`."""
    if source.dtype == "i1":
        values = np.frombuffer(source.data, np.int8) * np.float64(np.float32(source.scale or 1.0))
    elif source.dtype == "bf2":
        values = (np.frombuffer(source.data, "<u2").astype("<u4") << 16).view("<f4").astype(np.float64)
    else:
        values = np.frombuffer(source.data, "<" + source.dtype).astype(np.float64)
    return values.reshape(-1, source.shape[-1])


def spec(
    modalities: Mapping[str, int | ModalitySpec] | None = None, *, dim: int = 32, layers: int = 1, heads: int = 4
) -> SpaceSpec:
    parts = modalities or {"text": 24, "image": 17, "audio": 9}
    return SpaceSpec(
        dim=dim,
        width=dim,
        modalities={name: ModalitySpec(dim=part) if isinstance(part, int) else part for name, part in parts.items()},
        fusion=SelfAttentionSpec(layers=layers, heads=heads, hidden=2 * dim),
    )


def make_space(directory: Path, of: SpaceSpec | None = None, seed: int = 0) -> Space:
    """A space none of whose parameters is zero or regular, as after training."""
    of, generator = of or spec(), torch.Generator().manual_seed(seed)
    weights = {
        name: torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) == 2 else 0.3)
        for name, shape in sorted(expected_shapes(of).items())
    }
    return write_space(directory / "space", of, weights)


def make_items(of: SpaceSpec, count: int, seed: int = 0, dtype: ElementType = "f4") -> list[Item]:
    """Items with one random vector of every modality."""
    random = np.random.default_rng(seed)
    return [
        {
            name: feature(random.standard_normal(part.dim), dtype, part.encoder or "any")
            for name, part in of.modalities.items()
        }
        for _ in range(count)
    ]


def with_gaps(items: list[Item], seed: int = 0) -> list[Item]:
    """The items with modalities left out at random; at least one stays."""
    random = np.random.default_rng(seed)
    gapped = []
    for item in items:
        names = list(item)
        kept = set(random.choice(names, random.integers(1, len(names) + 1), replace=False))
        gapped.append({name: item[name] for name in names if name in kept})
    return gapped


def plain_vector(space: Space, item: Item) -> Array:
    """The vector of one item by the textbook: every row of every layer, in float64, one item at a time."""
    weights = {name: tensor.double().numpy() for name, tensor in space.weights.items()}
    rows = [weights["fusion.summary"]]
    for name in sorted(item):
        for vector in values_of(item[name]):
            rows.append(weights[f"head_{name}.weight"] @ normalised(vector, 1e-6) + weights[f"head_{name}.bias"])
    state = np.stack(rows)
    for layer in range(space.spec.fusion.layers):
        state = plain_layer(state, weights, f"fusion.layers.{layer}", space.spec.fusion.heads)
    raw = weights["output.weight"] @ normalised(state[0]) + weights["output.bias"]
    return raw / np.linalg.norm(raw)


def plain_alone(space: Space, name: str, source: Feature) -> Array:
    """The vector of one modality alone by the textbook, in float64."""
    weights = {key: tensor.double().numpy() for key, tensor in space.weights.items()}
    tokens = [weights[f"head_{name}.weight"] @ normalised(vector, 1e-6) for vector in values_of(source)]
    token = np.mean(tokens, 0) + weights[f"head_{name}.bias"]
    raw = weights[f"alone_{name}.weight"] @ token + weights[f"alone_{name}.bias"]
    return np.concatenate([raw / np.linalg.norm(raw), np.zeros(space.spec.content_dim)])


def plain_layer(rows_TD: Array, weights: Mapping[str, Array], prefix: str, heads: int) -> Array:
    def linear(name: str, x: Array) -> Array:
        return x @ weights[f"{prefix}.{name}.weight"].T + weights.get(f"{prefix}.{name}.bias", 0.0)

    norm_TD = np.stack([normalised(row) for row in rows_TD])
    query, key, value = linear("query", norm_TD), linear("key", norm_TD), linear("value", norm_TD)
    width = rows_TD.shape[1] // heads
    mixed = np.zeros_like(rows_TD)
    for head in range(heads):
        of_head = slice(head * width, (head + 1) * width)
        scores = query[:, of_head] @ key[:, of_head].T / math.sqrt(width)
        attention = np.exp(scores - scores.max(1, keepdims=True))
        mixed[:, of_head] = attention / attention.sum(1, keepdims=True) @ value[:, of_head]
    rows_TD = rows_TD + linear("merge", mixed)
    hidden = linear("widen", np.stack([normalised(row) for row in rows_TD]))
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2)))
    return rows_TD + linear("narrow", gelu)


def normalised(vector: Array, eps: float = 1e-5) -> Array:
    return (vector - vector.mean()) / np.sqrt(vector.var() + eps)
