"""Names of a server's vectors, and whether they are those of before. Pure.

A server that is deployed anew with another model, of the same number of dimensions, gives vectors that fit everywhere
and mean nothing beside the old ones. So a sample that never changes goes with the requests, and its vector must be the
one it had at the start. The name has the server's own revision of the model; where a server has none, it has a
fingerprint of the sample's vector instead, which survives rounding, and not another model.
"""

from __future__ import annotations

import base64
import hashlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SAMPLE = "A red kite over the harbour at noon, seen by two sailors."
SAME = 0.999
"""Cosine of two vectors of the sample by one model, whatever batch and arithmetic it was computed in."""
NUM_BITS = 40
MOST_DIFFERENT = 5
"""Bits that may differ: rounding turns none or one, another model about half of them."""
MARK = "~"
MODEL_CHARS = 150


class Identity(NamedTuple):
    """Identity of the model behind an address."""

    model: str
    revision: str
    sample_D: NDArray[np.float32]

    @property
    def dim(self) -> int:
        return len(self.sample_D)

    def name(self, prompt: str = "") -> str:
        model = "".join(char if char.isprintable() and char != MARK else "_" for char in self.model)[-MODEL_CHARS:]
        known = f"@{self.revision[:40]}" if self.revision else f"{MARK}{fingerprint(self.sample_D)}"
        return f"{model}{_short(prompt)}{known}"


def _short(prompt: str) -> str:
    return f"+{hashlib.sha256(prompt.encode()).hexdigest()[:6]}" if prompt else ""


def fingerprint(vector_D: NDArray[np.float32]) -> str:
    """On which side of a number of planes it lies, the same ones at any time."""
    planes_BD = np.random.default_rng(7).standard_normal((NUM_BITS, len(vector_D)))
    bits = np.packbits(planes_BD @ vector_D > 0)
    return base64.b32encode(bits.tobytes()).decode().lower()


def same_encoder(first: str, second: str) -> bool:
    """Whether two names mean one encoder: equal, or equal but for the rounding in a fingerprint."""
    if first == second:
        return True
    (name, mark, mine), (other, other_mark, theirs) = first.rpartition(MARK), second.rpartition(MARK)
    if not (mark and other_mark) or name != other or len(mine) != len(theirs):
        return False
    try:
        bits = [np.unpackbits(np.frombuffer(base64.b32decode(text.upper()), np.uint8)) for text in (mine, theirs)]
    except ValueError:
        return False
    return int((bits[0] != bits[1]).sum()) <= MOST_DIFFERENT


def is_same_vector(found_D: NDArray[np.float32], expected_D: NDArray[np.float32]) -> bool:
    """Compare two vectors, both of unit length."""
    return found_D.shape == expected_D.shape and float(found_D @ expected_D) >= SAME
