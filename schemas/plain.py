"""Items and events without a model for each part, for whoever reads many of them.

Nearly all messages of a stream are good, and of few shapes: what is checked of them here is whether they are such, in a
fraction of the time. Whatever is not, good or bad, is left to `decode`, so there is one place that says what a message
may be, and one that words what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import isfinite
from typing import Any, NamedTuple

from numpy.typing import NDArray
from pydantic_core import PydanticCustomError, PydanticKnownError

from schemas.attributes import Value, checked
from schemas.items import Content
from schemas.limits import DEFAULT_LIMITS
from schemas.message import MAX_INT, SCHEMA_VERSION, Fields
from schemas.tensor import ELEMENT_BYTES, MAX_SCALE, Dtype, Feature
from schemas.times import MAX_TIME_MS

_MAX_FORMS = 4_096
"""Forms that are remembered: a stream has some dozens."""
_NO_CONTENT: Mapping[str, Content] = {}
_NO_ATTRIBUTES: Mapping[str, Value] = {}
_OPTIONAL = ("partial", "neighbors", "attributes")


class PlainFeature(NamedTuple):
    """A `Feature` that is known to be good. Equal to one with the same fields."""

    encoder: str
    dtype: Dtype
    shape: tuple[int, ...]
    data: bytes
    scale: float | None = None

    @property
    def num_vectors(self) -> int:
        """1 for shape [D], N for shape [N, D]."""
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def dims(self) -> int:
        """D."""
        return self.shape[-1]

    def to_numpy(self) -> NDArray[Any]:
        """Elements as an array, as of a `Tensor`."""
        return as_model(self).to_numpy()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Feature):
            return other == as_model(self)
        return tuple.__eq__(self, other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return tuple.__hash__(self)


AnyFeature = Feature | PlainFeature


def as_model(feature: AnyFeature) -> Feature:
    """The same as a model."""
    return feature if isinstance(feature, Feature) else Feature.model_construct(**feature._asdict())


class PlainItem(NamedTuple):
    """A `NewItem` without content that is known to be good."""

    item_id: str
    revision: int
    event_time_ms: int
    features: Mapping[str, PlainFeature]
    partial: bool = False
    neighbors: Sequence[str] = ()
    attributes: Mapping[str, Value] = _NO_ATTRIBUTES
    content: Mapping[str, Content] = _NO_CONTENT

    def brings_features_alone(self) -> bool:
        """Whether it is a whole message with nothing else in it."""
        return not (self.partial or self.neighbors or self.attributes)


class PlainEvent(NamedTuple):
    """A `UserEvent` that is known to be good."""

    event_id: str
    user_id: str
    item_id: str
    event_type: str
    event_time_ms: int
    value: float | None = None


class _Form(NamedTuple):
    """Form of a feature: everything but its elements and scale, and how many bytes the elements take."""

    encoder: str
    dtype: Dtype
    shape: tuple[int, ...]
    num_bytes: int


_forms: dict[tuple[Any, ...], _Form] = {}
"""By what a message says: modality, encoder, dtype, and the numbers of the shape. Any thread: entries are alike."""

_feature = partial(tuple.__new__, PlainFeature)
"""A named tuple's own constructor takes twice as long."""


def plain_item(fields: Fields) -> PlainItem | None:
    """The item in an unpacked message of this version, within the default limits; None if it is not of the usual kind.

    Elements are not looked at.
    """
    try:
        features: dict[str, Any] = fields["features"]
        if fields["schema_version"] != SCHEMA_VERSION or len(features) > DEFAULT_LIMITS.modalities:
            return None
        item_id, revision, time_ms = fields["item_id"], fields["revision"], fields["event_time_ms"]
        if not (
            type(item_id) is str
            and 0 < len(item_id) <= DEFAULT_LIMITS.id_chars
            and type(revision) is type(time_ms) is type(fields["schema_version"]) is int
            and 0 <= revision <= MAX_INT
            and 0 <= time_ms <= MAX_TIME_MS
            and type(features) is dict
        ):
            return None
        found = {}
        for name, given in features.items():
            shape, data = given["shape"], given["data"]
            first = shape[0]
            if len(shape) == 1:
                key: tuple[Any, ...] = (name, given["encoder"], given["dtype"], first)
            else:
                key = (name, given["encoder"], given["dtype"], *shape)
            form = _forms.get(key) or _new_form(key, shape)
            # True and 1.0 would find the form of 1.
            if form is None or type(first) is not int or type(shape[-1]) is not int:
                return None
            encoder, dtype, dims, num_bytes = form
            if type(data) is not bytes or len(data) != num_bytes:
                return None
            scale = None
            if dtype == "i1":
                scale = given["scale"]
                if type(scale) is not float or not 0 < scale <= MAX_SCALE or len(given) != 5:
                    return None
            elif len(given) != 4 and (len(given) != 5 or given["scale"] is not None):
                return None
            found[name] = _feature((encoder, dtype, dims, data, scale))
    except (KeyError, TypeError, IndexError, AttributeError):
        return None
    if len(fields) == 5:
        return PlainItem(item_id, revision, time_ms, found)
    more = _more(fields)
    return None if more is None else PlainItem(item_id, revision, time_ms, found, *more)


def plain_event(fields: Fields) -> PlainEvent | None:
    """The event in an unpacked message, likewise."""
    try:
        version, event_id, user_id = fields["schema_version"], fields["event_id"], fields["user_id"]
        item_id, event_type, time_ms = fields["item_id"], fields["event_type"], fields["event_time_ms"]
        most = DEFAULT_LIMITS.id_chars
        if not (
            type(version) is type(time_ms) is int
            and version == SCHEMA_VERSION
            and type(event_id) is type(user_id) is type(item_id) is type(event_type) is str
            and 0 < len(event_id) <= most
            and 0 < len(user_id) <= most
            and 0 < len(item_id) <= most
            and 0 < len(event_type) <= DEFAULT_LIMITS.name_chars
            and 0 <= time_ms <= MAX_TIME_MS
        ):
            return None
        if len(fields) == 6:
            return PlainEvent(event_id, user_id, item_id, event_type, time_ms)
        value = fields["value"]
    except KeyError:
        return None
    if len(fields) != 7 or type(value) is not float or not isfinite(value):
        return None
    return PlainEvent(event_id, user_id, item_id, event_type, time_ms, value)


def _new_form(key: tuple[Any, ...], shape: Any) -> _Form | None:
    """Check a form of feature once, for all that are like it; None if they cannot be good."""
    limits, (name, encoder, dtype) = DEFAULT_LIMITS, key[:3]
    if type(shape) is not list or not 1 <= len(shape) <= 2 or dtype not in ELEMENT_BYTES:
        return None
    if not all(type(text) is str and 0 < len(text) <= limits.name_chars for text in (name, encoder, dtype)):
        return None
    if not all(type(number) is int for number in shape) or not 1 <= shape[-1] <= limits.dims:
        return None
    num_vectors = shape[0] if len(shape) == 2 else 1
    if not 1 <= num_vectors <= limits.vectors:
        return None
    if len(_forms) >= _MAX_FORMS:
        _forms.clear()
    form = _forms[key] = _Form(encoder, dtype, tuple(shape), num_vectors * shape[-1] * ELEMENT_BYTES[dtype])
    return form


def _more(fields: Fields) -> tuple[bool, Sequence[str], Mapping[str, Value]] | None:
    """Partial, neighbours and attributes; None if there is anything else, or one of them is not as it should be."""
    given = [fields.get(name) for name in _OPTIONAL]
    if len(fields) != 5 + sum(value is not None for value in given):
        return None
    is_partial, neighbors, attributes = given
    if is_partial is not None and type(is_partial) is not bool:
        return None
    if neighbors is not None and not _are_ids(neighbors):
        return None
    if attributes is not None and (attributes := _checked_attributes(attributes)) is None:
        return None
    return is_partial or False, tuple(neighbors or ()), attributes or _NO_ATTRIBUTES


def _are_ids(neighbors: Any) -> bool:
    limits = DEFAULT_LIMITS
    return (
        type(neighbors) is list
        and len(neighbors) <= limits.neighbors
        and all(type(each) is str and 0 < len(each) <= limits.id_chars for each in neighbors)
    )


def _checked_attributes(attributes: Any) -> Mapping[str, Value] | None:
    if type(attributes) is not dict or len(attributes) > DEFAULT_LIMITS.attributes:
        return None
    if not all(0 < len(name) <= DEFAULT_LIMITS.name_chars for name in attributes):
        return None
    try:
        return dict(zip(attributes, map(checked, attributes.values()), strict=True))
    except (PydanticCustomError, PydanticKnownError):
        return None
