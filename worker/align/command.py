"""`align-worker space create`, `show` and `check`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import chain, combinations, islice
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from worker.align.result import UNIT_TOLERANCE
from worker.align.runtime import AlignRuntime
from worker.align.space import Space, create_space
from worker.align.spec import FUSION_KINDS, SpaceSpec, UserSpec, explain
from worker.align.synthetic import synthetic_items
from worker.align.warm_up import MIN_COSINE, WarmUpReport
from worker.errors import SpaceError

HIDDEN_PER_DIM = 4  # the usual width of a transformer's feed-forward part (Vaswani et al. 2017)
HALF_LIFE_DAYS = 7.0
EVENT_WEIGHTS: Mapping[str, float] = {"view": 0.3, "like": 1.0, "save": 1.5, "purchase": 2.0, "dislike": -0.5}
MAX_PATTERNS = 64
ITEMS_PER_PATTERN = 16
BATCH_TOLERANCE: Mapping[str, float] = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}
"""Largest difference of any element between an item's vector alone and in a batch. Measured: README.md."""


def create(
    path: str | Path,
    modalities: Mapping[str, int],
    dim: int,
    *,
    fusion: str = "self_attention",
    layers: int | None = None,
    heads: int | None = None,
    hidden: int | None = None,
    seed: int = 0,
    encoders: Mapping[str, str] | None = None,
    max_vectors: Mapping[str, int] | None = None,
    half_life_days: float = HALF_LIFE_DAYS,
    event_weights: Mapping[str, float] | None = None,
) -> Space:
    """Write an untrained space. `modalities` gives each one's dim; without an encoder it accepts any encoder's
    vectors. What is None has the default of the fusion kind, where it has such a setting.

    Raises `SpaceError` for values that make no space, and if the directory is not empty.
    """
    encoders, max_vectors = encoders or {}, max_vectors or {}
    for option, named in (("encoder", encoders), ("max_vectors", max_vectors)):
        if unknown := sorted(named.keys() - modalities.keys()):
            raise SpaceError(f"{option}: {', '.join(unknown)} is not a modality; there is: {', '.join(modalities)}")
    if fusion not in FUSION_KINDS:
        raise SpaceError(f"fusion.kind {fusion!r} is unknown; there is: {', '.join(FUSION_KINDS)}")
    sizes = {"layers": layers, "heads": heads, "hidden": hidden or HIDDEN_PER_DIM * dim}
    document = {
        "dim": dim,
        "width": dim,
        "modalities": {
            name: {"dim": size, "encoder": encoders.get(name), "max_vectors": max_vectors.get(name, 1)}
            for name, size in modalities.items()
        },
        "fusion": {"kind": fusion, **{name: size for name, size in sizes.items() if size is not None}},
        "user": {
            "kind": "decayed_sum",
            "half_life_ms": half_life_days * 86_400_000,
            "event_weights": event_weights or EVENT_WEIGHTS,
        },
    }
    try:
        spec = SpaceSpec.model_validate(document)
    except ValidationError as error:
        raise SpaceError(explain(error)) from error
    return create_space(path, spec, seed)


def show(path: str | Path) -> dict[str, Any]:
    """The space in the directory, as a JSON object: `space.json`, its actual id and its size."""
    space = Space.load(path)
    return {
        **space.manifest.model_dump(mode="json"),
        "space_id": space.space_id,
        "num_parameters": sum(tensor.numel() for tensor in space.weights.values()),
        "weights_bytes": sum(tensor.nbytes for tensor in space.weights.values()),
    }


def events_that_count(user: UserSpec) -> str:
    """A line for a person: the types of events, and what becomes of others."""
    weights = ", ".join(f"{name} {weight:g}" for name, weight in user.event_weights.items())
    return f"events that count for users, and their weights: {weights}; events of other types are not used"


@dataclass(frozen=True, slots=True)
class CheckReport:
    """A space that passed, and how fast it is here."""

    warm_up: WarmUpReport
    num_patterns: int
    """Sets of present modalities that were tried."""
    num_items: int
    max_length_error: float
    """Largest distance of a vector's length from 1."""
    max_batch_difference: float
    """Largest difference of any element between an item's vector alone and in a batch."""
    max_cpu_difference: float | None
    """The same between its vector here and in float32 on a CPU. None: this is a CPU."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """For a person to read."""
        from_cpu = (
            "" if self.max_cpu_difference is None else f", within {self.max_cpu_difference:.1e} of float32 on the CPU"
        )
        return "\n".join(
            [
                self.warm_up.one_line(),
                *(f"  batch of {size}: {ms:.2f} ms" for size, ms in self.warm_up.size_ms.items()),
                f"{self.num_items} random items in {self.num_patterns} patterns of present modalities: every vector "
                f"finite, length within {self.max_length_error:.1e} of 1, alone and in a batch within "
                f"{self.max_batch_difference:.1e}{from_cpu}",
            ]
        )


def check(path: str | Path, *, device: str = "auto", dtype: str = "auto", threads: int = 0) -> CheckReport:
    """Load the space, warm it up and embed random items with every set of present modalities, up to a limit.

    Raises `SpaceError` if a vector is not finite, not of unit length, depends on its batch, or is another one than on a
    CPU.
    """
    space = Space.load(path)
    runtime = AlignRuntime(space, device=device, dtype=dtype, threads=threads)
    warm_up = runtime.warm_up()
    patterns = list(islice(_patterns(tuple(space.spec.modalities)), MAX_PATTERNS))
    items = [
        item
        for seed, pattern in enumerate(patterns)
        for item in synthetic_items(space.spec, ITEMS_PER_PATTERN, seed=seed, modalities=pattern)
    ]
    together = runtime.embed(items)
    for row, why in together.bad_rows.items():
        raise SpaceError(f"space.path: an item with {', '.join(items[row])} has no vector: {why}")
    length_error = float(np.abs(np.linalg.norm(together.vectors.astype(np.float64), axis=1) - 1).max())
    if length_error > UNIT_TOLERANCE["f4"]:
        raise SpaceError(f"space.path: the length of a vector is {length_error:.1e} from 1")
    few = range(0, len(items), ITEMS_PER_PATTERN)
    alone = np.concatenate([runtime.embed([items[row]]).vectors for row in few])
    difference = float(np.abs(alone - together.vectors[few]).max())
    if difference > BATCH_TOLERANCE[warm_up.dtype]:
        raise SpaceError(f"space.path: a vector differs by {difference:.1e} with the batch its item is in")
    from_cpu = None
    if runtime.device != "cpu":
        on_cpu = AlignRuntime(space, device="cpu", dtype="float32", threads=threads).embed(items).vectors
        from_cpu = float(np.abs(together.vectors - on_cpu).max())
        cosine = float((together.vectors * on_cpu).sum(1).min())
        if cosine < MIN_COSINE:
            raise SpaceError(f"device: a vector has a cosine of {cosine:.4f} with the same item's on a CPU")
    return CheckReport(warm_up, len(patterns), len(items), length_error, difference, from_cpu)


def _patterns(names: tuple[str, ...]) -> chain[tuple[str, ...]]:
    """Every non-empty set of names, the largest first."""
    return chain.from_iterable(combinations(names, size) for size in range(len(names), 0, -1))
