"""Codes beside vectors (`worker.codes`), and how they are used. Compute thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from worker.align.result import unpack_rows
from worker.codes.books import Codebooks
from worker.records import Change
from worker.stages.fuse import Embedder, Result, Vector

FADING = 20_000
"""Items that use is counted over; older ones fade."""


class CodeUse:
    """How the codes of the last items are used. Written by one thread, read by any."""

    def __init__(self, books: Codebooks) -> None:
        self.books = books
        self._counts_LS = np.zeros((books.num_levels, books.size))
        self._residual = 0.0
        self._num = 0.0

    def add(self, codes_BL: np.ndarray[tuple[int, int], np.dtype[np.int64]], residual: float) -> None:
        """`residual`: the sum of what the codes leave of the vectors."""
        places = codes_BL + np.arange(self.books.num_levels) * self.books.size
        counts_LS = np.bincount(places.ravel(), minlength=self._counts_LS.size).reshape(self._counts_LS.shape)
        kept = min(1.0, FADING / max(1.0, self._num))
        self._counts_LS = self._counts_LS * kept + counts_LS
        self._residual = self._residual * kept + residual
        self._num = self._num * kept + len(codes_BL)

    def perplexities(self) -> list[float]:
        """By level how many codes would be in use as much if all were used alike; 0 before the first item."""
        counts_LS = self._counts_LS
        total = counts_LS[0].sum()
        if not total:
            return [0.0] * self.books.num_levels
        shares_LS = counts_LS / total
        logs_LS = np.log(np.where(shares_LS > 0, shares_LS, 1.0))
        found: list[float] = np.exp(-(shares_LS * logs_LS).sum(1)).tolist()
        return found

    @property
    def residual_ratio(self) -> float:
        """What the codes leave of a vector, over what they left of those that they were learned from: 1 for such items,
        more for items of another kind. 0 before the first item."""
        if not self._num or not self.books.residual:
            return 0.0
        return self._residual / self._num / self.books.residual


def with_codes(results: list[Result], use: CodeUse, dtype: Literal["f2", "f4"]) -> list[Result]:
    """The same, each vector with its codes: of what is published, as it is rounded."""
    places = [place for place, result in enumerate(results) if type(result) is Vector]
    if not places:
        return results
    books = use.books
    rows = unpack_rows([results[place].data for place in places], books.dim, dtype)  # type: ignore[union-attr]
    coded = books.codes(rows)
    use.add(coded.codes_BL, float(coded.residual_B.sum()))
    for place, codes in zip(places, coded.codes_BL.tolist(), strict=True):
        vector = results[place]
        assert isinstance(vector, Vector)
        results[place] = Vector(*vector[:-1], codes)
    return results


class CodedItems:
    """An `Embedder` before another, whose vectors get their codes."""

    def __init__(self, embedder: Embedder, use: CodeUse, dtype: Literal["f2", "f4"]) -> None:
        self._embedder = embedder
        self._use = use
        self._dtype: Literal["f2", "f4"] = dtype

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        return with_codes(self._embedder.vectors(entries), self._use, self._dtype)

    def padded_size(self, num_entries: int) -> int:
        return self._embedder.padded_size(num_entries)

    def probe(self) -> None:
        self._embedder.probe()
