"""The few batch sizes that the model runs at."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from worker.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PaddedSizes:
    """Rising batch sizes; a batch is padded to the next one."""

    sizes: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        """There is one size only. Then every tensor of every batch has the same shape."""
        return len(self.sizes) == 1

    def at_least(self, count: int) -> int:
        """The size for `count` rows: the next one, or beyond the largest the next multiple of it."""
        largest = self.sizes[-1]
        if count > largest:
            return -(-count // largest) * largest
        return self.sizes[bisect_left(self.sizes, count)]


def rising_sizes(max_batch: int, sizes: Sequence[int] | None = None) -> PaddedSizes:
    """The sizes given, or the powers of two below `max_batch` and `max_batch` itself."""
    if sizes is None:
        return PaddedSizes((*(1 << n for n in range((max_batch - 1).bit_length())), max_batch))
    if not sizes or list(sizes) != sorted(set(sizes)) or sizes[0] < 1 or sizes[-1] < max_batch:
        raise ConfigError(
            f"batch.padded_sizes: {list(sizes)} must rise, start at 1 or above and end at the largest batch, "
            f"{max_batch}, or above"
        )
    return PaddedSizes(tuple(sizes))
