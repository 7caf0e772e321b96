"""Text as hashed n-grams: words, pairs of words and parts of words, each to a signed dimension.

Feature hashing after Weinberger et al. 2009; parts of words as in fastText (Bojanowski et al. 2017). Everything is done
on arrays of code points, because a loop over n-grams in Python would take milliseconds per text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from worker.encode.encoder import Piece, Unit, unit_rows
from worker.encode.media.forms import Form, Part, Text, TextForm

MAX_CHARS = 8_192
PART_SIZES = (3, 4, 5)
WORD_WEIGHT, PAIR_WEIGHT, PART_WEIGHT = 1.0, 0.3, 0.5
FULL_WEIGHT_CHARS = 6  # shorter words are mostly the glue of a sentence, and count less; years and numbers do not

_BASE = np.uint64(0x9E37_79B9_7F4A_7C15 | 1)
_INVERSE = np.uint64(pow(int(_BASE), -1, 2**64))
_SPACE = np.uint64(ord(" "))


class TextNgrams:
    """`builtin-text`: words, pairs and parts of words of a text."""

    name = "builtin-text-v1"
    unit: Unit = "tokens"
    dim = 1_024
    batch_cost = 64 * MAX_CHARS

    def forms(self, num_vectors: int) -> tuple[Form, ...]:
        return (TextForm(MAX_CHARS + 1),)

    def pieces(self, parts: Sequence[Part | None]) -> list[Piece]:
        return [
            Piece(part.text[:MAX_CHARS], min(len(part.text), MAX_CHARS), len(part.text) > MAX_CHARS)
            for part in parts
            if isinstance(part, Text)
        ]

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        rows_ND = np.zeros((len(pieces), self.dim), np.float32)
        for row_D, piece in zip(rows_ND, pieces, strict=True):
            hashes, weights = ngrams(piece.payload)
            signs = np.where(hashes >> np.uint64(63), -1.0, 1.0)
            np.add.at(row_D, (hashes % np.uint64(self.dim)).astype(np.intp), (signs * weights).astype(np.float32))
        return unit_rows(rows_ND)


def ngrams(text: str) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
    """The distinct n-grams of a text as hashes, and their weights."""
    spaced = f" {words_of(text)} "
    points = np.frombuffer(spaced.encode("utf-32-le"), "<u4").astype(np.uint64)
    is_space = points == _SPACE
    powers, inverses = _powers(_BASE, len(points) + 1), _powers(_INVERSE, len(points) + 1)
    prefix = np.concatenate([np.zeros(1, np.uint64), np.cumsum((points + np.uint64(1)) * powers[:-1])])

    def spans(starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.uint64]:
        """Hashes of `points[start:end]`, wherever they are."""
        return np.asarray((prefix[ends] - prefix[starts]) * inverses[starts], np.uint64)

    gaps = np.flatnonzero(is_space)
    starts, ends = gaps[:-1] + 1, gaps[1:]
    words = spans(starts, ends)
    num_digits = np.concatenate([[0], np.cumsum((points >= ord("0")) & (points <= ord("9")))])
    has_digit = num_digits[ends] > num_digits[starts]
    word_weights = np.where(has_digit, 1.0, np.minimum(1.0, (ends - starts) / FULL_WEIGHT_CHARS)) ** 2
    point_weights = np.repeat(np.append(word_weights, 0.0), np.append(ends - starts, 1) + 1)
    pairs = words[:-1] * np.uint64(3) + words[1:]
    hashes = [_mixed(words, 1), _mixed(pairs, 2)]
    weights = [WORD_WEIGHT * word_weights, PAIR_WEIGHT * np.minimum(word_weights[:-1], word_weights[1:])]
    spaces_before = np.concatenate([[0], np.cumsum(is_space)])
    for size in PART_SIZES:
        first = np.arange(max(0, len(points) - size + 1))
        inside = spaces_before[first + size - 1] - spaces_before[first + 1]  # its ends may be a word's
        first = first[inside == 0]
        hashes.append(_mixed(spans(first, first + size), size))
        weights.append(PART_WEIGHT / len(PART_SIZES) * point_weights[first])
    distinct, index, counts = np.unique(np.concatenate(hashes), return_index=True, return_counts=True)
    return distinct, np.concatenate(weights)[index] * (1 + np.log(counts))


def words_of(text: str) -> str:
    """The text in lower case with single spaces for all that is neither letter, mark nor digit.

    A text without a single one of those is left as it is: even a row of symbols is something.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    words = "".join(char if unicodedata.category(char)[0] in "LMN" else " " for char in folded).split()
    return " ".join(words or folded.split())


def _powers(base: np.uint64, num: int) -> NDArray[np.uint64]:
    powers = np.full(num, base, np.uint64)
    powers[0] = 1
    return np.cumprod(powers, dtype=np.uint64)


def _mixed(hashes: NDArray[np.uint64], kind: int) -> NDArray[np.uint64]:
    """Spread over all 64 bits (the finaliser of splitmix64), apart for each kind of n-gram."""
    mixed = hashes + np.uint64(kind * int(_BASE) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D0_49BB_1331_11EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)), np.uint64)
