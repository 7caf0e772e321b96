"""Several processes that make one training: started by `torchrun`, each with a copy of the data and of the model.

The questions of a step are divided among them, and their gradients are averaged, so all have the same parameters after
it, and those that one process with the same batch would have, within rounding. What a step does with items is done by
each, with the same draws; so is validation.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from torch import distributed

T = TypeVar("T")

PATIENCE = timedelta(hours=2)
"""For one that comes later than the others, before all end with an error."""


@dataclass(frozen=True, slots=True)
class Together:
    """The processes, and which of them this is. By itself one alone."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """The one that writes and speaks."""
        return self.rank == 0

    def part(self, count: int) -> tuple[slice, float]:
        """Which of so many questions are this process's, and what their mean counts for in a mean over processes. Of
        fewer than there are processes each takes all."""
        if self.size == 1 or count < self.size:
            return slice(None), 1.0
        start, end = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, end), (end - start) * self.size / count

    def average(self, parameters: Iterable[torch.nn.Parameter], values: Sequence[float]) -> list[float]:
        """The gradients become their means over the processes; and the means of these values."""
        if self.size == 1:
            return list(values)
        gradients = [each.grad for each in parameters if each.grad is not None]
        beside = torch.tensor(values, device=gradients[0].device, dtype=gradients[0].dtype)
        everything = torch.cat([*(each.flatten() for each in gradients), beside])
        distributed.all_reduce(everything)
        everything /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(everything[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()
        means: list[float] = everything[start:].tolist()
        return means

    def wait(self) -> None:
        """Until all have come to this."""
        if self.size > 1:
            distributed.barrier()

    def agreed(self, value: T) -> T:
        """What the first of them has: no two may go on differently, whatever their clocks and processors say."""
        if self.size == 1:
            return value
        values: list[T] = [value]
        distributed.broadcast_object_list(values, src=0)
        return values[0]


ALONE = Together()


def own_device(requested: str) -> str:
    """Of several processes on one machine each has a GPU of its own, where there are GPUs."""
    if "LOCAL_RANK" in os.environ and requested in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ['LOCAL_RANK']}"
    return requested


@contextmanager
def processes(device: str) -> Iterator[Together]:
    """Those that `torchrun` has started; without it, this one alone."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or "RANK" not in os.environ:
        yield Together()
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        torch.cuda.set_device(device)
    distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=PATIENCE)
    try:
        yield Together(distributed.get_rank(), size)
    finally:
        distributed.destroy_process_group()


def of_this_machine() -> int:
    """How many of them share this machine's cores."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
