"""Which pieces are encoded together: by what they cost, not by their number. Pure.

A batch is padded to its costliest piece, so pieces of like cost belong together, and short ones fit in greater numbers.
`tests/bench/encode.py` shows what that is worth.
"""

from __future__ import annotations

from collections.abc import Sequence


def cost_batches(costs: Sequence[int], batch_cost: int) -> list[list[int]]:
    """Indices of the pieces of each batch, costliest first.

    A batch costs its size times its costliest piece, at most `batch_cost`; a piece that costs more is alone.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(costs)), key=lambda index: (-costs[index], index)):
        if room == 0:
            batches.append([])
            room = max(1, batch_cost // max(1, costs[index]))
        batches[-1].append(index)
        room -= 1
    return batches
