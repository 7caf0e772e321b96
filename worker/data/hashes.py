"""Numbers that stand for ids: the same id, the same number, in any dataset and on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from worker.data.dataset import Ints

Hashes = NDArray[np.uint64]
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that nothing is lost


def hashes_of(ids: Sequence[str]) -> Hashes:
    """Of each id 64 bits, evenly spread."""
    digests = b"".join(blake2b(each.encode(), digest_size=8).digest() for each in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def pair_hashes(user_hashes: Hashes, item_hashes: Hashes, users: Ints, items: Ints) -> Hashes:
    """Of users with items, by number: 64 bits each."""
    hashes: Hashes = user_hashes[users] * MULTIPLIER + item_hashes[items]
    hashes ^= hashes >> np.uint64(32)
    return hashes
