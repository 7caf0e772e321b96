"""Messages about items, and the vector made of one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, FailFast, Field, Strict, model_validator
from pydantic_core import PydanticCustomError

from schemas.attributes import AttributeValue
from schemas.limits import AtMost
from schemas.message import Code, Count, Finite, Id, Message, Name, Vector
from schemas.tensor import Feature, Tensor
from schemas.times import TimeMs


class Content(BaseModel):
    """Raw content of one modality: exactly one of `text`, `data` and `uri`."""

    model_config = ConfigDict(
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        json_schema_extra={
            "oneOf": [
                {"required": [kind], "properties": {kind: {"type": "string"}}} for kind in ("text", "data", "uri")
            ]
        },
    )

    text: Annotated[str, AtMost("text_chars")] | None = None
    """The text itself."""
    data: bytes | None = None
    """The encoded image, audio or video file."""
    uri: Annotated[str, Field(min_length=1), AtMost("uri_chars")] | None = None
    """Where the file is; fetched only from schemes and hosts that the reader allows."""
    media_type: Name | None = None
    """IANA media type, as `image/jpeg`, where the data do not tell."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.text is not None) + (self.data is not None) + (self.uri is not None) != 1:
            raise PydanticCustomError("content_kind", "should have exactly one of text, data and uri")
        return self

    @property
    def kind(self) -> Literal["text", "data", "uri"]:
        """Which of the three is present."""
        return "text" if self.text is not None else "data" if self.data is not None else "uri"


class NewItem(Message):
    """A new or changed item. Topic `items`, key `item_id`; a null value deletes the item."""

    item_id: Id
    """The item; also the record's key, in UTF-8."""
    revision: Count
    """Grows with every change of the item; the greatest wins, whatever the order of arrival."""
    event_time_ms: TimeMs
    """When the item changed, milliseconds since 1970, UTC; 0 where that is not known."""
    features: Annotated[dict[Name, Feature], AtMost("modalities")] = Field(default_factory=dict)
    """Encoder outputs by modality (`text`, `image`, …)."""
    content: Annotated[dict[Name, Content], AtMost("modalities")] = Field(default_factory=dict)
    """Raw content by modality, for a worker that has encoders; used where the modality has no feature."""
    neighbors: Annotated[tuple[Id, ...], AtMost("neighbors"), Strict(False), FailFast()] = ()
    """Items this one is related to, for graph fusion."""
    partial: bool = False
    """True: the modalities and attributes given are merged into those already known. False: they replace all of them.
    """
    attributes: Annotated[dict[Name, AttributeValue], AtMost("attributes")] = Field(default_factory=dict)
    """Values that an index may filter by (`price`, `category`, …): a str, a number, a bool or an array of str by name.
    They have no part in the vector."""

    @property
    def key(self) -> bytes:
        """Key of the record."""
        return self.item_id.encode()

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((f"features.{modality}", feature) for modality, feature in self.features.items())


class ItemVector(Message):
    """An item's vector in the space. Topic `item-vectors`, key `item_id`; null value: item deleted."""

    item_id: Id
    """The item; also the record's key, in UTF-8."""
    revision: Count
    """Revision of the item message the vector was computed from."""
    event_time_ms: TimeMs
    """Event time of that message."""
    space_id: Name
    """The space. Vectors of different spaces cannot be compared."""
    vector: Vector
    """The fused vector, shape [D], of unit length up to the rounding of its dtype."""
    modalities: Annotated[tuple[Name, ...], Field(min_length=1), AtMost("modalities"), Strict(False)]
    """Which modalities took part."""
    prior: Finite | None = None
    """Popularity term to add to the dot product of user and item."""
    modality_vectors: Annotated[dict[Name, Vector], AtMost("modalities")] | None = None
    """Each modality alone in the same space, shape [D], for cross-modal search."""
    produced_at_ms: TimeMs
    """When the vector was computed, milliseconds since 1970, UTC."""
    source_offset: Count | None = None
    """Offset of the item message, in the partition of the same number of the items topic, plus 2^44 for each log under
    that name before it. Of two records with the same key, deletes included, the one with the greater source offset is
    the newer."""
    base_vector: Vector | None = Field(None, title="Base Vector")
    """The vector before graph fusion, shape [D], which items that have this one for a neighbour attend to. Not given
    where graph fusion has not moved the vector: then the vector is that."""
    attributes: Annotated[dict[Name, AttributeValue], AtMost("attributes")] = Field(default_factory=dict)
    """Attributes of the item, as its messages leave them."""
    codes: Annotated[tuple[Code, ...], Field(min_length=1), AtMost("code_levels"), Strict(False)] | None = None
    """The vector as codes, from coarse to fine, where the space has codebooks. Every prefix says something by itself.
    """
    code_space_id: Name | None = Field(None, title="Code Space Id")
    """The codebooks. Codes of different ones cannot be compared."""
    disambiguator: Annotated[int, Field(ge=0, le=2**32 - 1)] | None = None
    """Tells items of equal codes apart, and is the same for ever: the CRC-32 of the item_id. Not given without codes.
    """

    @property
    def key(self) -> bytes:
        """Key of the record."""
        return self.item_id.encode()

    @property
    def base(self) -> Tensor:
        """The vector before graph fusion."""
        return self.vector if self.base_vector is None else self.base_vector

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield "vector", self.vector
        if self.base_vector is not None:
            yield "base_vector", self.base_vector
        for modality, vector in (self.modality_vectors or {}).items():
            yield f"modality_vectors.{modality}", vector
