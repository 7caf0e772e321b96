"""Parts that all messages share: the envelope, and the types of their fields.

Messages are frozen, ignore fields they do not know, and take no value of another type for one of theirs: no "7"
for 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, ClassVar, Final, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema
from pydantic_core.core_schema import no_info_after_validator_function

from schemas.limits import AtMost
from schemas.tensor import Tensor, problem

SCHEMA_VERSION: Final = 1
"""Version of the whole contract: writers send it, readers accept it and the one before."""

MAX_INT = 2**63 - 1
Fields = dict[str, Any]
Upgrade = Callable[[Fields], Fields]

Id = Annotated[str, Field(min_length=1), AtMost("id_chars")]
Name = Annotated[str, Field(min_length=1), AtMost("name_chars")]
Count = Annotated[int, Field(ge=0, le=MAX_INT)]
Code = Annotated[int, Field(ge=0, le=65_535)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _OneVector:
    """Restricts a tensor to shape [D]."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return handler(schema) | {"properties": {"shape": {"maxItems": 1}}}

    @staticmethod
    def _check(tensor: Tensor) -> Tensor:
        if len(tensor.shape) != 1:
            raise problem("vector_shape", "shape", f"should be [D], one vector, not {list(tensor.shape)}")
        return tensor


Vector = Annotated[Tensor, _OneVector()]


def _is_map(declared: Any) -> bool:
    origin = get_origin(declared)
    return origin is dict or (origin in (Annotated, Union, UnionType) and any(map(_is_map, get_args(declared))))


class Message(BaseModel):
    """A value on one of the topics."""

    model_config = ConfigDict(frozen=True, strict=True, use_attribute_docstrings=True)

    upgrades: ClassVar[Mapping[int, Upgrade]] = {}
    """How the fields of the version before become those of this one: `{N - 1: upgrade}`."""
    version: ClassVar[int]
    """N, the default of `schema_version`."""
    optional: ClassVar[frozenset[str]]
    """Fields for which nil stands for the default."""
    maps: ClassVar[tuple[str, ...]]
    """Fields that are maps by name, in which nil stands for an entry that is not there."""
    byte_limit: ClassVar[str] = "message_bytes"
    """Which of `Limits` bounds the encoded message."""

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of the contract the message was written in."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        super().__pydantic_init_subclass__(**kwargs)
        cls.version = cls.model_fields["schema_version"].default
        given = {name: field for name, field in cls.model_fields.items() if name != "schema_version"}
        cls.optional = frozenset(name for name, field in given.items() if not field.is_required())
        cls.maps = tuple(name for name, field in given.items() if _is_map(field.annotation))

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor with its dotted path."""
        return iter(())
