"""What semantic ids cost, how unique they are, and how many are kept by a refresh.

    python -m tests.bench.codes

Vectors of a generated world of topics, rounded as they are published. Cost is CPU time of one thread per item, in
batches of 512, the least of many, beside that of the bare products of vectors and centroids, which no way of doing it
goes without.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray

from tests.bench.host import host_line
from worker.codes.learn import kept, learned, worth

SIZES = ((3, 256), (4, 256), (3, 512))
BATCH, ROUNDS = 512, 60
TOPICS, RANK, WITHIN = 200, 48, 0.8

COLUMNS = (
    "levels x codes", "learned in, s", "different", "share all codes", "variance kept",
    "of the ten nearest share the first code", "the first two", "kept with 20 % new items by --like: first, two, all",
    "by another seed alone", "µs per item: least / middle", "products alone",
)  # fmt: skip

Floats = NDArray[np.float32]


class World:
    def __init__(self, dim: int, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)
        self._topics_TR = self._random.standard_normal((TOPICS, RANK))
        self._map_RD = self._random.standard_normal((RANK, dim)) * np.arange(1, RANK + 1)[:, None] ** -0.5

    def vectors(self, count: int) -> Floats:
        topics = self._random.integers(0, TOPICS, count)
        latent = self._topics_TR[topics] + WITHIN * self._random.standard_normal((count, RANK))
        rows = latent @ self._map_RD
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def cost_us(call: Callable[[], object]) -> tuple[float, float]:
    """Least and middle CPU time of an item of a batch."""
    taken = []
    for _ in range(ROUNDS):
        before = time.thread_time()
        call()
        taken.append((time.thread_time() - before) / BATCH * 1e6)
    return min(taken), median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(host_line())
    world = World(arguments.dim)
    old_ID, new_ID = world.vectors(arguments.items), world.vectors(arguments.items // 5)
    all_ID, batch_BD = np.concatenate([old_ID, new_ID]), world.vectors(BATCH)
    print(f"\n{arguments.items:,} items of {arguments.dim} elements\n\n| {' | '.join(COLUMNS)} |")
    print(f"|{'---|' * len(COLUMNS)}")
    for levels, size in SIZES:
        before = time.thread_time()
        books = learned("0" * 16, old_ID, levels, size)
        seconds = time.thread_time() - before
        found = worth(books, old_ID)
        older = books.codes(all_ID).codes_BL
        shares = [
            kept(learned("0" * 16, all_ID, levels, size, seed=1, like=like).codes(all_ID).codes_BL, older)
            for like in (older, None)
        ]
        like, free = (" ".join(f"{share:.1%}" for share in (each[0], each[1], each[-1])) for each in shares)
        rows_BD, centroids_DM = (
            torch.from_numpy(batch_BD),
            torch.from_numpy(books.books_LSD.reshape(-1, books.dim).T.copy()),
        )
        least, middle = cost_us(lambda: books.codes(batch_BD))  # noqa: B023  # called at once
        bare = cost_us(lambda: rows_BD @ centroids_DM)[0]  # noqa: B023
        print(
            f"| {levels} x {size} | {seconds:.1f} | {found.num_prefixes_L[-1]:,} | {found.shared:.1%} | "
            f"{1 - found.residual:.2f} | {found.neighbors_L[0]:.0%} | {found.neighbors_L[1]:.1%} | {like} | {free} | "
            f"{least:.1f} / {middle:.1f} | {bare:.1f} |"
        )


if __name__ == "__main__":
    main()
