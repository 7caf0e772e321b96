"""One encoder for several kinds of content whose vectors compare: the two sides of CLIP, SigLIP or CLAP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import Encoder, Piece, Unit
from worker.encode.media.forms import Form, Part


class _Own(NamedTuple):
    """A piece, and which side made it."""

    side: int
    piece: Piece


class EitherSide:
    """Encodes a content by the first of its sides that finds something in it: the frames of a video before its title.

    All sides have one name and one number of dimensions. Costs are those of the first side.
    """

    def __init__(self, sides: Sequence[Encoder], name: str) -> None:
        self._sides = tuple(sides)
        self.name = name
        self.dim = sides[0].dim
        self.unit: Unit = sides[0].unit
        self.batch_cost = sides[0].batch_cost

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return tuple(form for side in self._sides for form in side.forms(num_vectors))

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        for number, side in enumerate(self._sides):
            if pieces := side.pieces(parts):
                scale = self.batch_cost / side.batch_cost
                return [Piece(_Own(number, each), max(1, round(each.cost * scale)), each.is_cut) for each in pieces]
        return []

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        rows_ND = np.zeros((len(pieces), self.dim), np.float32)
        for number, side in enumerate(self._sides):
            mine = [index for index, piece in enumerate(pieces) if piece.payload.side == number]
            if mine:
                rows_ND[mine] = side.encode([pieces[index].payload.piece for index in mine])
        return rows_ND
