"""Any valid message, for property tests."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from schemas import (
    Content,
    DeadLetter,
    Feature,
    ItemVector,
    NewItem,
    Reason,
    Tensor,
    UserEvent,
    UserVector,
)
from schemas.message import MAX_INT
from schemas.tensor import ELEMENT_BYTES, MAX_SCALE
from schemas.times import MAX_TIME_MS

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
names = ids
counts = st.integers(0, MAX_INT)
times = st.integers(0, MAX_TIME_MS)
finite = st.floats(allow_nan=False, allow_infinity=False)
scales = st.floats(0, MAX_SCALE, exclude_min=True)
dtypes = st.sampled_from(list(ELEMENT_BYTES))
lengths = st.integers(1, 8)
vector_shapes = st.tuples(lengths)
shapes = vector_shapes | st.tuples(lengths, lengths)


@st.composite
def element_bytes(draw: st.DrawFn, dtype: str, shape: tuple[int, ...]) -> bytes:
    """Finite elements of any bit pattern: the exponent is never all ones."""
    size = math.prod(shape) * ELEMENT_BYTES[dtype]
    data = draw(st.binary(min_size=size, max_size=size))
    if dtype == "i1":
        return data
    words = np.frombuffer(data, f"<u{ELEMENT_BYTES[dtype]}").copy()
    infinity = {"f2": 0x7C00, "bf2": 0x7F80, "f4": 0x7F800000}[dtype]
    lowest_exponent_bit = infinity & -infinity
    words[(words & infinity) == infinity] &= ~np.array(lowest_exponent_bit, words.dtype)
    return words.tobytes()


@st.composite
def tensor_fields(draw: st.DrawFn, shapes: st.SearchStrategy[tuple[int, ...]] = shapes) -> dict[str, Any]:
    dtype, shape = draw(dtypes), draw(shapes)
    scale = draw(scales) if dtype == "i1" else None
    return {"dtype": dtype, "shape": shape, "data": draw(element_bytes(dtype, shape)), "scale": scale}


tensors = tensor_fields().map(lambda fields: Tensor(**fields))
vectors = tensor_fields(vector_shapes).map(lambda fields: Tensor(**fields))
features = st.builds(lambda fields, encoder: Feature(**fields, encoder=encoder), tensor_fields(), names)
contents = st.builds(
    lambda one, media_type: Content(**one, media_type=media_type),
    st.fixed_dictionaries({"text": st.text(st.characters(exclude_categories=["Cs"]), max_size=20)})
    | st.fixed_dictionaries({"data": st.binary(max_size=20)})
    | st.fixed_dictionaries({"uri": ids}),
    st.none() | names,
)

attributes = st.dictionaries(
    names,
    st.booleans() | st.integers(-MAX_INT - 1, MAX_INT) | finite | st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(ids, max_size=3).map(tuple),
    max_size=3,
)  # fmt: skip

new_items = st.builds(
    NewItem,
    item_id=ids,
    revision=counts,
    event_time_ms=times,
    features=st.dictionaries(names, features, max_size=3),
    content=st.dictionaries(names, contents, max_size=3),
    neighbors=st.lists(ids, max_size=4),
    partial=st.booleans(),
    attributes=attributes,
)
user_events = st.builds(
    UserEvent,
    event_id=ids,
    user_id=ids,
    item_id=ids,
    event_type=names,
    event_time_ms=times,
    value=st.none() | finite,
)
item_vectors = st.builds(
    ItemVector,
    item_id=ids,
    revision=counts,
    event_time_ms=times,
    space_id=names,
    vector=vectors,
    modalities=st.lists(names, min_size=1, max_size=4),
    prior=st.none() | finite,
    modality_vectors=st.none() | st.dictionaries(names, vectors, max_size=3),
    produced_at_ms=times,
    source_offset=st.none() | counts,
    base_vector=st.none() | vectors,
    attributes=attributes,
)
user_vectors = st.builds(
    UserVector,
    user_id=ids,
    event_time_ms=times,
    num_events=counts,
    space_id=names,
    vector=vectors,
    produced_at_ms=times,
)
dead_letters = st.builds(
    DeadLetter,
    key=st.none() | st.binary(max_size=20),
    value=st.none() | st.binary(max_size=50),
    headers=st.lists(st.tuples(st.text(max_size=8), st.none() | st.binary(max_size=8)), max_size=3),
    topic=ids,
    partition=st.integers(0, 2**31 - 1),
    offset=counts,
    timestamp=st.integers(-MAX_INT - 1, MAX_INT),
    reason=st.sampled_from(Reason),
    stage=names,
    detail=st.text(max_size=30),
    worker_version=names,
    space_id=st.none() | names,
    failed_at_ms=times,
)

BY_NAME = {
    "NewItem": new_items,
    "UserEvent": user_events,
    "ItemVector": item_vectors,
    "UserVector": user_vectors,
    "DeadLetter": dead_letters,
}
