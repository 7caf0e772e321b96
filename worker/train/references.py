"""References of a space's vectors (`worker.vector_health`), measured on a catalogue by the code that serves it.

I items   D dim of the space
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worker.align import AlignRuntime, Space
from worker.align.result import pack_rows, unpack_rows
from worker.data import Dataset, Features
from worker.evaluate.spaces import embed_items
from worker.train.neighbors import Neighbors
from worker.vector_health import References, judge, measured, sums_of, sums_together, write_references
from worker.vector_health.watch import BLOCK, WINDOW

MOST_ITEMS = 20_000
"""Measured; of more, so many evenly from the whole catalogue."""


def add_references(
    directory: Path,
    dataset: Dataset,
    features: Mapping[str, Features],
    neighbors: Neighbors | None,
    *,
    made_of_events: str | None = None,
) -> References | None:
    """Measure the space on these items, and keep what was found beside it; None, and nothing kept, where they are too
    few. An item that has the modality `made_of_events` counts without it as well, as a new one has it not yet.

    Raises `SpaceError` where the space refuses all items.
    """
    space = Space.load(directory)
    catalogue = replace(dataset, features=features, neighbors=dataset.neighbors if neighbors is None else neighbors)
    if space.spec.graph is None:
        catalogue = _some(catalogue)
    runtime = AlignRuntime(space, device="cpu", dtype="float32")
    names = [name for name in catalogue.features if name in space.spec.modalities]
    vectors_ID, usable_I = published(runtime, catalogue, names)
    patterns = _patterns(catalogue, names)
    grouped: dict[tuple[str, ...], list[NDArray[np.float32]]] = {}
    for row in np.flatnonzero(usable_I).tolist():
        grouped.setdefault(patterns[row], []).append(vectors_ID[row])
    if made_of_events in names and len(names) > 1:
        vectors_ID, usable_I = published(runtime, catalogue, [name for name in names if name != made_of_events])
        for row in np.flatnonzero(usable_I).tolist():
            if made_of_events in patterns[row]:
                patterns[row] = tuple(name for name in patterns[row] if name != made_of_events)
                grouped.setdefault(patterns[row], []).append(vectors_ID[row])
    shares = {name: float(catalogue.features[name].present_I.mean()) for name in names if name != made_of_events}
    references = measured(space.space_id, {names: np.stack(rows) for names, rows in grouped.items()}, shares)
    if references is None:
        return None
    rows = np.flatnonzero(usable_I)
    usual = _usual(references, vectors_ID[rows], [patterns[row] for row in rows.tolist()])
    references = replace(references, usual=usual)
    write_references(directory, references)
    return references


def _some(catalogue: Dataset) -> Dataset:
    """At most `MOST_ITEMS` of them."""
    if catalogue.num_items <= MOST_ITEMS:
        return catalogue
    chosen = np.linspace(0, catalogue.num_items - 1, MOST_ITEMS).astype(int)
    features = {name: each.where(chosen) for name, each in catalogue.features.items()}
    ids = [catalogue.item_ids[item] for item in chosen.tolist()]
    return replace(catalogue, item_ids=ids, features=features, neighbors=[()] * len(ids))


def published(
    runtime: AlignRuntime, catalogue: Dataset, names: Sequence[str]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """As they come off the wire, in the coarser dtype of publishing: what that rounds away is nothing to go by."""
    items = embed_items(runtime, catalogue, names)
    vectors_ID = items.vectors_ID.numpy()
    return unpack_rows(pack_rows(vectors_ID, "f2"), vectors_ID.shape[1], "f2"), items.usable_I.numpy()


def _patterns(catalogue: Dataset, names: Sequence[str]) -> list[tuple[str, ...]]:
    """The modalities of each item."""
    present_IM = np.stack([catalogue.features[name].present_I for name in names], 1)
    return [tuple(name for name, has in zip(names, row, strict=True) if has) for row in present_IM.tolist()]


def _usual(
    references: References, vectors_ID: NDArray[np.float32], patterns: Sequence[tuple[str, ...]]
) -> dict[str, float]:
    """By check the worst that windows of consecutive items give, in the order of the catalogue."""
    blocks = [
        sums_of(references, vectors_ID[start : start + BLOCK], patterns[start : start + BLOCK])
        for start in range(0, len(vectors_ID) - BLOCK + 1, BLOCK)
    ]
    windows = [*blocks, *(sums_together(blocks[end - WINDOW : end]) for end in range(WINDOW, len(blocks) + 1))]
    usual: dict[str, float] = {}
    for window in windows:
        for check, value, *_ in judge(window, references):
            worse = min if check in ("rank", "collapse") else max
            usual[check] = worse(usual.get(check, value), value)
    return usual
