"""Vectors to bytes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.unit.align.builders import feature
from worker.align.collated import Collated, Layout, ModalityLayout
from worker.align.result import UNIT_TOLERANCE, Embeddings, VectorType, concatenated, from_outputs, pack_rows


def unit_vectors(count: int, dim: int) -> np.ndarray:
    vectors = np.random.default_rng(0).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["f2", "f4"])
def test_rows_are_the_vectors_little_endian(dtype: VectorType) -> None:
    vectors = unit_vectors(5, 7)
    rows = pack_rows(vectors, dtype)
    assert rows == [row.astype("<" + dtype).tobytes() for row in vectors]


def test_rows_of_a_slice_hold_the_slice() -> None:
    vectors = unit_vectors(8, 4)
    assert pack_rows(vectors[:3], "f4") == pack_rows(vectors, "f4")[:3]


def test_no_rows() -> None:
    assert pack_rows(np.zeros((0, 4), np.float32), "f2") == []


@pytest.mark.parametrize("dtype", ["f2", "f4"])
@pytest.mark.parametrize("dim", [1, 2, 3, 64, 1024])
def test_published_rows_have_unit_length(dtype: VectorType, dim: int) -> None:
    rows = pack_rows(unit_vectors(500, dim), dtype)
    published = np.frombuffer(b"".join(rows), "<" + dtype).reshape(500, dim).astype(np.float64)
    assert np.abs(np.linalg.norm(published, axis=1) - 1).max() <= UNIT_TOLERANCE[dtype]


def piece(count: int, names: tuple[str, ...], bad: dict[int, str]) -> Embeddings:
    alone = {name: unit_vectors(count, 4) for name in names}
    return Embeddings(unit_vectors(count, 4), [names] * count, bad, np.arange(count, dtype=np.float32), alone)


def test_pieces_are_joined_in_order() -> None:
    one, other = piece(3, ("text",), {2: "a"}), piece(2, ("image",), {0: "b"})
    joined = concatenated([one, other])
    assert np.array_equal(joined.vectors, np.concatenate([one.vectors, other.vectors]))
    assert joined.modalities == [("text",)] * 3 + [("image",)] * 2
    assert joined.bad_rows == {2: "a", 3: "b"}
    assert joined.priors.tolist() == [0, 1, 2, 0, 1]
    assert joined.modality_vectors is not None
    assert not joined.modality_vectors["image"][:3].any()
    assert [list(row) for row in joined.modality_rows("f2")] == [["text"]] * 3 + [["image"]] * 2


def test_modality_rows_need_modality_vectors() -> None:
    with pytest.raises(ValueError, match="without modality_vectors"):
        Embeddings(unit_vectors(1, 4), [("text",)], {}, np.zeros(1, np.float32)).modality_rows("f2")


def test_rows_without_a_finite_length_are_bad_and_hold_nothing() -> None:
    lengths = np.array([1, np.inf, np.nan, 0, 2], np.float32)
    item = {"text": feature(np.ones(3))}
    batch = Collated(Layout((ModalityLayout("text", ("f4",), 1),), True), (), 5, [("text",)] * 5)
    priors = np.array([1, 2, 3, 4, np.inf], np.float32)
    embedded = from_outputs(batch, [unit_vectors(5, 4), lengths, priors], [item] * 5)
    assert list(embedded.bad_rows) == [1, 2, 3, 4]
    assert embedded.priors.tolist() == [1, 0, 0, 0, 0]
    assert embedded.vectors.any(1).tolist() == [True, False, False, False, False]


def test_a_row_is_bad_if_a_modality_alone_has_no_vector_and_the_item_has_it() -> None:
    parts = (ModalityLayout("image", ("f4",), 1), ModalityLayout("text", ("f4",), 1))
    batch = Collated(Layout(parts, False), (), 2, [("image", "text"), ("text",)])
    nothing, something = np.full(2, np.nan, np.float32), np.ones(2, np.float32)
    outputs = [unit_vectors(2, 4), something, something, unit_vectors(2, 4), nothing, unit_vectors(2, 4), something]
    embedded = from_outputs(batch, outputs, [{"text": feature(np.ones(3))}] * 2)
    assert list(embedded.bad_rows) == [0]
    assert embedded.modality_vectors is not None
    assert embedded.modality_vectors["text"].any(1).tolist() == [False, True]
    assert not embedded.modality_vectors["image"].any()
