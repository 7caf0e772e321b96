"""Arrays on the wire: element type, shape and little-endian bytes, never a list of numbers.

| dtype | element | bytes |
|---|---|---|
| `f4` | IEEE 754 binary32 | 4 |
| `f2` | IEEE 754 binary16 | 2 |
| `bf2` | bfloat16: the upper half of a binary32 | 2 |
| `i1` | signed integer; the value is element * `scale` | 1 |

Shape suffixes: N vectors, D dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from schemas.limits import DEFAULT_LIMITS, AtMost

Dtype = Literal["f2", "f4", "bf2", "i1"]

ELEMENT_BYTES: dict[Dtype, int] = {"f2": 2, "f4": 4, "bf2": 2, "i1": 1}

MAX_SCALE = 1e36
"""Keeps 128 * scale within float32."""

# Positive infinity as the signed integer of the same width. What is not finite is at least that; with the
# sign bit set it is, as an unsigned integer, at least that plus the sign bit.
_INFINITY = {"f2": ("<i2", 0x7C00), "f4": ("<i4", 0x7F80_0000), "bf2": ("<i2", 0x7F80)}


class Tensor(BaseModel):
    """One vector (shape [D]) or several (shape [N, D])."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "if": {"properties": {"dtype": {"const": "i1"}}},
            "then": {"required": ["scale"], "properties": {"scale": {"type": "number"}}},
            "else": {"properties": {"scale": {"type": "null"}}},
        },
    )

    dtype: Dtype
    """Element type: f4, f2, bf2 (bfloat16) or i1 (signed integer, multiplied by `scale`)."""
    shape: Annotated[
        tuple[Annotated[int, Field(ge=1, le=DEFAULT_LIMITS.dims)], ...],
        Field(min_length=1, max_length=2),
        Strict(False),
        FailFast(),
    ]
    """[D] for one vector, [N, D] for N vectors."""
    data: bytes
    """Elements in row-major order, little-endian; exactly as many bytes as dtype and shape say."""
    scale: Annotated[float, Field(gt=0, le=MAX_SCALE, allow_inf_nan=False)] | None = None
    """Present with i1 and only then: value = element * scale."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Runs for every tensor of every message, so it only tests; `_inconsistency` works out what to say.
        shape, dtype = self.shape, self.dtype
        if (
            len(self.data) != math.prod(shape) * ELEMENT_BYTES[dtype]
            or (dtype == "i1") is (self.scale is None)
            or (len(shape) == 2 and shape[0] > DEFAULT_LIMITS.vectors)
        ):
            raise self._inconsistency()
        return self

    def _inconsistency(self) -> PydanticCustomError:
        if self.num_vectors > DEFAULT_LIMITS.vectors:
            return problem("too_many_vectors", "shape", f"should have at most {DEFAULT_LIMITS.vectors} vectors")
        expected = math.prod(self.shape) * ELEMENT_BYTES[self.dtype]
        if len(self.data) != expected:
            wanted = f"{expected} bytes for dtype {self.dtype} and shape {list(self.shape)}"
            return problem("data_length", "data", f"should be {wanted}, not {len(self.data)}")
        rule = "is required with dtype i1" if self.dtype == "i1" else f"belongs to dtype i1, not {self.dtype}"
        return problem("scale", "scale", rule)

    @property
    def num_vectors(self) -> int:
        """1 for shape [D], N for shape [N, D]."""
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def dims(self) -> int:
        """D."""
        return self.shape[-1]

    @classmethod
    def from_numpy(cls, array: ArrayLike, dtype: Dtype = "f2", **fields: Any) -> Self:
        """Rounds an array [D] or [N, D] to `dtype`.

        `fields` are those of a subclass: `Feature.from_numpy(array, encoder="clip-vit-b32")`. i1 takes the
        scale that maps the largest magnitude to 127. Raises ValueError for an element not finite in `dtype`.
        """
        with np.errstate(over="ignore"):
            values = np.asarray(array, dtype=np.float32)
            if not np.isfinite(values).all():
                raise ValueError("array has elements that are not finite as float32")
            data, scale = _round(values, dtype)
        if not finite(dtype, data):
            raise ValueError(f"array has elements that are too large for {dtype}; use bf2 or f4")
        return cls(dtype=dtype, shape=values.shape, data=data, scale=scale, **fields)

    def to_numpy(self) -> NDArray[Any]:
        """The values in the tensor's shape: float16 for f2, else float32. f2 and f4: read-only, no copy."""
        values: NDArray[Any]
        if self.dtype == "i1":
            values = np.frombuffer(self.data, "i1").astype(np.float32) * np.float32(self.scale or 0.0)
        elif self.dtype == "bf2":
            values = (np.frombuffer(self.data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        else:
            values = np.frombuffer(self.data, "<" + self.dtype)
        return values.reshape(self.shape)

    def is_finite(self) -> bool:
        """No element is NaN or infinite."""
        return finite(self.dtype, self.data)


class Feature(Tensor):
    """One modality of an item, as an encoder represents it."""

    encoder: Annotated[str, Field(min_length=1), AtMost("name_chars")]
    """Name and version of the encoder. Features of different encoders cannot be compared."""


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """No element of any tensor is NaN or infinite. One pass over all of them: cheap for a whole poll."""
    parts: dict[Dtype, list[bytes]] = {}
    for tensor in tensors:
        parts.setdefault(tensor.dtype, []).append(tensor.data)
    return all(finite(dtype, b"".join(data)) for dtype, data in parts.items())


def finite(dtype: Dtype, data: bytes) -> bool:
    """No element in the bytes of a tensor is NaN or infinite."""
    # Two maxima over the elements as integers, without a copy: on float16 isfinite takes 20 times as long.
    if dtype == "i1" or not data:
        return True
    signed, infinity = _INFINITY[dtype]
    words = np.frombuffer(data, signed)
    sign_bit = 1 << (8 * words.itemsize - 1)
    return bool(words.max() < infinity and words.view(signed.replace("i", "u")).max() < infinity + sign_bit)


def _round(values: NDArray[np.float32], dtype: Dtype) -> tuple[bytes, float | None]:
    """Little-endian bytes of the nearest elements, and the scale of i1."""
    if dtype == "i1":
        scale = float(np.abs(values).max(initial=0.0)) / 127 or 1.0
        return np.rint(values.astype(np.float64) / scale).astype("i1").tobytes(), scale
    if dtype == "bf2":
        bits = values.astype("<f4").view("<u4")
        to_nearest_even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        return ((bits + to_nearest_even) >> np.uint32(16)).astype("<u2").tobytes(), None
    return values.astype("<" + dtype).tobytes(), None


def problem(kind: str, field: str, text: str) -> PydanticCustomError:
    """An error of a tensor, with the name of the field that is wrong."""
    return PydanticCustomError(kind, "{text}", {"field": field, "text": text})
