"""How many threads arithmetic is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARALLEL_FROM = 16_000_000
"""Elements of the largest thing that is worked on. Below, threads that wait for one another cost more than they do, and
far more on a machine that has other things to do: of BPR-MF on 3,000 items four epochs take 0.1 s on one thread, and on
two threads of a machine with two busy cores 200 epochs had not ended after ten minutes."""


@contextmanager
def threads_for(num_elements: int) -> Iterator[None]:
    """One thread for what is small."""
    before = torch.get_num_threads()
    if num_elements < PARALLEL_FROM:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
