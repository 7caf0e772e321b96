"""The interface of every encoder, with weights or without."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Form, Part

Unit = Literal["tokens", "pixels", "samples"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Input of one vector: a text, an image or frame, a window of audio."""

    payload: Any
    """Known to the encoder that made it."""
    cost: int
    """Units of the encoder. Pieces encoded together are padded to the costliest of them."""
    is_cut: bool = False
    """The encoder takes no more than this of a longer content."""


class UnavailableError(Exception):
    """An encoder that is elsewhere does not answer, or answers as another one: nothing is wrong with what it was to
    encode, which waits. The message is one line for a person."""

    def __init__(self, detail: str, retry_at: float) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_at = retry_at
        """Monotonic time before which it is no use to ask again."""
        self.modality = ""
        """Set on the way up: of the features it was to make."""


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
        """Unit of the cost of pieces."""
        ...

    @property
    def batch_cost(self) -> int:
        """Padded cost of a batch beyond which nothing is won, or memory is short."""
        ...

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        """Forms that it wants a content in, for at most so many vectors."""
        ...

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        """One piece per vector, in the order of time, of a content in each of `forms`; none if it can use none."""
        ...

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        """A row per piece, [N, dim]; at least one piece."""
        ...


@dataclass(slots=True)
class RemoteFigures:
    """Figures of one server since the start, for metrics. Written by one thread, read by any."""

    requests: int = 0
    answered: int = 0
    answer_s: float = 0.0
    retries: int = 0
    busy: int = 0
    faults: int = 0
    refused: int = 0
    in_flight: int = 0
    limit: int = 0
    is_open: bool = False
    detail: str = ""


@runtime_checkable
class RemoteEncoder(Encoder, Protocol):
    """An encoder that is elsewhere: any number of threads may call it, and it makes batches of its own."""

    def rows(
        self, pieces: Sequence[Piece], beat: Callable[[], None], trace: str = ""
    ) -> list[NDArray[np.float32] | ContentError]:
        """A row per piece, or why the piece cannot be encoded by anybody. `beat` is called all the while; what it
        raises ends the call. `trace` is a trace context (W3C) to carry on. Raises `UnavailableError`."""
        ...

    def require_well(self, beat: Callable[[], None]) -> None:
        """Return at once if it is worth asking, or once it has been tried. Raises `UnavailableError`."""
        ...

    def adopt(self, name: str) -> bool:
        """Take the name that a space knows this encoder by, if it means this encoder."""
        ...

    @property
    def figures(self) -> RemoteFigures: ...

    def close(self) -> None: ...


def unit_rows(rows_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows scaled to length one; a row of zeros stays."""
    lengths_N1 = np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return np.asarray(rows_ND / np.maximum(lengths_N1, 1e-12), np.float32)
