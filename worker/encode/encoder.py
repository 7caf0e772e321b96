"""What every encoder promises, whether it has weights or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from worker.encode.media.forms import Form, Part

Unit = Literal["tokens", "pixels", "samples"]


@dataclass(frozen=True, slots=True)
class Piece:
    """What one vector is made of: a text, a picture or frame, a window of sound."""

    payload: Any
    """Known to the encoder that made it."""
    cost: int
    """Units of the encoder. Pieces encoded together are padded to the costliest of them."""
    is_cut: bool = False
    """The encoder takes no more than this of a longer content."""


class Encoder(Protocol):
    """Content of one kind to vectors of unit length. One thread at a time.

    A vector depends on its piece alone; other pieces of its batch change it by rounding at most.
    """

    @property
    def name(self) -> str:
        """Stamped on every feature. Two encoders whose vectors cannot be compared have two names."""
        ...

    @property
    def dim(self) -> int: ...

    @property
    def unit(self) -> Unit:
        """What pieces cost."""
        ...

    @property
    def batch_cost(self) -> int:
        """Padded cost of a batch beyond which nothing is won, or memory is short."""
        ...

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        """What it wants of a content, for at most so many vectors."""
        ...

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        """One piece per vector, in the order of time, of a content in each of `forms`; none if it can use none."""
        ...

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """A row per piece, [N, dim]; at least one piece."""
        ...


def unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a row of zeros stays."""
    lengths_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths_N1, 1e-12), np.float32)
