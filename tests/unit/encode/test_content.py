"""From the contents of items to their features, and what becomes of those that have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from schemas import Content, Feature, Reason
from tests import media_files
from worker.align import OutOfMemoryError
from worker.encode.builtin import BUILTIN
from worker.encode.builtin.text import TextNgrams
from worker.encode.content import ContentEncoder, Report, Route, isolate
from worker.encode.decoder_pool import DecoderPool
from worker.encode.encoder import Piece
from worker.encode.media.errors import ContentError
from worker.errors import SystemicError

ROUTES = (
    Route("text", "text", BUILTIN["builtin-text"]()),
    Route("image", "image", BUILTIN["builtin-image"]()),
    Route("frames", "video", BUILTIN["builtin-image"](), max_vectors=4, samples=8),
    Route("sound", "video", BUILTIN["builtin-audio"](), max_vectors=1, samples=3),
    Route("subtitles", "video", BUILTIN["builtin-text"]()),
)
Contents = Mapping[str, Content]


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    made = DecoderPool(2)
    yield made
    made.close()


def data(raw: bytes) -> Content:
    return Content(data=raw)


def run(encoder: ContentEncoder, *contents: Contents) -> tuple[list[Any], Report]:
    return encoder.encode(contents, [encoder.modalities(each, ()) for each in contents])


def rows(feature: Feature) -> NDArray[np.float32]:
    return feature.to_numpy().astype(np.float32).reshape(feature.num_vectors, feature.dims)


def reason(result: object) -> Reason:
    assert isinstance(result, ContentError), result
    return result.reason


def test_every_content_becomes_the_features_of_its_routes(pool: DecoderPool) -> None:
    contents = {
        "text": Content(text="a disc moves"),
        "image": data(media_files.picture()),
        "video": data(media_files.film(title="The disc")),
    }
    ((features, digests),), report = run(ContentEncoder(ROUTES, pool), contents)
    assert digests.keys() == features.keys()
    assert len(set(digests.values())) == len(contents)
    assert features.keys() == {"text", "image", "frames", "sound", "subtitles"}
    assert features["frames"].shape == (4, BUILTIN["builtin-image"]().dim)
    assert features["sound"].shape == (BUILTIN["builtin-audio"]().dim,)
    assert features["text"].encoder == TextNgrams.name
    for feature in features.values():
        assert np.linalg.norm(rows(feature), axis=1) == pytest.approx(np.ones(feature.num_vectors), abs=2e-3)
    assert {name: figures.encoded for name, figures in report.by_modality.items()} == dict.fromkeys(features, 1)
    assert report.by_modality["frames"].vectors == 4


def test_an_item_has_the_same_features_in_any_company(pool: DecoderPool) -> None:
    items: list[Contents] = [
        {"text": Content(text="a disc")},
        {"image": data(media_files.picture())},
        {"image": data(b"broken"), "text": Content(text="something")},
        {"video": data(media_files.film())},
        {"text": Content(text="a disc moves over the sea " * 20), "image": data(media_files.picture("PNG"))},
    ]
    together, _ = run(ContentEncoder(ROUTES, pool), *items)
    for item, result in zip(items, together, strict=True):
        ((alone,), _) = run(ContentEncoder(ROUTES, pool), item)
        if isinstance(alone, ContentError):
            assert reason(result) is alone.reason
        else:
            assert result.digests == alone.digests
            for name in alone.features:
                assert np.abs(rows(result.features[name]) - rows(alone.features[name])).max() < 1e-3


def test_one_bad_content_refuses_its_item_and_no_other(pool: DecoderPool) -> None:
    good = {"text": Content(text="a disc")}
    results, report = run(ContentEncoder(ROUTES, pool), good, {**good, "image": data(b"no picture")}, good)
    assert reason(results[1]) is Reason.UNDECODABLE
    assert results[1].detail.startswith("content.image: ")
    assert results[0].features.keys() == results[2].features.keys() == {"text"}
    assert report.by_modality["image"].failed == {Reason.UNDECODABLE: 1}


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"text": Content(text=" \n")}, Reason.UNDECODABLE),
        ({"image": Content(text="a picture of a disc")}, Reason.UNDECODABLE),
        ({"image": data(b"")}, Reason.UNDECODABLE),
        ({"video": data(media_files.picture()[:300])}, Reason.UNDECODABLE),
        ({"image": Content(uri="https://example.com/disc.jpg")}, Reason.URI_REFUSED),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(
    pool: DecoderPool, contents: Contents, expected: Reason
) -> None:
    (result,), _ = run(ContentEncoder(ROUTES, pool), contents)
    assert reason(result) is expected


def test_a_silent_film_has_frames_alone(pool: DecoderPool) -> None:
    encoder = ContentEncoder(ROUTES, pool)
    for _ in range(2):  # encoded, then reused
        (result,), _ = run(encoder, {"video": data(media_files.film(sound_codec=None))})
        assert result.features.keys() == {"frames"}


def test_features_that_are_there_are_not_made_again(pool: DecoderPool) -> None:
    encoder = ContentEncoder(ROUTES, pool)
    assert encoder.modalities({"text", "video", "smell"}, {"sound"}) == ("text", "frames", "subtitles")


def test_text_may_come_as_bytes(pool: DecoderPool) -> None:
    results, _ = run(ContentEncoder(ROUTES, pool), {"text": Content(text="é")}, {"text": data("é".encode())})
    assert results[0].features["text"].data == results[1].features["text"].data


def test_with_one_vector_samples_are_averaged(pool: DecoderPool) -> None:
    film = media_files.film()
    several = ContentEncoder([Route("frames", "video", BUILTIN["builtin-image"](), 4, samples=4)], pool)
    one = ContentEncoder([Route("frames", "video", BUILTIN["builtin-image"](), 1, samples=4)], pool)
    ((many,), _), ((mean,), _) = (run(encoder, {"video": data(film)}) for encoder in (several, one))
    expected = rows(many.features["frames"]).mean(axis=0)
    assert mean.features["frames"].shape == (BUILTIN["builtin-image"]().dim,)
    assert rows(mean.features["frames"])[0] == pytest.approx(expected / np.linalg.norm(expected), abs=2e-3)


def test_content_seen_before_is_not_encoded_again(pool: DecoderPool) -> None:
    encoder = ContentEncoder(ROUTES, pool)
    contents = {"text": Content(text="a disc"), "image": data(media_files.picture())}
    (first,), _ = run(encoder, contents)
    (second,), report = run(encoder, contents)
    assert second == first
    assert {name: (each.reused, each.encoded) for name, each in report.by_modality.items() if each.reused} == {
        "text": (1, 0),
        "image": (1, 0),
    }
    ((changed,), report) = run(encoder, {**contents, "text": Content(text="two discs")})
    assert changed.features["text"] != first.features["text"]
    assert changed.features["image"] == first.features["image"]
    assert report.by_modality["text"].encoded == 1


def test_content_that_is_known_of_the_item_is_not_encoded_again(pool: DecoderPool) -> None:
    contents = {"text": Content(text="a disc"), "video": data(media_files.film(sound_codec=None))}
    ((features, digests),), _ = run(ContentEncoder(ROUTES, pool), contents)
    known = {name: (digests[name], feature) for name, feature in features.items()}
    wanted = [("text", "frames", "sound", "subtitles")]
    ((again, _),), report = ContentEncoder(ROUTES, pool).encode([contents], wanted, [known])
    assert again == features  # and no sound, as before
    assert {name: (each.reused, each.encoded) for name, each in report.by_modality.items()} == {
        "text": (1, 0), "frames": (1, 0), "sound": (1, 0), "subtitles": (1, 0),
    }  # fmt: skip
    assert report.by_content["video"].decoded == 0


def test_what_another_encoder_has_made_of_a_content_is_not_taken_for_it(pool: DecoderPool) -> None:
    contents = {"video": data(media_files.film())}
    ((features, digests),), _ = run(ContentEncoder(ROUTES, pool), contents)
    known = {name: (digests[name], feature) for name, feature in features.items()}
    fewer = [Route("frames", "video", BUILTIN["builtin-image"](), max_vectors=2, samples=8), *ROUTES[3:]]
    ((made, _),), report = ContentEncoder(fewer, pool).encode([contents], [("frames", "sound")], [known])
    assert made["frames"].shape[0] == 2
    assert report.by_modality["sound"].encoded == 1  # made together, and so made again together


def test_one_content_of_several_items_is_encoded_once(pool: DecoderPool) -> None:
    picture = {"image": data(media_files.picture())}
    results, report = run(
        ContentEncoder(ROUTES, pool), picture, picture, {"image": data(b"no")}, {"image": data(b"no")}
    )
    assert results[0] == results[1]
    assert [reason(result) for result in results[2:]] == [Reason.UNDECODABLE] * 2
    figures, reading = report.by_modality["image"], report.by_content["image"]
    assert (figures.encoded, figures.reused, figures.failed.total(), reading.decoded) == (1, 1, 2, 2)


def test_who_has_no_use_for_the_rest_can_stop_it(pool: DecoderPool) -> None:
    """After each file and each batch, so that a batch full of slow ones ends with its partition."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1
        if beats == 2:
            raise InterruptedError

    files = [{"image": data(media_files.picture("PNG", media_files.scene(at=at)))} for at in (0.1, 0.5, 0.9)]
    encoder = ContentEncoder(ROUTES, pool)
    with pytest.raises(InterruptedError):
        encoder.encode(files, [("image",)] * 3, beat=beat)
    assert beats == 2
    results, _ = run(encoder, *files)
    assert not any(isinstance(result, ContentError) for result in results)


def test_text_and_bytes_of_the_same_letters_are_two_contents(pool: DecoderPool) -> None:
    encoder = ContentEncoder([Route("image", "image", BUILTIN["builtin-image"]())], pool)
    picture = media_files.picture("PNG")
    run(encoder, {"image": data(picture)})
    (result,), _ = run(encoder, {"image": Content(text=picture.decode("latin-1"))})
    assert reason(result) is Reason.UNDECODABLE


def test_the_cache_keeps_within_its_bound(pool: DecoderPool) -> None:
    encoder = ContentEncoder(ROUTES, pool, cache_bytes=8_000)  # three features of text
    for number in [*range(10), 9, 0]:
        run(encoder, {"text": Content(text=f"disc {number}")})
    _, report = run(encoder, {"text": Content(text="disc 9")})
    assert report.by_modality["text"].reused == 1
    _, report = run(encoder, {"text": Content(text="disc 5")})
    assert report.by_modality["text"].reused == 0


# ---------------------------------------------------------------------- encoders that fail


class Touchy(TextNgrams):
    """Fails on some texts."""

    def __init__(self, poison: str = "poison", error: type[Exception] = ValueError) -> None:
        self.poison, self.error, self.calls = poison, error, 0

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        self.calls += 1
        if any(self.poison in piece.payload for piece in pieces):
            raise self.error("no")
        vectors = super().encode(pieces)
        vectors[[piece.payload == "void" for piece in pieces]] = np.nan
        return vectors


def test_a_piece_that_breaks_the_encoder_takes_only_itself(pool: DecoderPool) -> None:
    encoder = ContentEncoder([Route("text", "text", Touchy())], pool)
    texts = ["a", "poison", "b", "void", "c"]
    results, _ = run(encoder, *[{"text": Content(text=text)} for text in texts])
    assert [isinstance(result, ContentError) for result in results] == [text in ("poison", "void") for text in texts]
    assert {result.reason for result in results if isinstance(result, ContentError)} == {Reason.MODEL_FAILURE}


class Spoiling(Touchy):
    """A piece that has no finite vector takes those beside it along."""

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        vectors = super().encode(pieces)
        for row in np.flatnonzero(np.isnan(vectors).any(1)):
            vectors[max(0, row - 1) : row + 2] = np.nan
        return vectors


def test_a_piece_that_its_neighbour_in_the_batch_has_spoilt_is_encoded_again_alone() -> None:
    texts = ["a", "void", "b", "c", "void", "void"]
    rows = isolate(Spoiling(), [Piece(text, 1) for text in texts])
    alone = isolate(Touchy(), [Piece("b", 1)])[0]
    assert [isinstance(row, ContentError) for row in rows] == [text == "void" for text in texts]
    assert np.array_equal(rows[2], alone)


def test_an_encoder_that_fails_on_everything_ends_the_process() -> None:
    with pytest.raises(SystemicError, match="builtin-text-v1 fails on everything"):
        isolate(Touchy(poison=""), [Piece("x", 1)])


def test_memory_that_runs_out_halves_the_batch_and_ends_with_one_piece() -> None:
    touchy = Touchy(error=OutOfMemoryError)
    assert len(isolate(touchy, [Piece("a", 1)] * 4)) == 4
    with pytest.raises(SystemicError, match="no memory to encode one piece"):
        isolate(touchy, [Piece("poison", 1), Piece("a", 1)])


def test_warming_up_tells_of_an_encoder_that_does_not_work(pool: DecoderPool) -> None:
    ContentEncoder(ROUTES, pool).warm_up()
    with pytest.raises(SystemicError, match="fails on everything"):
        ContentEncoder([Route("text", "text", Touchy(poison="a"))], pool).warm_up()
