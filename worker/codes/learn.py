"""Codebooks from vectors: k-means of the vectors, then of what that leaves of them, and so on (residual k-means).

Chosen over RQ-VAE because it needs no training that can collapse: published comparisons, and the makers of OneRec,
prefer it for balance and reconstruction (README.md has the sources).

I items   L levels   S codes of a level   D dim of the space
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worker.codes.books import Codebooks, Codes, Floats, on_grid

ITERATIONS = 25
MOST_ITEMS = 200_000
"""Learned from; of more, so many at random."""
AT_ONCE = 16_384


def learned(
    space_id: str, vectors_ID: Floats, levels: int, size: int, seed: int = 0, like: Codes | None = None
) -> Codebooks:
    """Codebooks of published vectors. `like`: older codes of the same items, of as many levels and codes; then each
    code begins where the items of that code lie now, and keeps its number (`matched`)."""
    generator = np.random.default_rng(seed)
    rounded_ID = torch.from_numpy(vectors_ID).half().float()
    chosen = np.arange(len(rounded_ID))
    if len(chosen) > MOST_ITEMS:
        chosen = np.sort(generator.choice(chosen, MOST_ITEMS, replace=False))
    left_ID = rounded_ID[torch.from_numpy(chosen)]
    books = []
    for level in range(levels):
        start_SD = _start(left_ID, size, generator)
        if like is not None:
            start_SD = _where_they_lie(left_ID, torch.from_numpy(like[chosen, level]), start_SD)
        book_SD = torch.from_numpy(on_grid(_k_means(left_ID, start_SD).numpy()))
        codes_I = _nearest(left_ID, book_SD)
        left_ID = left_ID - book_SD[codes_I]
        books.append(book_SD.numpy())
    residual = float((left_ID**2).sum(1).mean())
    found = Codebooks(space_id, np.stack(books), residual)
    if like is not None:
        found = matched(found, found.codes(vectors_ID).codes_BL, like)
    return found


def _start(left_ID: Tensor, size: int, generator: np.random.Generator) -> Tensor:
    """Some of the items; where there are fewer than codes, the others repeat them and stay unused."""
    order = generator.permutation(len(left_ID))
    return left_ID[torch.from_numpy(np.resize(order, size))].clone()


def _where_they_lie(left_ID: Tensor, codes_I: Tensor, start_SD: Tensor) -> Tensor:
    """The means of the items of each code; of a code without items the start that it had."""
    size = len(start_SD)
    sums_SD = torch.zeros_like(start_SD).index_add_(0, codes_I, left_ID)
    counts_S = torch.bincount(codes_I, minlength=size)
    return torch.where((counts_S > 0)[:, None], sums_SD / counts_S.clamp(min=1)[:, None], start_SD)


def _k_means(left_ID: Tensor, book_SD: Tensor) -> Tensor:
    """Lloyd's. A code that no item is near takes the item that is worst described."""
    size = len(book_SD)
    before = None
    for _ in range(ITERATIONS):
        codes_I = _nearest(left_ID, book_SD)
        if before is not None and torch.equal(codes_I, before):
            break
        before = codes_I
        counts_S = torch.bincount(codes_I, minlength=size)
        sums_SD = torch.zeros_like(book_SD).index_add_(0, codes_I, left_ID)
        book_SD = torch.where((counts_S > 0)[:, None], sums_SD / counts_S.clamp(min=1)[:, None], book_SD)
        empty = (counts_S == 0).nonzero()[:, 0]
        if len(empty):
            far_I = ((left_ID - book_SD[codes_I]) ** 2).sum(1)
            worst = far_I.topk(min(len(empty), len(far_I))).indices
            book_SD[empty[: len(worst)]] = left_ID[worst]
    return book_SD


def _nearest(left_ID: Tensor, book_SD: Tensor) -> Tensor:
    halves_S = (book_SD**2).sum(1) / 2
    return torch.cat([(some @ book_SD.T - halves_S).argmax(1) for some in torch.split(left_ID, AT_ONCE)])


# ------------------------------------------------------------------ refreshed


def matched(books: Codebooks, codes_IL: Codes, like_IL: Codes) -> Codebooks:
    """The same books, their codes renumbered so that items keep the numbers that they had where they can: of each level
    the pairs of an old and a new number that most items share, one after the other."""
    numbered = []
    for level in range(books.num_levels):
        shared_SS = np.zeros((books.size, books.size), np.int64)
        np.add.at(shared_SS, (codes_IL[:, level], like_IL[:, level]), 1)
        number_S = _greedy(shared_SS)
        book_SD = np.empty_like(books.books_LSD[level])
        book_SD[number_S] = books.books_LSD[level]
        numbered.append(book_SD)
    return Codebooks(books.space_id, np.stack(numbered), books.residual)


def _greedy(shared_SS: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each new code the old number that it takes."""
    size = len(shared_SS)
    number_S, taken_S = np.full(size, -1), np.zeros(size, bool)
    for place in np.argsort(-shared_SS, axis=None, kind="stable").tolist():
        new, old = divmod(place, size)
        if shared_SS[new, old] == 0:
            break
        if number_S[new] < 0 and not taken_S[old]:
            number_S[new], taken_S[old] = old, True
    number_S[number_S < 0] = np.flatnonzero(~taken_S)
    return number_S


# ------------------------------------------------------------------ what they are worth


class Worth(NamedTuple):
    """What codes say of the items that have them."""

    num_items: int
    perplexity_L: tuple[float, ...]
    """Of each level: how many codes would be in use as much if all were used alike."""
    num_prefixes_L: tuple[int, ...]
    """Different ones of each length."""
    shared: float
    """Share of items whose codes another item has, too."""
    residual: float
    """Mean square of what the codes leave of a vector."""
    neighbors_L: tuple[float, ...]
    """Share of the ten true neighbours of an item that have its prefix, by the length of that."""
    chance_L: tuple[float, ...]
    """Of any other items."""

    def lines(self) -> list[str]:
        """For a person."""
        levels = range(1, len(self.perplexity_L) + 1)
        found = [
            f"{self.num_items:,} items; {self.shared:.1%} share their codes with another; residual {self.residual:.3f}"
        ]
        for level in levels:
            found.append(
                f"first {level}: {self.num_prefixes_L[level - 1]:,} different, perplexity of level {level} "
                f"{self.perplexity_L[level - 1]:.0f}; {self.neighbors_L[level - 1]:.1%} of the ten nearest share it "
                f"({self.chance_L[level - 1]:.2%} by chance)"
            )
        return found


NEAREST = 10
MOST_ASKED = 2_000


def worth(books: Codebooks, vectors_ID: Floats, seed: int = 0) -> Worth:
    """Measured on these items: of many, true neighbours are looked for of some."""
    coded = books.codes(vectors_ID)
    codes_IL, num_items = coded.codes_BL, len(vectors_ID)
    perplexities, numbers, chances, prefix_LI = [], [], [], []
    for level in range(books.num_levels):
        shares = np.bincount(codes_IL[:, level], minlength=books.size) / num_items
        perplexities.append(float(np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum())))
        _, prefix_I, counts = np.unique(codes_IL[:, : level + 1], axis=0, return_inverse=True, return_counts=True)
        prefix_LI.append(prefix_I.reshape(-1))
        numbers.append(len(counts))
        chances.append(float((counts * (counts - 1)).sum()) / max(1, num_items * (num_items - 1)))
    shared = float((counts[prefix_LI[-1]] > 1).mean())
    asked = np.random.default_rng(seed).permutation(num_items)[:MOST_ASKED]
    nearest = _neighbors(vectors_ID, asked)
    together = [float((prefix_I[nearest] == prefix_I[asked][:, None]).mean()) for prefix_I in prefix_LI]
    return Worth(
        num_items, tuple(perplexities), tuple(numbers), shared, float(coded.residual_B.mean()), tuple(together),
        tuple(chances),
    )  # fmt: skip


def _neighbors(vectors_ID: Floats, asked: NDArray[np.int64]) -> NDArray[np.int64]:
    """The nearest items of some, without themselves."""
    vectors = torch.from_numpy(vectors_ID)
    found = []
    for some in torch.split(torch.from_numpy(asked), 256):
        scores = vectors[some] @ vectors.T
        scores[torch.arange(len(some)), some] = -torch.inf
        found.append(scores.topk(min(NEAREST, len(vectors) - 1), 1).indices)
    nearest: NDArray[np.int64] = torch.cat(found).numpy()
    return nearest


def kept(codes_IL: Codes, like_IL: Codes) -> tuple[float, ...]:
    """Share of items that keep their prefix, by its length."""
    same_IL = np.logical_and.accumulate(codes_IL == like_IL, 1)
    return tuple(float(share) for share in same_IL.mean(0))
