"""Which vectors say nothing: all zeros, one value throughout, or differences too small to count.

Exporters write such vectors for what they lack, and encoders that have failed give them. A model normalises its
inputs, so all of them come out as the same point, and items that have nothing in common become neighbours. Whoever
takes vectors asks here, and treats those without information as ones that are not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.plain import AnyFeature
from schemas.tensor import Dtype, Feature, Tensor, finite

MIN_SPREAD = 1e-6
"""Least difference between the largest and the smallest element. A model adds 1e-6 to the variance of a vector before
it divides by it: of what is smaller than this, less than a thousandth is left."""
MAX_ELEMENT = 2.0**56
"""Largest element. The sum of the squares of as many elements as a vector may have is a finite float32 up to here."""

_SAMPLES = 16  # elements of a vector that are looked at first: nearly always they differ
_SUBTYPES = {"f2": "<f2", "f4": "<f4", "i1": "i1"}


class Flaw(NamedTuple):
    """A fault of a tensor."""

    kept_N: NDArray[np.bool_]
    """Which of its vectors say something."""
    too_large: bool = False
    """It has an element that is larger than `MAX_ELEMENT`."""


def suspects(items: Sequence[Mapping[str, AnyFeature]]) -> list[int]:
    """Indices of the items that have to be looked at more closely: what is not on the list is finite and has no flaws.

    One pass over all features: cheap for a whole poll.
    """
    found: set[int] = set()
    for name in set[str]().union(*items):
        column = [item.get(name) for item in items]
        indices = range(len(items)) if all(column) else [index for index, each in enumerate(column) if each]
        features = [each for each in column if each]
        kinds = {(each.dtype, each.shape[-1]) for each in features}
        if len(kinds) == 1:
            found.update(_suspects_of(*kinds.pop(), indices, features))
        for kind in kinds:
            chosen = [place for place, each in enumerate(features) if (each.dtype, each.shape[-1]) == kind]
            found.update(
                _suspects_of(*kind, [indices[place] for place in chosen], [features[place] for place in chosen])
            )
    return sorted(found)


def _suspects_of(dtype: Dtype, dims: int, items: Sequence[int], features: Sequence[AnyFeature]) -> Iterable[int]:
    """Those among the items whose features of one kind are these."""
    data = b"".join([feature.data for feature in features])
    rows_ND = _elements(dtype, data).reshape(-1, dims)
    suspects_N = _suspects(rows_ND, dtype)
    if not finite(dtype, data):
        suspects_N |= ~np.isfinite(_values(rows_ND, dtype)).all(1)
    odd = []
    if dtype == "i1":
        odd = [item for item, feature in zip(items, features, strict=True) if _has_odd_scale(feature)]
    if not suspects_N.any():
        return odd
    counts = [feature.shape[0] if len(feature.shape) == 2 else 1 for feature in features]
    return [*odd, *np.repeat(items, counts)[suspects_N].tolist()]


def flaws(tensors: Sequence[Tensor]) -> dict[int, Flaw]:
    """The tensors among these that have vectors without information, or elements that are too large, by index.

    A vector of one element is a number, and says something whatever it is. The elements are finite. One pass over all
    tensors: cheap for a whole poll.
    """
    groups: dict[tuple[Dtype, int], list[int]] = {}
    for index, tensor in enumerate(tensors):
        groups.setdefault((tensor.dtype, tensor.shape[-1]), []).append(index)
    found: dict[int, Flaw] = {}
    for (dtype, dims), indices in groups.items():
        rows_ND = _elements(dtype, b"".join([tensors[index].data for index in indices])).reshape(-1, dims)
        suspects_N = _suspects(rows_ND, dtype)
        if suspects_N.any() or (dtype == "i1" and any(_has_odd_scale(tensors[index]) for index in indices)):
            _judge([(index, tensors[index]) for index in indices], suspects_N, found)
    return found


def _suspects(rows_ND: NDArray[Any], dtype: Dtype) -> NDArray[np.bool_]:
    """Vectors that have to be looked at as a whole: some elements of them hardly differ, or one is large."""
    sample_NS = _values(rows_ND[:, :: max(1, rows_ND.shape[1] // _SAMPLES)], dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        suspects_N: NDArray[np.bool_] = sample_NS.max(1) - sample_NS.min(1) < MIN_SPREAD
    if rows_ND.shape[1] == 1:
        suspects_N[:] = False
    if dtype in ("f4", "bf2") and _largest(rows_ND, dtype) > MAX_ELEMENT:
        suspects_N[:] = True
    return suspects_N


def _judge(tensors: Sequence[tuple[int, Tensor]], suspects_N: NDArray[np.bool_], found: dict[int, Flaw]) -> None:
    first = 0
    for index, tensor in tensors:
        count = tensor.num_vectors
        if suspects_N[first : first + count].any() or _has_odd_scale(tensor):
            flaw = _flaw(tensor)
            if flaw.too_large or not flaw.kept_N.all():
                found[index] = flaw
        first += count


def _has_odd_scale(tensor: Tensor | AnyFeature) -> bool:
    """Integers that differ, or are large, may not once they are multiplied."""
    return tensor.scale is not None and not MIN_SPREAD <= tensor.scale <= MAX_ELEMENT / 128


def _flaw(tensor: Tensor) -> Flaw:
    values_ND = tensor.to_numpy().astype(np.float32).reshape(-1, tensor.dims)
    spreads_N = values_ND.max(1).astype(np.float64) - values_ND.min(1)
    kept_N: NDArray[np.bool_] = (spreads_N >= MIN_SPREAD) | (tensor.dims == 1)
    return Flaw(kept_N, bool(np.abs(values_ND).max() > MAX_ELEMENT))


def _elements(dtype: Dtype, data: bytes) -> NDArray[Any]:
    return np.frombuffer(data, "<u2" if dtype == "bf2" else _SUBTYPES[dtype])


def _values(elements: NDArray[Any], dtype: Dtype) -> NDArray[np.float32]:
    if dtype == "bf2":
        return (elements.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return elements.astype(np.float32)


def _largest(rows_ND: NDArray[Any], dtype: Dtype) -> float:
    """The largest magnitude: floats without their sign are in the order of their bits."""
    bits = np.bitwise_and(rows_ND.view("<u2" if dtype == "bf2" else "<u4"), 0x7FFF if dtype == "bf2" else 0x7FFFFFFF)
    return float(_values(bits.max().reshape(1, 1), dtype).item() if dtype == "bf2" else bits.max().view(np.float32))


class Judged(NamedTuple):
    """Features of an item that carry information, and the faults of the others."""

    features: Mapping[str, Feature]
    """Without vectors that say nothing, and without features that have no others."""
    dropped: Sequence[str]
    """Modalities of which a vector, or all, were left out."""
    too_large: str | None
    """A modality with an element that nothing can be computed of."""

    def problem(self) -> str:
        """The fault in words, for a person."""
        if self.too_large is not None:
            return f"features.{self.too_large}.data: holds values beyond {MAX_ELEMENT:.0e}, too large to compute with"
        return f"features: {', '.join(self.dropped)} without information (all zeros, one value, or nearly so)"


def judge(items: Sequence[Mapping[str, Feature]]) -> dict[int, Judged]:
    """The items among these of which some feature says nothing or is too large, by index. See `flaws`."""
    places = [(index, name) for index, features in enumerate(items) for name in features]
    found = flaws([feature for features in items for feature in features.values()])
    flawed: dict[int, dict[str, Flaw]] = {}
    for number, flaw in found.items():
        index, name = places[number]
        flawed.setdefault(index, {})[name] = flaw
    return {index: _judged(items[index], by_name) for index, by_name in flawed.items()}


def _judged(features: Mapping[str, Feature], by_name: Mapping[str, Flaw]) -> Judged:
    kept = {name: _kept(feature, by_name[name]) if name in by_name else feature for name, feature in features.items()}
    return Judged(
        {name: feature for name, feature in kept.items() if feature is not None},
        [name for name, flaw in by_name.items() if not flaw.kept_N.all()],
        next((name for name, flaw in by_name.items() if flaw.too_large), None),
    )


def _kept(feature: Feature, flaw: Flaw) -> Feature | None:
    """The feature without its vectors that say nothing; None if it has no others."""
    rows = np.flatnonzero(flaw.kept_N).tolist()
    if not rows:
        return None
    width = len(feature.data) // feature.num_vectors
    data = b"".join([feature.data[row * width : (row + 1) * width] for row in rows])
    shape = (len(rows), feature.dims) if len(feature.shape) == 2 else feature.shape
    return feature.model_copy(update={"shape": shape, "data": data})
