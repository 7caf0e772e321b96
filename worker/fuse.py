"""Micro-batches to vectors, so that one bad item costs only itself.

A batch that fails is halved until the item that breaks it is alone; memory that runs out halves it too. An item that
fails alone is blamed only if the model still works on an item known to be good: otherwise the fault is not in the
data, and the process ends rather than send the whole topic to the dead letters.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas import Feature, Reason
from worker.align import OutOfMemoryError
from worker.batch import MicroBatch, items_of
from worker.errors import SystemicError
from worker.records import Delete, Item
from worker.tenure import Share

log = logging.getLogger(__name__)

STAGE = "fuse"
Features = Mapping[str, Feature]


class Vector(NamedTuple):
    """One fused vector, as it is published."""

    data: bytes
    """Little-endian elements."""
    modalities: tuple[str, ...]
    modality_data: Mapping[str, bytes] | None = None
    prior: float | None = None


class Embedder(Protocol):
    """What this stage needs of the model."""

    def vectors(self, features: Sequence[Features]) -> list[Vector | None]:
        """One vector per item, in order; None where it would not be finite."""
        ...

    def padded_size(self, num_items: int) -> int:
        """Rows that are computed for so many items."""
        ...

    def probe(self) -> None:
        """Compute an item known to be good. Raises what the model raises."""
        ...


class Fused(NamedTuple):
    """A micro-batch with its vectors, by item of each share."""

    batch: MicroBatch
    vectors: dict[int, Vector]
    """By `id` of the item; rejections have taken the place of items without one."""


def fuse(batch: MicroBatch, embedder: Embedder, on_out_of_memory: Callable[[], None]) -> Fused:
    """Compute the vectors of a batch. Items that cannot be computed become rejections of their share.

    An older input that such an item had displaced takes its place, as if the batch had been computed one by one.
    Raises `SystemicError` when the fault is not in the items.
    """
    vectors: dict[int, Vector] = {}
    work = items_of(batch)
    while work:
        results = isolate([item.features for _, item in work], embedder, on_out_of_memory)
        failed = []
        for (share, item), result in zip(work, results, strict=True):
            if isinstance(result, Vector):
                vectors[id(item)] = result
            else:
                failed.append((share, _reject(share, item, result)))
        work = [(share, displaced) for share, displaced in failed if isinstance(displaced, Item)]
    return Fused(batch, vectors)


def isolate(
    features: Sequence[Features], embedder: Embedder, on_out_of_memory: Callable[[], None]
) -> list[Vector | Exception | None]:
    """One result per item: its vector, None if that is not finite, or the error that it alone causes."""
    if not features:
        return []
    try:
        return list(embedder.vectors(features))
    except OutOfMemoryError as error:
        on_out_of_memory()
        if len(features) == 1:
            raise SystemicError(f"no memory for a batch of one item: {error}; set device or lower dtype") from error
    except SystemicError:
        raise
    except Exception as error:  # whatever a model raises, only the item that causes it may suffer
        if len(features) == 1:
            _require_working_model(embedder, error)
            return [error]
        log.warning("batch of %d failed, halving it: %s", len(features), error, extra={"action": "bisect"})
    middle = len(features) // 2
    return isolate(features[:middle], embedder, on_out_of_memory) + isolate(
        features[middle:], embedder, on_out_of_memory
    )


def _require_working_model(embedder: Embedder, cause: Exception) -> None:
    try:
        embedder.probe()
    except Exception as error:
        raise SystemicError(f"the model fails on every item, even on a known good one: {cause}") from error


def _reject(share: Share, item: Item, result: Exception | None) -> Item | Delete | None:
    detail = "the vector is not finite" if result is None else f"{type(result).__name__}: {result}"
    return share.reject(item, Reason.MODEL_FAILURE, STAGE, detail[:1000])
