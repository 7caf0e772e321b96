from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from schemas import Feature, Tensor, all_finite
from schemas.tensor import ELEMENT_BYTES, MAX_SCALE
from tests.unit.schemas import strategies

FLOATS = ["f2", "f4", "bf2"]
INFINITY_BITS = {"f2": 0x7C00, "f4": 0x7F800000, "bf2": 0x7F80}


def tensor(dtype: str, data: bytes, shape: tuple[int, ...] | None = None) -> Tensor:
    shape = shape or (len(data) // ELEMENT_BYTES[dtype],)
    return Tensor(dtype=dtype, shape=shape, data=data, scale=1.0 if dtype == "i1" else None)


def element(dtype: str, bits: int) -> Tensor:
    return tensor(dtype, bits.to_bytes(ELEMENT_BYTES[dtype], "little"))


@given(dtype=strategies.dtypes, shape=strategies.shapes, extra=st.integers(-4, 4))
def test_bytes_are_exactly_those_of_the_shape(dtype: Any, shape: Any, extra: Any) -> None:
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    data = bytes(max(0, size + extra))
    if len(data) == size:
        assert tensor(dtype, data, shape).data == data
    else:
        with pytest.raises(ValidationError, match=f"should be {size} bytes"):
            tensor(dtype, data, shape)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0), (-1,), (1, 1, 2), (2.0,), (True,), ("2",)])
def test_only_one_or_two_positive_extents(shape: tuple[Any, ...]) -> None:
    with pytest.raises(ValidationError):
        Tensor(dtype="f2", shape=shape, data=b"\0\0\0\0")


@pytest.mark.parametrize("dtype", FLOATS)
def test_scale_belongs_to_i1(dtype: str) -> None:
    with pytest.raises(ValidationError, match="belongs to dtype i1"):
        Tensor(dtype=dtype, shape=(1,), data=bytes(ELEMENT_BYTES[dtype]), scale=1.0)
    with pytest.raises(ValidationError, match="required with dtype i1"):
        Tensor(dtype="i1", shape=(1,), data=b"\0")


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf, 1e37])
def test_a_scale_that_would_make_values_infinite_or_nothing_is_refused(scale: float) -> None:
    with pytest.raises(ValidationError):
        Tensor(dtype="i1", shape=(1,), data=b"\0", scale=scale)
    assert np.isfinite(Tensor(dtype="i1", shape=(1,), data=b"\x80", scale=MAX_SCALE).to_numpy()).all()


def test_elements_are_little_endian_and_row_major() -> None:
    values = tensor("f4", bytes.fromhex("0000803f 00000040 00004040 00008040"), (2, 2)).to_numpy()
    assert values.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    assert tensor("f2", bytes.fromhex("003c 00c0")).to_numpy().tolist() == [1.0, -2.0]
    assert tensor("bf2", bytes.fromhex("803f 00c0")).to_numpy().tolist() == [1.0, -2.0]
    quantised = Tensor(dtype="i1", shape=(3,), data=bytes([1, 0xFF, 0x80]), scale=0.5)
    assert quantised.to_numpy().tolist() == [0.5, -0.5, -64.0]


@pytest.mark.parametrize(("dtype", "numpy_dtype"), [("f2", "f2"), ("f4", "f4"), ("bf2", "f4"), ("i1", "f4")])
def test_to_numpy_gives_the_stated_dtype(dtype: str, numpy_dtype: str) -> None:
    assert Tensor.from_numpy([1.0, 2.0], dtype).to_numpy().dtype == np.dtype(numpy_dtype)


@given(tensor=strategies.tensors)
def test_values_survive_numpy(tensor: Any) -> None:
    values = tensor.to_numpy()
    assert values.shape == tensor.shape
    assert np.isfinite(values).all()
    if tensor.dtype != "i1":  # i1 takes its own scale
        assert Tensor.from_numpy(values, tensor.dtype) == tensor


@given(values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=8), dtype=strategies.dtypes)
def test_rounding_is_to_the_nearest_element(values: Any, dtype: Any) -> None:
    exact = np.array(values, np.float32)
    rounded = Tensor.from_numpy(exact, dtype).to_numpy().astype(np.float64)
    # Half a unit in the last place: relative for floats (absolute below float16's normal range), of the scale for i1.
    relative = {"f2": 2**-11, "bf2": 2**-8, "f4": 0, "i1": 0}[dtype]
    absolute = {"f2": 2**-25, "bf2": 2**-134, "f4": 0, "i1": np.abs(exact).max() / 254 * (1 + 1e-5)}[dtype]
    assert (np.abs(rounded - exact) <= np.abs(exact.astype(np.float64)) * relative + absolute).all()


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [(0x3F80_8000, 0x3F80), (0x3F81_8000, 0x3F82), (0x3F80_8001, 0x3F81), (0x3F80_7FFF, 0x3F80)],
)
def test_bfloat16_ties_go_to_even(bits: int, rounded: int) -> None:
    value = np.array([bits], "<u4").view("<f4")
    assert Tensor.from_numpy(value, "bf2").data == rounded.to_bytes(2, "little")


def test_from_numpy_refuses_what_the_dtype_cannot_hold() -> None:
    with pytest.raises(ValueError, match="not finite as float32"):
        Tensor.from_numpy([1.0, math.nan], "i1")
    with pytest.raises(ValueError, match="not finite as float32"):
        Tensor.from_numpy([1e300], "f4")
    with pytest.raises(ValueError, match="too large for f2"):
        Tensor.from_numpy([70_000.0], "f2")
    with pytest.raises(ValueError, match="too large for bf2"):
        Tensor.from_numpy([np.finfo(np.float32).max], "bf2")
    with pytest.raises(ValueError, match="shape"):
        Tensor.from_numpy(1.0)


def test_zeros_survive_i1() -> None:
    assert Tensor.from_numpy(np.zeros((2, 3)), "i1").to_numpy().tolist() == [[0.0] * 3] * 2


def test_a_feature_is_a_tensor_that_names_its_encoder() -> None:
    feature = Feature.from_numpy([[1.0, 2.0], [3.0, 4.0]], encoder="clip-vit-b32")
    assert (feature.encoder, feature.num_vectors, feature.dims) == ("clip-vit-b32", 2, 2)
    assert Tensor.from_numpy([1.0, 2.0, 3.0]).num_vectors == 1
    with pytest.raises(ValidationError):
        Feature.from_numpy([1.0])


@pytest.mark.parametrize("dtype", ["f2", "bf2"])
def test_every_16_bit_pattern_is_judged_rightly(dtype: str) -> None:
    infinity = INFINITY_BITS[dtype]
    for bits in range(2**16):
        assert element(dtype, bits).is_finite() == (bits & infinity != infinity), hex(bits)


@given(bits=st.integers(0, 2**32 - 1) | st.sampled_from([0x7F7FFFFF, 0x7F800000, 0xFF7FFFFF, 0xFF800000, 0xFFC00000]))
def test_every_32_bit_pattern_is_judged_rightly(bits: Any) -> None:
    assert element("f4", bits).is_finite() == (bits & 0x7F800000 != 0x7F800000)


@given(good=st.lists(strategies.tensors, max_size=5), dtype=st.sampled_from(FLOATS), where=st.integers(0, 5))
def test_one_bad_element_among_many_tensors_is_found(good: Any, dtype: Any, where: Any) -> None:
    assert all_finite(good)
    infinity, sign = INFINITY_BITS[dtype], 1 << (8 * ELEMENT_BYTES[dtype] - 1)
    for bits in (infinity, infinity | 1, infinity | sign, infinity | sign | 1):
        assert not all_finite([*good[:where], element(dtype, bits), *good[where:]])


def test_nothing_is_finite() -> None:
    assert all_finite([])
    assert all_finite([tensor("i1", b"\x80\x7f")])
