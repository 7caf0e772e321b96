"""Features of several modalities in, one unit vector per item out. Knows torch, and nothing of Kafka.

`README.md` beside this file says what a space is, writes the model down with its shapes, and states the invariants.
The names that need torch are imported at their first use, so that decoding and `--help` do without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worker.align.contract import Contract, Refusal
from worker.align.errors import OutOfMemoryError
from worker.align.features import ElementType, FeatureLike

if TYPE_CHECKING:
    from worker.align.result import Embeddings
    from worker.align.runtime import AlignRuntime
    from worker.align.space import Space, create_space
    from worker.align.warm_up import WarmUpReport

__all__ = [
    "AlignRuntime",
    "Contract",
    "ElementType",
    "Embeddings",
    "FeatureLike",
    "OutOfMemoryError",
    "Refusal",
    "Space",
    "WarmUpReport",
    "create_space",
]

_NEED_TORCH = {
    "AlignRuntime": "runtime",
    "Embeddings": "result",
    "Space": "space",
    "WarmUpReport": "warm_up",
    "create_space": "space",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEED_TORCH[name]}"), name)
