"""The first dimensions of vectors, for models that were trained so that these stand alone (Matryoshka)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import Encoder, Piece, RemoteEncoder, RemoteFigures, Unit, unit_rows
from worker.encode.media.errors import ContentError
from worker.encode.media.forms import Form, Part
from worker.errors import ConfigError


def shortened(encoder: Encoder, dim: int, modality: str) -> Encoder:
    """An encoder of the same pieces. Raises `ConfigError` for more dimensions than there are."""
    if not 1 <= dim <= encoder.dim:
        raise ConfigError(f"encode.dims: {modality}={dim}: {encoder.name} has {encoder.dim} dims")
    if dim == encoder.dim:
        return encoder
    return ShortRemote(encoder, dim) if isinstance(encoder, RemoteEncoder) else Short(encoder, dim)


class Short:
    """Vectors of another encoder, cut and scaled to length one again."""

    def __init__(self, encoder: Encoder, dim: int) -> None:
        self.encoder = encoder
        self.dim = dim
        self.unit: Unit = encoder.unit
        self.batch_cost = encoder.batch_cost

    @property
    def name(self) -> str:
        return f"{self.encoder.name}-first{self.dim}"

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return self.encoder.forms(num_vectors)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return self.encoder.pieces(parts)

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        return unit_rows(self.encoder.encode(pieces)[:, : self.dim])


class ShortRemote(Short):
    """The same of an encoder that is elsewhere."""

    encoder: RemoteEncoder

    def rows(
        self, pieces: Sequence[Piece], beat: Callable[[], None], trace: str = ""
    ) -> list[NDArray[np.float32] | ContentError]:
        return [
            row if isinstance(row, ContentError) else unit_rows(row[None, : self.dim])[0]
            for row in self.encoder.rows(pieces, beat, trace)
        ]

    def require_well(self, beat: Callable[[], None]) -> None:
        self.encoder.require_well(beat)

    def adopt(self, name: str) -> bool:
        whole, mark, dim = name.rpartition("-first")
        return bool(mark) and dim == str(self.dim) and self.encoder.adopt(whole)

    @property
    def figures(self) -> RemoteFigures:
        return self.encoder.figures

    def close(self) -> None:
        self.encoder.close()
