"""The contract of encoders, as checks of one that is there: for encoders of one's own, and for those here.

    from worker.encode.contract import problems

    def test_my_encoder_keeps_the_contract():
        assert not problems(MyEncoder())

Each problem is a line that says what was promised. A plug-in with any is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from schemas import DEFAULT_LIMITS
from worker.encode.encoder import Encoder, Piece, Unit
from worker.encode.media.forms import Audio, AudioForm, Form, ImageForm, Images, Part, Text, TextForm

SAME = 1e-3
"""Most that an element of a unit vector may differ by, alone and in a batch."""
TEXTS = ("a", "A red kite over the harbour.", "naïve café – 東京 🪁", "word " * 400)


def problems(encoder: Encoder) -> list[str]:
    """Find breaches of its contract; empty if there are none. It is asked to encode some samples."""
    try:
        return list(_described(encoder)) or list(_problems(encoder))
    except Exception as error:
        return [f"it must encode samples of its forms, and raises {type(error).__name__}: {error}"]


def _problems(encoder: Encoder) -> Iterator[str]:
    forms = encoder.forms(2)
    if not forms or not all(isinstance(form, Form) for form in forms):
        yield "forms(n) must be a tuple with at least one ImageForm, AudioForm or TextForm"
        return
    if encoder.pieces([None] * len(forms)):
        yield "pieces() must be empty for a content that has nothing in any of the forms"
    pieces: list[Piece] = []
    for place, form in enumerate(forms):
        for part in samples(form):
            made = encoder.pieces([part if index == place else None for index in range(len(forms))])
            if not all(isinstance(piece, Piece) for piece in made):
                yield "pieces() must be a list of Piece"
                return
            pieces += made
    if not pieces:
        yield "pieces() must have at least one piece for some part in the forms it has asked for"
        return
    if not all(isinstance(piece.cost, int) and piece.cost >= 1 for piece in pieces):
        yield "a piece must cost a whole number of at least 1"
    yield from _encoded(encoder, pieces)


def _described(encoder: Encoder) -> Iterator[str]:
    name = encoder.name
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        yield "name must be a printable text"
    elif len(name) > DEFAULT_LIMITS.name_chars:
        yield f"name must have at most {DEFAULT_LIMITS.name_chars} characters"
    if not isinstance(encoder.dim, int) or encoder.dim < 1:
        yield "dim must be a whole number of at least 1"
    if encoder.unit not in get_args(Unit):
        yield f"unit must be one of {', '.join(get_args(Unit))}"
    if not isinstance(encoder.batch_cost, int) or encoder.batch_cost < 1:
        yield "batch_cost must be a whole number of at least 1"


def _encoded(encoder: Encoder, pieces: Sequence[Piece]) -> Iterator[str]:
    together = encoder.encode(pieces)
    if not isinstance(together, np.ndarray) or together.shape != (len(pieces), encoder.dim):
        yield f"encode() must return an array of [pieces, dim], here [{len(pieces)}, {encoder.dim}]"
        return
    if together.dtype != np.float32:
        yield f"encode() must return float32, not {together.dtype}"
    if not np.isfinite(together).all():
        yield "vectors must be finite"
        return
    lengths = np.linalg.norm(together, axis=1)
    if not (np.isclose(lengths, 1, atol=1e-3) | (lengths == 0)).all():
        yield "vectors must have unit length"
    if not _is_near(encoder.encode(pieces), together):
        yield "the same pieces must have the same vectors, each time"
    if not _is_near(np.concatenate([encoder.encode([piece]) for piece in pieces]), together):
        yield "a vector must not depend on the other pieces of its batch"
    if not _is_near(encoder.encode(pieces[::-1])[::-1], together):
        yield "rows must be in the order of the pieces"
    if len(pieces) > 1 and _is_near(together[:1].repeat(len(pieces), 0), together):
        yield "different contents must have different vectors"


def _is_near(found: NDArray[np.float32], expected: NDArray[np.float32]) -> bool:
    return found.shape == expected.shape and bool(np.abs(found - expected).max() <= SAME)


def samples(form: Form) -> list[Part]:
    """Parts in a form: short and long, dull and busy."""
    dice = np.random.default_rng(0)
    if isinstance(form, TextForm):
        return [Text(text[: form.chars]) for text in TEXTS]
    if isinstance(form, AudioForm):
        steps = np.arange(max(1, round(form.rate * form.seconds))) / form.rate
        tones = [np.sin(2 * np.pi * hertz * steps).astype(np.float32)[None] for hertz in (220.0, 880.0)]
        return [Audio(tones[0], (0.0,)), Audio(tones[1][:, : max(1, len(steps) // 2)], (0.0,))]
    height, width = _size(form)
    noise = dice.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    slope = np.broadcast_to(np.linspace(0, 255, width, dtype=np.uint8)[None, None, :, None], noise.shape)
    return [Images(noise, (0.0,)), Images(np.ascontiguousarray(slope), (0.0,))]


def _size(form: ImageForm) -> tuple[int, int]:
    return form.height, form.width
