"""Vectors that say nothing are found, and only those."""

from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from schemas import Feature, judge
from schemas.information import MAX_ELEMENT, flaws
from schemas.tensor import ELEMENT_BYTES

DICE = np.random.default_rng(0)
GOOD = DICE.standard_normal(48)


def feature(values: Any, dtype: Any = "f4") -> Feature:
    return Feature.from_numpy(values, dtype=dtype, encoder="e")


@pytest.mark.parametrize("dtype", list(ELEMENT_BYTES))
@pytest.mark.parametrize("values", [np.zeros(48), -np.zeros(48), np.ones(48), np.full(48, -3.25), np.zeros(2)])
def test_zeros_and_constants_say_nothing(dtype: str, values: ndarray) -> None:
    assert judge([{"text": feature(values, dtype)}])[0].features == {}


@pytest.mark.parametrize("dtype", ["f4", "bf2", "i1"])
@pytest.mark.parametrize("scale", [1e-8, 1e-20, 1e-30, 1e-38, 1e-44])
def test_values_too_small_to_differ_say_nothing(dtype: str, scale: float) -> None:
    assert judge([{"text": feature(GOOD * scale, dtype)}])[0].dropped == ["text"]


def test_the_smallest_halves_say_nothing() -> None:
    assert judge([{"text": feature(GOOD * 1e-8, "f2")}])[0].dropped == ["text"]
    assert judge([{"text": feature(np.sign(GOOD) * 65_504, "f2")}]) == {}


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-40])
def test_integers_whose_scale_is_next_to_nothing_say_nothing(scale: float) -> None:
    tensor = Feature(dtype="i1", shape=(3,), data=b"\x01\x02\x7f", scale=scale, encoder="e")
    assert judge([{"text": tensor}])[0].features == {}


@pytest.mark.parametrize("dtype", list(ELEMENT_BYTES))
def test_a_good_vector_is_left_alone_whatever_its_scale(dtype: str) -> None:
    for scale in (1e-3, 1.0, 100.0):
        assert judge([{"text": feature(GOOD * scale, dtype)}]) == {}


@pytest.mark.parametrize("dtype", list(ELEMENT_BYTES))
def test_one_element_that_differs_is_information_wherever_it_is(dtype: str) -> None:
    for place in range(300):
        assert judge([{"text": feature(np.eye(1, 300, place)[0], dtype)}]) == {}


def test_a_single_number_says_something_whatever_it_is() -> None:
    assert judge([{"popularity": feature([0.0])}, {"popularity": feature([[1.0], [1.0]])}]) == {}


@pytest.mark.parametrize("dtype", list(ELEMENT_BYTES))
def test_of_several_vectors_those_that_say_nothing_are_left_out(dtype: str) -> None:
    rows = np.stack([GOOD, np.zeros(48), GOOD * 2, np.ones(48)])
    (judged,) = judge([{"frames": feature(rows, dtype)}]).values()
    kept = judged.features["frames"]
    assert (kept.shape, judged.dropped, judged.too_large) == ((2, 48), ["frames"], None)
    scale = feature(rows, dtype).scale
    expected = feature(rows, dtype).to_numpy()[[0, 2]]
    assert np.array_equal(kept.to_numpy(), expected)
    assert kept.scale == scale


@pytest.mark.parametrize(("dtype", "scale"), [("f4", 3e38), ("f4", 1e20), ("bf2", 3e38), ("f4", MAX_ELEMENT * 1.01)])
def test_values_whose_squares_overflow_are_too_large(dtype: str, scale: float) -> None:
    values = GOOD / np.abs(GOOD).max() * scale
    (judged,) = judge([{"text": feature(GOOD), "image": feature(values, dtype)}]).values()
    assert judged.too_large == "image"
    assert judged.problem().startswith("features.image.data: holds values beyond 7e+16")
    assert np.isfinite(np.linalg.norm(np.full(16_384, MAX_ELEMENT, np.float32)))


def test_integers_of_a_huge_scale_are_too_large() -> None:
    tensor = Feature(dtype="i1", shape=(3,), data=b"\x01\x02\x7f", scale=1e36, encoder="e")
    assert judge([{"text": tensor}])[0].too_large == "text"


def test_each_is_judged_by_itself_in_whatever_company() -> None:
    kinds = {"good": GOOD, "zero": np.zeros(48), "huge": GOOD * 1e30, "rows": np.stack([GOOD, np.zeros(48)])}
    names = DICE.choice(list(kinds), 200).tolist()
    dtypes = DICE.choice(["f4", "bf2"], 200).tolist()
    tensors = [feature(kinds[name], dtype) for name, dtype in zip(names, dtypes, strict=True)]
    found = flaws(tensors)
    assert sorted(found) == [index for index, name in enumerate(names) if name != "good"]
    for index, flaw in found.items():
        (alone,) = flaws([tensors[index]]).values()
        assert (flaw.kept_N.tolist(), flaw.too_large) == (alone.kept_N.tolist(), alone.too_large)


def test_what_is_left_of_an_item_are_its_other_features() -> None:
    image, text = feature(GOOD), feature(np.zeros(48))
    (judged,) = judge([{"image": image, "text": text}]).values()
    assert judged.features == {"image": image}
    assert judged.problem() == "features: text without information (all zeros, one value, or nearly so)"
    assert judge([]) == judge([{}]) == {}
