"""Encoders without weights: what every encoder promises, and that they see what they are said to see."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests import media_files
from worker.encode.builtin import BUILTIN
from worker.encode.builtin.text import MAX_CHARS, TextNgrams, words_of
from worker.encode.encoder import Encoder, Piece
from worker.encode.media.decoding import decode
from worker.encode.media.forms import MediaLimits, Text

SEVERAL = 4
MAKERS = sorted(BUILTIN.items())


def pieces(encoder: Encoder, data: bytes, num_vectors: int = SEVERAL) -> list[Piece]:
    return encoder.pieces(decode(data, encoder.forms(num_vectors), MediaLimits()))


def vectors(name: str, *files: bytes, num_vectors: int = 1) -> NDArray[np.float32]:
    encoder = BUILTIN[name]()
    return encoder.encode([piece for data in files for piece in pieces(encoder, data, num_vectors)])


def some_pieces(encoder: Encoder) -> list[Piece]:
    files = {
        "tokens": [b"a disc", b"a much longer text about a disc that moves", "日本語".encode()],
        "samples": [media_files.wav(media_files.tone(seconds, hertz=300)) for seconds in (0.01, 0.5, 12.0)],
        "pixels": [media_files.picture(), media_files.film(), media_files.film(sound_codec=None)],
    }
    return [piece for data in files[encoder.unit] for piece in pieces(encoder, data)]


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_vectors_are_finite_and_of_unit_length(name: str, maker: Callable[..., Any]) -> None:
    encoder = maker()
    rows = encoder.encode(some_pieces(encoder))
    assert rows.shape[1] == encoder.dim
    assert rows.dtype == np.float32
    assert np.linalg.norm(rows, axis=1) == pytest.approx(np.ones(len(rows)), abs=1e-5)


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_a_vector_does_not_depend_on_its_batch(name: str, maker: Callable[..., Any]) -> None:
    encoder = maker()
    several = some_pieces(encoder)
    together = encoder.encode(several)
    alone = np.concatenate([encoder.encode([piece]) for piece in several])
    assert np.abs(together - alone).max() < 1e-6


@pytest.mark.parametrize(("name", "maker"), MAKERS)
def test_pieces_cost_something(name: str, maker: Callable[..., Any]) -> None:
    encoder = maker()
    assert all(0 < piece.cost <= encoder.batch_cost for piece in some_pieces(encoder))


def test_a_text_has_the_same_vector_in_every_process() -> None:
    code = (
        "from worker.encode.builtin import BUILTIN; from worker.encode.media.forms import Text; import hashlib;"
        "e = BUILTIN['builtin-text'](); print(hashlib.sha256(e.encode(e.pieces([Text('a disc moves')]))).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PATH": ""},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_no_encoder_has_the_name_of_another() -> None:
    encoders = [maker() for maker in BUILTIN.values()]
    assert len({encoder.name for encoder in encoders}) == len(encoders)
    assert all(encoder.name.startswith(name) for name, encoder in zip(BUILTIN, encoders, strict=True))


def nearest(rows: NDArray[np.float32]) -> int:
    """Which of the other rows is nearest to the first."""
    return int((rows[1:] @ rows[0]).argmax()) + 1


def test_texts_about_the_same_are_near() -> None:
    texts = [
        b"The wreck of a pirate ship and its golden treasure",
        b"Astronauts repair the engine of their spacecraft",
        b"Pirates bury treasures of gold",
        b"The love of a queen and its price",
    ]
    assert nearest(vectors("builtin-text", *texts)) == 2


@given(st.text(min_size=1, max_size=300))
def test_any_text_with_something_in_it_has_a_vector(text: Any) -> None:
    if not text.strip():
        return
    (row,) = TextNgrams().encode(TextNgrams().pieces([Text(text)]))
    assert np.isfinite(row).all()
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)


def test_case_width_and_punctuation_do_not_matter() -> None:
    rows = vectors("builtin-text", "Ｔｈｅ DISC, moves!".encode(), b"the disc moves")
    assert np.array_equal(rows[0], rows[1])
    assert words_of("!?") == "!?"


def test_a_long_text_is_cut_and_says_so() -> None:
    long, short = (TextNgrams().pieces([Text("word " * num)])[0] for num in (MAX_CHARS, 10))
    assert long.is_cut
    assert not short.is_cut
    assert long.cost == MAX_CHARS


def test_pictures_of_like_colours_are_near() -> None:
    red, blue = (200, 60, 30), (10, 200, 60)
    hues = [(red, 0.5), (blue, 0.5), (red, 0.6)]
    files = [media_files.picture(pixels=media_files.scene(hue=hue, at=at)) for hue, at in hues]
    assert nearest(vectors("builtin-image", *files)) == 2


def test_a_frame_is_seen_as_the_picture_it_is() -> None:
    film = media_files.film(frames=[media_files.scene()] * 8)
    rows = vectors("builtin-image", media_files.picture("PNG"), film)
    assert rows[0] @ rows[1] > 0.9


def noise(seconds: float, seed: int) -> NDArray[np.float32]:
    dice = np.random.default_rng(seed)
    return (dice.standard_normal((1, round(seconds * media_files.RATE))) * 0.1).astype(np.float32)


def test_sounds_of_like_timbre_are_near_at_any_loudness() -> None:
    samples = [media_files.tone(2, hertz=330) * 0.1, noise(2, 1), media_files.tone(2, hertz=332), noise(2, 2)]
    assert nearest(vectors("builtin-audio", *[media_files.wav(each) for each in samples])) == 2
    assert nearest(vectors("builtin-audio", *[media_files.wav(each) for each in samples[1:]])) == 2


def test_silence_has_a_vector() -> None:
    rows = vectors("builtin-audio", media_files.wav(np.zeros((1, 16_000), np.float32)))
    assert np.isfinite(rows).all()


def test_a_film_has_a_vector_per_moment_and_silent_ones_do_without_sound() -> None:
    film, silent = media_files.film(), media_files.film(sound_codec=None)
    assert len(vectors("builtin-video", film, num_vectors=SEVERAL)) == SEVERAL
    loud, quiet = vectors("builtin-video", film, silent)
    seen = BUILTIN["builtin-image"]().dim
    assert np.abs(loud[seen:]).max() > 0
    assert np.abs(quiet[seen:]).max() == 0


def test_a_film_without_pictures_is_heard() -> None:
    (row,) = vectors("builtin-video", media_files.wav())
    assert np.linalg.norm(row) == pytest.approx(1, abs=1e-5)
