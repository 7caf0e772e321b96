"""Videos as what is seen and heard about a number of moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.encode.builtin.audio import SoundStatistics
from worker.encode.builtin.image import ImageStatistics
from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, ImageForm, Part


class VideoStatistics:
    """`builtin-video`: the statistics of a frame beside those of the audio about it; zeros where there is none.

    A content that only can be heard is taken, too, and so is an image.
    """

    name = "builtin-video-v1"
    unit: Unit = "pixels"

    def __init__(self) -> None:
        self._seen, self._heard = ImageStatistics(), SoundStatistics()
        self.dim = self._seen.dim + self._heard.dim
        self.batch_cost = self._seen.batch_cost

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (*self._seen.forms(num_vectors), *self._heard.forms(num_vectors))

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        """One per frame, with the window of audio that lies nearest in the order of time."""
        seen, heard = self._seen.pieces(parts), self._heard.pieces(parts)
        num = len(seen) or len(heard)
        return [Piece((_at(seen, index, num), _at(heard, index, num)), self._cost) for index in range(num)]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        seen = self._rows(self._seen, [piece.payload[0] for piece in pieces])
        heard = self._rows(self._heard, [piece.payload[1] for piece in pieces])
        return unit_rows(np.concatenate([seen, heard], axis=1))

    @property
    def _cost(self) -> int:
        (form,) = self._seen.forms(1)
        assert isinstance(form, ImageForm)
        return form.height * form.width

    def _rows(self, encoder: ImageStatistics | SoundStatistics, pieces: Sequence[Piece | None]) -> NDArray[np.float32]:
        rows_ND = np.zeros((len(pieces), encoder.dim), np.float32)
        present = [index for index, piece in enumerate(pieces) if piece is not None]
        if present:
            rows_ND[present] = encoder.encode([piece for piece in pieces if piece is not None])
        return rows_ND


def _at(pieces: Sequence[Piece], index: int, num: int) -> Piece | None:
    """The piece at the same share of the whole."""
    return pieces[index * len(pieces) // num] if pieces else None
