"""Codebooks, and the codes of vectors by them: a function of a vector alone, down to the last bit.

A code is an argmax, and an argmax can flip with the last bit of a product, which differs between batches, processors
and libraries. So it is decided in exact arithmetic: elements are those of the vector rounded to half precision, whole
multiples of 2^-24, and centroids whole multiples of 2^-12, so that every product and every sum of them is exact in
float64, in whatever order it is added up. Float32 decides where the lead is larger than its error can be, which is
nearly always.

B vectors   L levels   S codes of a level   D dim of the space
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from worker.errors import SpaceError

CODES_FILE = "codes.safetensors"
FORMAT_VERSION = 1
GRID = 4_096.0
"""Centroids are whole multiples of 1 / GRID."""
_ULP = 2.0**-24
_LENGTH = 1.01  # of a vector at most, as it is rounded

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
        fast = self._fast
        with torch.inference_mode():
            scores_BM = rounded_BD @ fast.books_DM
            found: list[torch.Tensor] = []
            doubtful_B = torch.zeros(len(rounded_BD), dtype=torch.bool)
            squares_B = (rounded_BD * rounded_BD).sum(1)
            for level in range(self.num_levels):
                scores_BS = scores_BM[:, level * self.size : (level + 1) * self.size] - fast.halves_LS[level]
                for before, codes_B in enumerate(found):
                    scores_BS -= fast.products_LLSS[before, level].index_select(0, codes_B)
                best_B, codes_B = scores_BS.max(1)
                scores_BS.scatter_(1, codes_B[:, None], -torch.inf)
                doubtful_B |= scores_BS.amax(1) >= best_B - fast.errors_L[level]
                squares_B = squares_B - 2 * best_B
                found.append(codes_B)
            codes_BL = torch.stack(found, 1).numpy()
        rows = doubtful_B.nonzero()[:, 0].numpy()
        if len(rows):
            codes_BL[rows] = self.exactly(rounded_BD[rows].numpy())
        return Coded(codes_BL, squares_B.clamp(min=0).numpy())

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
    def _fast(self) -> _Fast:
        """Of all levels at once: what the levels before have taken away is a product of centroids, known beforehand."""
        levels, size, dim = self.books_LSD.shape
        books_LSD = self.books_LSD.astype(np.float64)
        products = np.einsum("asd,btd->abst", books_LSD, books_LSD)
        longest_L = np.sqrt((books_LSD**2).sum(2).max(1))
        # A product of unit vector and centroid is off by D ulps of their lengths at most, in whatever order it is added
        # up; what is taken off it, by a few of its own. A difference of two is off by twice as much.
        before_L = np.cumsum(longest_L) - longest_L
        errors_L = 2 * _ULP * longest_L * (_LENGTH * (dim + 8) + 8 * before_L + 4 * longest_L)
        return _Fast(
            torch.from_numpy(np.ascontiguousarray(self.books_LSD.reshape(levels * size, dim).T)),
            torch.from_numpy(((books_LSD**2).sum(2) / 2).astype(np.float32)),
            torch.from_numpy(products.astype(np.float32)),
            errors_L.tolist(),
        )


class _Fast(NamedTuple):
    books_DM: torch.Tensor
    """Of all levels beside each other, M = L S."""
    halves_LS: torch.Tensor
    """Half the squares of the centroids."""
    products_LLSS: torch.Tensor
    errors_L: list[float]
    """More than float32 can be wrong in a difference of two scores."""


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
    path = Path(directory) / CODES_FILE
    about = {
        "format_version": FORMAT_VERSION,
        "space_id": books.space_id,
        "code_space_id": books.code_space_id,
        "residual": books.residual,
    }
    data = save({"books": np.ascontiguousarray(books.books_LSD, np.float32)}, {"codes": json.dumps(about)})
    unfinished = path.with_name(f"{CODES_FILE}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise SpaceError(f"{path} cannot be written: {error}") from error


def read_codebooks(directory: str | Path, space_id: str) -> Codebooks | None:
    """Those of the space in a directory; None where it has none. Raises `SpaceError` for those of another space, and
    for a file that cannot be read, or was changed."""
    path = Path(directory) / CODES_FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = json.loads((file.metadata() or {})["codes"])
            if about["format_version"] != FORMAT_VERSION:
                raise ValueError(f"format_version {about['format_version']} is not known to this worker")
            books_LSD = file.get_tensor("books")
        if books_LSD.ndim != 3 or books_LSD.dtype != np.float32 or not np.isfinite(books_LSD).all():
            raise ValueError("the books are not three-dimensional, finite float32")
        if not np.array_equal(on_grid(books_LSD), books_LSD):
            raise ValueError("centroids are not on the grid")
        found = Codebooks(about["space_id"], books_LSD, float(about["residual"]))
        if found.code_space_id != about["code_space_id"]:
            raise ValueError(f"it says that it is {about['code_space_id']}, and its content is {found.code_space_id}")
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SpaceError(
            f"space.path: {path} cannot be read: {error}; learn codes again with `align-worker space codes`"
        ) from error
    if found.space_id != space_id:
        raise SpaceError(
            f"space.path: {path} has codes of space {found.space_id}, and this is {space_id}: learn them again with "
            "`align-worker space codes`, or delete the file"
        )
    return found


def prefixes(codes: Sequence[int]) -> list[str]:
    """Every prefix as one word, from coarse to fine: three categorical features for a ranker."""
    return ["-".join(map(str, codes[: level + 1])) for level in range(len(codes))]
