"""Codes are a function of the published vector and of nothing else, and near vectors have codes alike."""

from collections.abc import Sequence
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from schemas import ItemVector, as_json, decode_vector
from worker.align.result import pack_rows, unpack_rows
from worker.codes import Codebooks, disambiguator, read_codebooks, write_codebooks
from worker.codes.books import GRID, on_grid, prefixes
from worker.codes.learn import kept, learned, matched, worth
from worker.errors import SpaceError
from worker.records import Change, Item, RecomputeTrigger
from worker.roles.coded import CodedItems, CodeUse
from worker.roles.items import ItemFormat
from worker.settings import Settings
from worker.stages.fuse import NO_VECTOR, Result, Vector
from worker.state.items import Attribute, ItemState
from worker.topics import topics_of

DIM, SIZE = 24, 32
SPACE = "0" * 16


def vectors(count: int, seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    topics = np.random.default_rng(99).standard_normal((20, DIM))
    rows = topics[random.integers(0, 20, count)] + 0.6 * random.standard_normal((count, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def books() -> Codebooks:
    return learned(SPACE, vectors(3_000, 1), 3, SIZE)


# ------------------------------------------------------------------ the same, always


@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_codes_do_not_depend_on_the_batch(books: Codebooks, size: int) -> None:
    rows_BD = vectors(500, 2)
    whole = books.codes(rows_BD).codes_BL
    pieces = [books.codes(rows_BD[start : start + size]).codes_BL for start in range(0, 500, size)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_codes_are_those_of_exact_arithmetic(books: Codebooks) -> None:
    rows_BD = vectors(5_000, 3)
    np.testing.assert_array_equal(
        books.codes(rows_BD).codes_BL, books.exactly(torch.from_numpy(rows_BD).half().float().numpy())
    )


def test_what_float32_cannot_decide_is_decided_all_the_same_in_every_batch() -> None:
    """Vectors half way between two centroids, or an ulp of half precision to one side: every product is a near tie."""
    random = np.random.default_rng(5)
    pairs_SD = on_grid(random.standard_normal((SIZE, DIM)) / np.sqrt(DIM))
    books = Codebooks(SPACE, np.stack([pairs_SD, on_grid(pairs_SD[::-1] / 4)]))
    ends_BD = (pairs_SD[random.integers(0, SIZE, 2_000)] + pairs_SD[random.integers(0, SIZE, 2_000)]) / 2
    rows_BD = ends_BD.astype("<f2").astype(np.float32)
    exact = books.exactly(rows_BD)
    np.testing.assert_array_equal(books.codes(rows_BD).codes_BL, exact)
    one_by_one = np.concatenate([books.codes(rows_BD[row : row + 1]).codes_BL for row in range(0, 2_000, 20)])
    np.testing.assert_array_equal(one_by_one, exact[::20])


def test_products_are_exact_in_whatever_order_they_are_added_up(books: Codebooks) -> None:
    rows_BD = torch.from_numpy(vectors(200, 6)).half().double().numpy()
    order = np.random.default_rng(0).permutation(DIM)
    book_SD = books.books_LSD[0].astype(np.float64)
    assert np.array_equal(book_SD * GRID, np.rint(book_SD * GRID))
    left, right = rows_BD @ book_SD.T, rows_BD[:, order] @ book_SD[:, order].T
    assert np.array_equal(left, right)


def test_both_dtypes_of_publishing_have_the_same_codes(books: Codebooks) -> None:
    rows_BD = vectors(5_000, 4)
    halves, singles = (unpack_rows(pack_rows(rows_BD, dtype), DIM, dtype) for dtype in ("f2", "f4"))
    assert not np.array_equal(halves, singles)
    np.testing.assert_array_equal(books.codes(halves).codes_BL, books.codes(singles).codes_BL)


def test_a_disambiguator_is_the_crc_of_the_id() -> None:
    assert disambiguator("sku-1") == crc32(b"sku-1")
    assert len({disambiguator(f"item-{number}") for number in range(20_000)}) == 20_000


# ------------------------------------------------------------------ learned


def test_equal_vectors_and_seeds_give_equal_books(books: Codebooks) -> None:
    assert learned(SPACE, vectors(3_000, 1), 3, SIZE).code_space_id == books.code_space_id
    assert learned("1" * 16, vectors(3_000, 1), 3, SIZE).code_space_id != books.code_space_id


def test_every_level_describes_more(books: Codebooks) -> None:
    rows_BD = vectors(1_000, 7)
    coded = books.codes(rows_BD)
    left = [float(((rows_BD - books.decoded(coded.codes_BL[:, :levels])) ** 2).sum(1).mean()) for levels in (1, 2, 3)]
    assert 1 > left[0] > left[1] > left[2]
    assert left[2] == pytest.approx(float(coded.residual_B.mean()), abs=1e-3)


def test_near_items_share_prefixes(books: Codebooks) -> None:
    found = worth(books, vectors(3_000, 1))
    assert found.neighbors_L[0] > 8 * found.chance_L[0]
    assert found.neighbors_L[0] > found.neighbors_L[1] > found.neighbors_L[2]
    assert found.num_prefixes_L[0] == SIZE
    assert found.perplexity_L[0] > SIZE / 2
    assert 0 < found.shared < 1
    assert found.residual == pytest.approx(books.residual, abs=1e-3)


def test_codes_of_which_there_are_more_than_items_are_learned_all_the_same() -> None:
    rows_BD = vectors(10, 1)
    found = learned(SPACE, rows_BD, 2, SIZE)
    assert found.codes(rows_BD).residual_B.max() < 1e-3  # every item has a centroid of its own


def test_a_refresh_keeps_most_numbers_and_another_seed_alone_keeps_none(books: Codebooks) -> None:
    rows_BD = np.concatenate([vectors(3_000, 1), vectors(600, 8)])
    older = books.codes(rows_BD).codes_BL
    anew, like = (learned(SPACE, rows_BD, 3, SIZE, seed=5, like=each) for each in (None, older))
    assert kept(anew.codes(rows_BD).codes_BL, older)[0] < 0.2
    assert kept(like.codes(rows_BD).codes_BL, older)[0] > 0.8


def test_a_space_that_is_turned_round_keeps_the_numbers_of_its_items(books: Codebooks) -> None:
    rows_BD = vectors(3_000, 1)
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((DIM, DIM)))[0].astype(np.float32)
    older = books.codes(rows_BD).codes_BL
    like = learned("1" * 16, rows_BD @ turn, 3, SIZE, seed=5, like=older)
    assert kept(like.codes(rows_BD @ turn).codes_BL, older)[0] > 0.9


def test_renumbered_books_describe_vectors_as_before(books: Codebooks) -> None:
    rows_BD = vectors(500, 2)
    codes = books.codes(rows_BD).codes_BL
    found = matched(books, codes, (codes + 7) % SIZE)
    np.testing.assert_array_equal(found.codes(rows_BD).codes_BL, (codes + 7) % SIZE)


# ------------------------------------------------------------------ files


def test_books_are_read_as_they_were_written(tmp_path: Path, books: Codebooks) -> None:
    assert read_codebooks(tmp_path, SPACE) is None
    write_codebooks(tmp_path, books)
    found = read_codebooks(tmp_path, SPACE)
    assert found is not None
    assert found.code_space_id == books.code_space_id
    np.testing.assert_array_equal(found.books_LSD, books.books_LSD)


def test_books_of_another_space_are_refused(tmp_path: Path, books: Codebooks) -> None:
    write_codebooks(tmp_path, books)
    with pytest.raises(SpaceError, match="has codes of space 0000000000000000, and this is 1111111111111111"):
        read_codebooks(tmp_path, "1" * 16)


def test_books_that_were_changed_or_cut_are_refused(tmp_path: Path, books: Codebooks) -> None:
    write_codebooks(tmp_path, books)
    path = tmp_path / "codes.safetensors"
    whole = path.read_bytes()
    for data in (whole[:-4] + b"\0\0\x80\x3f", whole[:-100], b"nonsense"):
        path.write_bytes(data)
        with pytest.raises(SpaceError, match=r"codes\.safetensors cannot be read.*space codes"):
            read_codebooks(tmp_path, SPACE)


# ------------------------------------------------------------------ in the worker


class Model:
    def __init__(self, results: list[Result]) -> None:
        self.results = results

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        return list(self.results)

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None: ...


def entry(item_id: str, attributes: dict[str, Attribute] | None = None) -> Item:
    record = RecomputeTrigger("items", 0, 0, item_id.encode(), 5)
    return Item(record, item_id, 1, 0, {}, state=ItemState(0, 1, 1, 0, {}, None, attributes or {}))


def test_vectors_get_their_codes_and_what_has_none_is_left_alone(books: Codebooks) -> None:
    rows_BD = vectors(3, 2)
    made = [Vector(row, ("text",), prior=0.5) for row in pack_rows(rows_BD, "f2")]
    use = CodeUse(books)
    results = CodedItems(Model([made[0], None, NO_VECTOR, made[1], made[2]]), use, "f2").vectors([entry("a")] * 5)
    assert results[1:3] == [None, NO_VECTOR]
    codes = books.codes(rows_BD).codes_BL.tolist()
    assert [results[place] for place in (0, 3, 4)] == [
        vector._replace(codes=each) for vector, each in zip(made, codes, strict=True)
    ]
    assert all(1 <= each <= 3 for each in use.perplexities())
    assert use.residual_ratio > 0


@pytest.mark.parametrize("form", [None, "json", "connect_json"])
def test_codes_are_published_and_read_back_in_every_form(form: str | None) -> None:
    written = None if form is None else lambda value: as_json(value, form)  # type: ignore[arg-type]
    output = ItemFormat(topics_of("items", Settings()), "space", "f2", 2, False, written, code_space_id="c0de")
    vector = Vector(np.array([0.6, 0.8], "<f2").tobytes(), ("text",), codes=[3, 17, 255])
    found = output.output(entry("sku-1"), vector, 0, None)  # type: ignore[arg-type]
    assert found is not None
    assert found.value is not None
    read = decode_vector(ItemVector, found.value)
    assert (read.codes, read.code_space_id) == ((3, 17, 255), "c0de")
    assert read.disambiguator == crc32(b"sku-1")
    assert prefixes(read.codes or ()) == ["3", "3-17", "3-17-255"]


def test_what_is_remembered_of_other_codebooks_is_not_published_again() -> None:
    topics = topics_of("items", Settings())
    stamps = {ItemFormat(topics, "space", "f2", 2, code_space_id=each).stamp for each in (None, "c0de", "c1de")}
    assert len(stamps) == 3


def test_without_codes_a_remembered_vector_has_the_form_that_it_had() -> None:
    output = ItemFormat(topics_of("items", Settings()), "space", "f2", 2)
    attributed = entry("sku-1", {"price": Attribute(1, 9.5)})
    state = attributed.state._replace(parts={"text": None})  # type: ignore[union-attr]
    remembered = output._remembering(state, Vector(b"\0\0\0\0", ("text",)))
    assert remembered.made is not None
    assert len(remembered.made.fields) == 6
