"""Films cut into parts: what is encoded of which film, in which order, and that it is encoded once."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.bench.film_parts import ITEMS, POSTERS, Cutter, main, patches, reduced, sentences
from tests.media_files import picture, scene
from worker.data import Features
from worker.data.files import read_items
from worker.encode.media.forms import Images, Text
from worker.encode.registry import load_encoder

OVERVIEWS = {
    "10": "Mr. Fox meets Dr. Owl. They talk! Who listens?",
    "9": "",
    "2": "One. Two. Three. Four. Five. Six. Seven. Eight.",
}
WITH_POSTERS = ("10", "2")


@pytest.fixture
def films(tmp_path: Path) -> Path:
    with (tmp_path / ITEMS).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["movieId", "title", "genres", "overview"])
        writer.writerows([number, f"Film {number}", "Drama|War", text] for number, text in OVERVIEWS.items())
    with zipfile.ZipFile(tmp_path / POSTERS, "w") as posters:
        for number in WITH_POSTERS:
            posters.writestr(f"{number}.jpg", picture(pixels=scene(96, 64, at=int(number) / 12)))
    return tmp_path


def texts_of(film: str) -> list[str]:
    return [f"Film {film}. Drama, War.", *sentences(OVERVIEWS[film], 6)]


def encoded(texts: Sequence[str]) -> np.ndarray:
    encoder = load_encoder("builtin-text")
    return encoder.encode(encoder.pieces([Text(text) for text in texts]))


def rows_of(features: Features, number: int) -> np.ndarray:
    return features.vectors_NK[features.starts[number] : features.starts[number + 1]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Only one", ["Only one"]),
        ("Mr. Fox meets Dr. Owl. They talk! Who listens?", ["Mr. Fox meets Dr. Owl.", "They talk!", "Who listens?"]),
        ("John F. Kennedy vs. Nixon. It was close.", ["John F. Kennedy vs. Nixon.", "It was close."]),
        ("One. Two. Three. Four. Five.", ["One.", "Two.", "Three. Four. Five."]),
    ],
)
def test_texts_end_where_sentences_do_and_nothing_is_lost(text: str, expected: list[str]) -> None:
    assert sentences(text, 3) == expected
    assert " ".join(sentences(text, 3)) == text


def test_patches_cover_a_picture_row_by_row() -> None:
    pixels_1HW3 = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(1, 4, 6, 3)
    found = [patch.pixels_NHW3[0] for patch in patches(Images(pixels_1HW3, (0.0,)), 2)]
    assert [patch.shape for patch in found] == [(2, 3, 3)] * 4
    whole = np.concatenate([np.concatenate(found[:2], 1), np.concatenate(found[2:], 1)])
    np.testing.assert_array_equal(whole, pixels_1HW3[0])


def test_a_film_is_its_title_and_sentences_and_its_poster_and_patches(films: Path) -> None:
    cutter = Cutter(films, films / "cache")
    assert cutter.film_ids() == ["10", "2", "9"]
    features = cutter.features(cutter.film_ids())
    assert features["text"].counts_I.tolist() == [4, 7, 1]
    assert features["image"].counts_I.tolist() == [5, 5, 0]
    for number, film in enumerate(cutter.film_ids()):
        np.testing.assert_allclose(rows_of(features["text"], number), encoded(texts_of(film)), atol=1e-3)


def test_the_whole_poster_comes_first_and_then_its_quarters(films: Path) -> None:
    colours = [(220, 30, 30), (30, 220, 30), (30, 30, 220), (220, 220, 30)]
    plain = [np.full((64, 64, 3), colour, np.uint8) for colour in colours]
    poster = np.concatenate([np.concatenate(plain[:2], 1), np.concatenate(plain[2:], 1)])
    with zipfile.ZipFile(films / POSTERS, "w") as posters:
        posters.writestr("10.jpg", picture("PNG", poster))
    encoder = load_encoder("builtin-image")
    vectors_4K = encoder.encode(encoder.pieces([Images(pixels[None], (0.0,)) for pixels in plain]))
    features = Cutter(films, films / "cache").features(["10"])["image"]
    whole, *quarters = rows_of(features, 0)
    np.testing.assert_allclose(quarters, vectors_4K, atol=0.02)
    assert np.abs(vectors_4K - whole).max(1).min() > 0.1
    assert features.encoder == encoder.name


def test_what_was_encoded_is_read_again_for_the_same_films_only(films: Path) -> None:
    cutter = Cutter(films, films / "cache")
    first = cutter.features(["10", "2"])
    (films / POSTERS).unlink()
    again = cutter.features(["10", "2"])
    for name in first:
        np.testing.assert_array_equal(first[name].vectors_NK, again[name].vectors_NK)
        np.testing.assert_array_equal(first[name].starts, again[name].starts)
    with pytest.raises(FileNotFoundError):
        cutter.features(["2", "10"])


def test_components_keep_what_varies_most() -> None:
    random = np.random.default_rng(0)
    vectors_NK = (random.standard_normal((50, 6)) * [9, 0.1, 5, 0.1, 0.1, 0.1]).astype(np.float32)
    found = reduced(Features("e", vectors_NK, np.arange(51)), 2)
    assert (found.encoder, found.dim) == ("e-pca2", 2)
    centred = vectors_NK - vectors_NK.mean(0)
    assert (found.vectors_NK.var(0).sum() / centred.var(0).sum()) > 0.99


def test_the_file_holds_the_films_as_items(films: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = films / "items.msgpack"
    assert main([str(out), "--cache", str(films / "cache"), "--data", str(films), "--text", "builtin-text"]) == 0
    items = {item.item_id: item for item in read_items(out)}
    assert {name: sorted(item.features) for name, item in items.items()} == {
        "10": ["image", "text"], "2": ["image", "text"], "9": ["text"],
    }  # fmt: skip
    np.testing.assert_allclose(items["2"].features["text"].to_numpy(), encoded(texts_of("2")), atol=1e-3)
    assert "image: 10 vectors of 672 of 2 films" in capsys.readouterr().out


def test_without_films_it_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "out"), "--cache", str(tmp_path), "--data", str(tmp_path)]) == 2
    assert "no items.csv and no posters" in capsys.readouterr().err
