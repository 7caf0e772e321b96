"""Codebooks of a space (`worker.codes`), learned from what it publishes of a catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.align import AlignRuntime, Space
from worker.codes.books import CODES_FILE, Codebooks, read_codebooks, write_codebooks
from worker.codes.learn import Worth, kept, learned, worth
from worker.data import Dataset, Features
from worker.errors import ConfigError
from worker.train.neighbors import Neighbors
from worker.train.references import published

MOST_LEVELS, MOST_CODES = 16, 65_536


class CodeSizes(NamedTuple):
    levels: int
    size: int


def code_sizes(text: str) -> CodeSizes:
    """Of `3x256`. Raises `ConfigError`."""
    found = re.fullmatch(r"(\d{1,3})x(\d{1,6})", text)
    sizes = CodeSizes(*map(int, found.groups())) if found else CodeSizes(0, 0)
    if not (1 <= sizes.levels <= MOST_LEVELS and 2 <= sizes.size <= MOST_CODES):
        raise ConfigError(
            f"--codes {text}: give levels and codes of each as LEVELSxCODES, like 3x256: at most {MOST_LEVELS} and "
            f"{MOST_CODES:,}"
        )
    return sizes


class Report(NamedTuple):
    """Codebooks, and what they are worth on the items that they were learned from."""

    books: Codebooks
    worth: Worth
    kept_L: tuple[float, ...] | None
    """Share of items that keep their prefix of each length, where older codes were to be kept."""
    steady_L: tuple[float, ...] | None = None
    """Share that have the same prefix when they are computed in bfloat16 instead of float32, where that was asked."""

    def lines(self) -> Iterator[str]:
        """For a person."""
        books = self.books
        yield f"codes {books.code_space_id} of space {books.space_id}: {books.num_levels} x {books.size}"
        yield from self.worth.lines()
        if self.kept_L is not None:
            shares = ", ".join(f"first {level} {share:.1%}" for level, share in enumerate(self.kept_L, 1))
            yield f"kept of the codes before: {shares}"
        if self.steady_L is not None:
            shares = ", ".join(f"first {level} {share:.1%}" for level, share in enumerate(self.steady_L, 1))
            yield f"the same when they are computed in bfloat16: {shares}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code_space_id": self.books.code_space_id,
            **self.worth._asdict(),
            "kept_L": self.kept_L,
            "steady_L": self.steady_L,
        }


def add_codes(
    directory: Path,
    dataset: Dataset,
    features: Mapping[str, Features],
    neighbors: Neighbors | None,
    sizes: CodeSizes,
    *,
    seed: int = 0,
    like: Path | None = None,
) -> Report:
    """Learn codebooks of the space from these items, and keep them beside it. `like`: the directory of a space with
    codes, this one or another: items keep its codes where they can.

    Raises `ConfigError` where it has codes already and `like` is not given, and for fewer items than codes.
    """
    space = Space.load(directory)
    if like is None and (directory / CODES_FILE).exists():
        raise ConfigError(
            f"{directory} has codes already, and new ones would be others for every item: --like {directory} keeps "
            f"them where it can; to begin anew, delete {CODES_FILE}"
        )
    catalogue = replace(dataset, features=features, neighbors=dataset.neighbors if neighbors is None else neighbors)
    vectors_ID, usable_I = _vectors(space, catalogue)
    before = None
    if like is not None:
        before, known_I = _before(like, catalogue, sizes)
        usable_I = usable_I & known_I
    vectors_ID = vectors_ID[usable_I]
    if len(vectors_ID) < sizes.size:
        raise ConfigError(
            f"--codes {sizes.levels}x{sizes.size}: {len(vectors_ID):,} items are fewer than there are codes; take fewer"
        )
    older_IL = None if before is None else before[usable_I]
    books = learned(space.space_id, vectors_ID, sizes.levels, sizes.size, seed, older_IL)
    write_codebooks(directory, books)
    kept_L = None if older_IL is None else kept(books.codes(vectors_ID).codes_BL, older_IL)
    return Report(books, worth(books, vectors_ID), kept_L)


def measured(directory: Path, dataset: Dataset) -> Report | None:
    """What the codes of a space are worth on these items; None where it has none."""
    space = Space.load(directory)
    books = read_codebooks(directory, space.space_id)
    if books is None:
        return None
    vectors_ID, usable_I = _vectors(space, dataset)
    others_ID, _ = _vectors(space, dataset, "bfloat16")
    steady_L = kept(*(books.codes(each[usable_I]).codes_BL for each in (others_ID, vectors_ID)))
    return Report(books, worth(books, vectors_ID[usable_I]), None, steady_L)


def _vectors(space: Space, catalogue: Dataset, dtype: str = "float32") -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    names = [name for name in catalogue.features if name in space.spec.modalities]
    return published(AlignRuntime(space, device="cpu", dtype=dtype), catalogue, names)


def _before(like: Path, catalogue: Dataset, sizes: CodeSizes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The codes that another space gives the items, and which have any."""
    space = Space.load(like)
    books = read_codebooks(like, space.space_id)
    if books is None:
        raise ConfigError(f"--like {like}: the space has no codes")
    if (books.num_levels, books.size) != sizes:
        raise ConfigError(
            f"--like {like}: it has {books.num_levels}x{books.size} codes, and --codes asks for "
            f"{sizes.levels}x{sizes.size}: give the same"
        )
    vectors_ID, usable_I = _vectors(space, catalogue)
    return books.codes(vectors_ID).codes_BL, usable_I
