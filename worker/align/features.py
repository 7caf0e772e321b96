"""The interface of a feature: one modality of one item, as its encoder produced it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

ElementType = Literal["f2", "f4", "bf2", "i1"]

ELEMENT_BYTES: Mapping[str, int] = {"f2": 2, "f4": 4, "bf2": 2, "i1": 1}
"""Bytes per element: IEEE half, IEEE single, bfloat16, signed byte times a scale."""


class FeatureLike(Protocol):
    """One or several vectors of one modality. The wire contract's own feature type satisfies this."""

    @property
    def encoder(self) -> str:
        """Name of the model that produced the vectors."""
        ...

    @property
    def dtype(self) -> ElementType: ...

    @property
    def shape(self) -> tuple[int, ...]:
        """`(K,)` for one vector, `(N, K)` for N of them."""
        ...

    @property
    def data(self) -> bytes:
        """The elements, row by row, little-endian."""
        ...

    @property
    def scale(self) -> float | None:
        """Factor of `i1` elements. Ignored for the other types."""
        ...


Features = Mapping[str, FeatureLike]
"""The features of one item, by modality."""
