"""In what order tests run when several processes share them: what takes long first, what is quick last.

pytest-xdist gives each process a block of the list, of as many tests as every other one; whoever has finished takes
half of what is left from the end of another block. By their paths, all tests that wait for brokers would stand in one
block, and the last process would be left alone with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

SLOW = ("tests/acceptance/", "tests/integration/")
"""Where tests start brokers and workers, and wait for them."""


def in_blocks(paths: Sequence[str], num_processes: int) -> list[int]:
    """The positions of tests, given the file of each, in the order to run them: in each block its share of the slow
    files and then quick tests, all in the order they had. Tests of a slow file stay together: they share fixtures."""
    if num_processes < 2:
        return list(range(len(paths)))
    blocks: list[list[int]] = [[] for _ in range(num_processes)]
    slow = (position for position, path in enumerate(paths) if path.startswith(SLOW))
    for turn, (_, positions) in enumerate(groupby(slow, key=lambda position: paths[position])):
        blocks[turn % num_processes].extend(positions)
    quick = [position for position, path in enumerate(paths) if not path.startswith(SLOW)]
    left = len(paths)
    for index, block in enumerate(blocks):
        size = left // (num_processes - index)  # as xdist divides
        room = max(0, size - len(block))
        block.extend(quick[:room])
        del quick[:room]
        left -= size
    return [position for block in blocks for position in block] + quick
