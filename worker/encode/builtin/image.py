"""Images as statistics of colour, layout and gradients.

Colours: a histogram over red, green and blue. Layout: mean and spread of lightness and two opponent colours on a grid.
Gradients: histograms of their directions on a grid, after Dalal and Triggs 2005. N images, H height, W width, C cells
along a side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, ImageForm, Images, Part

SIDE = 64
COLOUR_BINS = 4  # along each of red, green and blue
LAYOUT_CELLS = 4
GRADIENT_CELLS = 8
DIRECTIONS = 8

COLOUR_WEIGHT, LAYOUT_WEIGHT, GRADIENT_WEIGHT = 0.3, 0.6, 0.6


class ImageStatistics:
    """`builtin-image`: colour, layout and gradients of an image or frame."""

    name = "builtin-image-v1"
    unit: Unit = "pixels"
    dim = COLOUR_BINS**3 + LAYOUT_CELLS**2 * 6 + GRADIENT_CELLS**2 * DIRECTIONS
    batch_cost = 64 * SIDE * SIDE

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (ImageForm(SIDE, SIDE, frames=num_vectors),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(pixels_HW3, SIDE * SIDE)
            for part in parts
            if isinstance(part, Images)
            for pixels_HW3 in part.pixels_NHW3
        ]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        pixels_NHW3 = np.stack([piece.payload for piece in pieces]).astype(np.float32) / np.float32(255)
        blocks = [
            COLOUR_WEIGHT * unit_rows(np.sqrt(_colours(pixels_NHW3))),
            LAYOUT_WEIGHT * unit_rows(_layout(pixels_NHW3)),
            GRADIENT_WEIGHT * unit_rows(np.sqrt(_gradients(pixels_NHW3))),
        ]
        return unit_rows(np.concatenate(blocks, axis=1))


def _colours(pixels_NHW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Share of the pixels in each bin of colour."""
    num = len(pixels_NHW3)
    levels = np.minimum((pixels_NHW3 * COLOUR_BINS).astype(np.intp), COLOUR_BINS - 1).reshape(num, -1, 3)
    bins = levels @ np.array([COLOUR_BINS**2, COLOUR_BINS, 1]) + np.arange(num)[:, None] * COLOUR_BINS**3
    counts = np.bincount(bins.ravel(), minlength=num * COLOUR_BINS**3).reshape(num, -1)
    return np.asarray(counts / levels.shape[1], np.float32)


def _layout(pixels_NHW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean and spread of lightness, red against green, and yellow against blue, in each cell."""
    red, green, blue = np.moveaxis(pixels_NHW3, 3, 0)
    opponent = np.stack([(red + green + blue) / 3 - 0.5, red - green, (red + green) / 2 - blue], axis=-1)
    cells = _cells(opponent, LAYOUT_CELLS)
    means, spreads = cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))
    return np.concatenate([means.reshape(len(means), -1), spreads.reshape(len(spreads), -1)], axis=1)


def _gradients(pixels_NHW3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the gradients of each direction, without regard to sign, in each cell."""
    grey_NHW = pixels_NHW3.mean(axis=3)
    down_NHW, across_NHW = np.gradient(grey_NHW, axis=(1, 2))
    strength_NHW = np.hypot(down_NHW, across_NHW)
    turn_NHW = np.arctan2(down_NHW, across_NHW) / np.pi * DIRECTIONS
    direction_NHW = np.floor(turn_NHW).astype(np.intp) % DIRECTIONS
    cell_W = np.arange(SIDE) * GRADIENT_CELLS // SIDE
    image_N11 = np.arange(len(pixels_NHW3))[:, None, None]
    cell_NHW = (image_N11 * GRADIENT_CELLS + cell_W[:, None]) * GRADIENT_CELLS + cell_W
    num = len(pixels_NHW3) * GRADIENT_CELLS**2 * DIRECTIONS
    sums = np.bincount((cell_NHW * DIRECTIONS + direction_NHW).ravel(), strength_NHW.ravel(), minlength=num)
    return sums.reshape(len(pixels_NHW3), -1).astype(np.float32)


def _cells(values_NHWK: NDArray[np.float32], cells: int) -> NDArray[np.float32]:
    """[N, C, H/C, C, W/C, K]"""
    num, height, width, depth = values_NHWK.shape
    return values_NHWK.reshape(num, cells, height // cells, cells, width // cells, depth)
