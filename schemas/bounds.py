"""Which part of a message is over the limits of a reader that is stricter than the contract."""

from __future__ import annotations

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from schemas.attributes import OneOfFourKinds
from schemas.limits import AtMost, Limits
from schemas.tensor import Tensor

Bound = tuple[str, str, int]
"""Dotted path, name of the limit, size."""


def exceeded(message: BaseModel, limits: Limits) -> Bound | None:
    """The first part of a valid message that is over one of `limits`."""
    return next((bound for bound in _model_bounds(message, "") if bound[2] > getattr(limits, bound[1])), None)


def _model_bounds(model: BaseModel, path: str) -> Iterator[Bound]:
    if isinstance(model, Tensor):
        yield f"{path}.shape", "dims", model.dims
        yield f"{path}.shape", "vectors", model.num_vectors
    for name, field in type(model).model_fields.items():
        declared = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
        yield from _bounds(declared, getattr(model, name), f"{path}.{name}" if path else name)


def _bounds(declared: Any, value: Any, path: str) -> Iterator[Bound]:
    """The bounds that the `AtMost` marks of a declared type put on a valid value of it."""
    origin, args = get_origin(declared), get_args(declared)
    if value is None:
        return
    elif isinstance(value, BaseModel):
        yield from _model_bounds(value, path)
    elif origin is Annotated:
        yield from ((path, mark.limit, len(value)) for mark in args[1:] if isinstance(mark, AtMost))
        if OneOfFourKinds in map(type, args[1:]):
            yield from OneOfFourKinds.bounds(value, path)
        else:
            yield from _bounds(args[0], value, path)
    elif origin in (Union, UnionType):
        for alternative in args:
            if alternative is not NoneType:
                yield from _bounds(alternative, value, path)
    elif origin is dict:
        for key, entry in value.items():
            yield from _bounds(args[0], key, f"{path}.{key}")
            yield from _bounds(args[1], entry, f"{path}.{key}")
    elif origin is tuple:
        kinds = [args[0]] * len(value) if args[1:] == (...,) else args
        for index, (kind, entry) in enumerate(zip(kinds, value, strict=True)):
            yield from _bounds(kind, entry, f"{path}.{index}")
