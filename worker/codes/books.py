"""Codebooks, and the codes of vectors by them: a function of a vector alone, down to the last bit.

A code is an argmax, and an argmax can flip with the last bit of a product, which differs between batches, processors
and libraries. So it is decided in exact arithmetic: elements are those of the vector rounded to half precision, whole
multiples of 2^-24, and centroids whole multiples of 2^-12, so that every product and every sum of them is exact in
float64, in whatever order it is added up. Float32 decides where the lead is larger than its error can be, which is
nearly always.

B vectors   L levels   S codes of a level   D dim of the space
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from worker.beside_space import Tensors, read_beside, write_beside
from worker.errors import SpaceError

CODES_FILE = "codes.safetensors"
FORMAT_VERSION = 1
GRID = 4_096.0
"""Centroids are whole multiples of 1 / GRID."""
_ULP = 2.0**-24
_LENGTH = 0.01  # more than rounding makes of a length

Floats = NDArray[np.float32]
Codes = NDArray[np.int64]


class Coded(NamedTuple):
    """Vectors in codes."""

    codes_BL: Codes
    residual_B: Floats
    """Square of what the codes leave of each vector, up to float32's rounding."""


@dataclass(frozen=True)
class Codebooks:
    """Of one space, frozen."""

    space_id: str
    books_LSD: Floats
    """Centroids of what the levels before leave of a vector, on the grid."""
    residual: float = 0.0
    """Mean square of what they left of the vectors that they were learned from."""

    @property
    def num_levels(self) -> int:
        return int(self.books_LSD.shape[0])

    @property
    def size(self) -> int:
        return int(self.books_LSD.shape[1])

    @property
    def dim(self) -> int:
        return int(self.books_LSD.shape[2])

    @cached_property
    def code_space_id(self) -> str:
        """Equal ids: equal codes of equal vectors."""
        digest = blake2b(f"{FORMAT_VERSION} {self.space_id} {self.books_LSD.shape}".encode(), digest_size=8)
        digest.update(np.ascontiguousarray(self.books_LSD, "<f4").tobytes())
        return digest.hexdigest()

    def codes(self, vectors_BD: Floats) -> Coded:
        """The codes of vectors, whatever dtype they are published in: of each as half precision rounds it."""
        rounded_BD = torch.from_numpy(vectors_BD).half().float()
        left_BD, everyone_B = rounded_BD.clone(), np.arange(len(rounded_BD))
        squares_B = (rounded_BD * rounded_BD).sum(1).numpy()
        codes_BL = np.empty((len(rounded_BD), self.num_levels), np.int64)
        for level, (book_DS, book_SD, minus_halves_S, longest) in enumerate(self._fast):
            with torch.inference_mode():
                found_BS = torch.addmm(minus_halves_S, left_BD, book_DS)
            scores_BS = found_BS.numpy()
            codes_B = scores_BS.argmax(1)
            best_B = scores_BS[everyone_B, codes_B]
            scores_BS[everyone_B, codes_B] = -np.inf
            least_B = best_B - self._error(level, longest, squares_B)
            for row in np.flatnonzero(found_BS.amax(1).numpy() >= least_B).tolist():
                near = np.sort(np.append(np.flatnonzero(scores_BS[row] >= least_B[row]), codes_B[row]))
                codes_B[row] = self._nearest(rounded_BD[row].numpy(), codes_BL[row, :level], near)
            codes_BL[:, level] = codes_B
            squares_B = np.maximum(squares_B - 2 * best_B, 0)
            left_BD -= book_SD.index_select(0, torch.from_numpy(codes_B))
        return Coded(codes_BL, squares_B)

    def _error(self, level: int, longest: float, squares_B: Floats) -> Floats:
        """More than float32 can be wrong in a difference of two scores: a product is off by D ulps of the lengths at
        most, in whatever order it is added up, and what is left of a vector by one at each level before."""
        lengths_B = np.sqrt(squares_B) + _LENGTH
        error_B = 2 * _ULP * longest * (lengths_B * (self.dim + 12 + level) + 4 * longest)
        return error_B.astype(np.float32)

    def _nearest(self, rounded_D: Floats, before: NDArray[np.int64], near: NDArray[np.int64]) -> int:
        """Of some codes of the level behind those before the one that exact arithmetic chooses; of equals the first."""
        books_LSD, halves_LS = self._exact
        left_D = rounded_D.astype(np.float64)
        for level, code in enumerate(before.tolist()):
            left_D -= books_LSD[level, code]
        scores = books_LSD[len(before), near] @ left_D - halves_LS[len(before), near]
        return int(near[scores.argmax()])

    def exactly(self, rounded_BD: Floats) -> Codes:
        """The codes of vectors of half precision, decided in exact arithmetic; of equals the first."""
        left_BD = rounded_BD.astype(np.float64)
        codes_BL = np.empty((len(left_BD), self.num_levels), np.int64)
        books_LSD, halves_LS = self._exact
        for level, book_SD in enumerate(books_LSD):
            scores_BS = left_BD @ book_SD.T - halves_LS[level]
            codes_BL[:, level] = scores_BS.argmax(1)
            left_BD -= book_SD[codes_BL[:, level]]
        return codes_BL

    def decoded(self, codes_BL: Codes) -> Floats:
        """`[B, D]`: the vectors that the codes stand for; of as many levels as are given."""
        levels = codes_BL.shape[1]
        total_BD: Floats = sum(self.books_LSD[level][codes_BL[:, level]] for level in range(levels))
        return total_BD

    @cached_property
    def _exact(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        books_LSD = self.books_LSD.astype(np.float64)
        return books_LSD, (books_LSD**2).sum(2) / 2

    @cached_property
    def _fast(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor, float]]:
        """Of each level the centroids in columns and in rows, minus half their squares, and the longest."""
        return [
            (
                torch.from_numpy(np.ascontiguousarray(book_SD.T)),
                torch.from_numpy(np.ascontiguousarray(book_SD)),
                torch.from_numpy((-halves_S).astype(np.float32)),
                float(np.sqrt(2 * halves_S.max())),
            )
            for book_SD, halves_S in zip(self.books_LSD, self._exact[1], strict=True)
        ]


def on_grid(book_SD: NDArray[np.floating]) -> Floats:
    """Centroids in whole multiples of 1 / GRID."""
    rounded: Floats = (np.rint(np.asarray(book_SD, np.float64) * GRID) / GRID).astype(np.float32)
    return rounded


def disambiguator(item_id: str) -> int:
    """What tells items of equal codes apart: the CRC-32 of the id, which every language has.

    A number of the bucket's next free place would need all workers to agree on an order of items, and would come out
    otherwise wherever a replay computes fewer revisions, or partitions go elsewhere. This one needs nobody, nothing
    remembered, and is the same for ever. Whoever wants fewer bits takes the lowest.
    """
    return crc32(item_id.encode())


def write_codebooks(directory: str | Path, books: Codebooks) -> None:
    """Put them beside the space, in the place of older ones. Raises `SpaceError`."""
    about = {"space_id": books.space_id, "code_space_id": books.code_space_id, "residual": books.residual}
    write_beside(Path(directory) / CODES_FILE, "codes", FORMAT_VERSION, about, {"books": books.books_LSD})


def read_codebooks(directory: str | Path, space_id: str) -> Codebooks | None:
    """Those of the space in a directory; None where it has none. Raises `SpaceError` for those of another space, and
    for a file that cannot be read, or was changed."""
    path = Path(directory) / CODES_FILE
    cure = "learn codes again with `align-worker space codes`"
    found = read_beside(path, "codes", FORMAT_VERSION, _checked, cure=cure)
    if found is not None and found.space_id != space_id:
        raise SpaceError(
            f"space.path: {path} has codes of space {found.space_id}, and this is {space_id}: learn them again with "
            "`align-worker space codes`, or delete the file"
        )
    return found


def _checked(about: Mapping[str, Any], tensors: Tensors) -> Codebooks:
    books_LSD = tensors["books"]
    if books_LSD.ndim != 3 or books_LSD.dtype != np.float32 or not np.isfinite(books_LSD).all():
        raise ValueError("the books are not three-dimensional, finite float32")
    if not np.array_equal(on_grid(books_LSD), books_LSD):
        raise ValueError("centroids are not on the grid")
    found = Codebooks(about["space_id"], books_LSD, float(about["residual"]))
    if found.code_space_id != about["code_space_id"]:
        raise ValueError(f"it says that it is {about['code_space_id']}, and its content is {found.code_space_id}")
    return found


def prefixes(codes: Sequence[int]) -> list[str]:
    """Every prefix as one word, from coarse to fine: three categorical features for a ranker."""
    return ["-".join(map(str, codes[: level + 1])) for level in range(len(codes))]
