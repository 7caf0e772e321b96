"""From a record's object to an item, to the deletion of one, or to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from schemas import NewItem, SchemaError
from worker.mapping.conditions import Condition
from worker.mapping.documents import Document
from worker.mapping.fields import Field, refused
from worker.mapping.problem import MisfitError

Fields = dict[str, Any]
"""Fields of a message, by name, as they go on the wire, without those at their default."""


class Deletion(NamedTuple):
    """The item is gone."""

    item_id: str


class Skipped(NamedTuple):
    """The record is none of ours, as the mapping says."""


SKIPPED = Skipped()


@dataclass(frozen=True, slots=True)
class Test:
    """A condition, and where it stands."""

    condition: Condition
    source: Field

    def holds(self, document: Document) -> bool:
        """Raises `SchemaError`."""
        try:
            return self.condition.holds(document)
        except MisfitError as problem:
            raise self.source.error(str(problem), problem.reason) from None


@dataclass(frozen=True, slots=True)
class ContentField:
    """Raw content of a modality."""

    modality: str
    kind: str
    """`text`, `data` or `uri`."""
    field: Field
    media_type: Field | None = None

    def read(self, document: Document) -> dict[str, Any] | None:
        value = self.field.read(document)
        if value is None:
            return None
        content = {self.kind: value}
        if self.media_type is not None and (media_type := self.media_type.read(document)) is not None:
            content["media_type"] = media_type
        return content


@dataclass(frozen=True, slots=True)
class ItemMapping:
    """Turns records about items into messages. Pure; any thread."""

    item_id: Field
    revision: Field
    event_time: Field
    content: Sequence[ContentField] = ()
    features: Sequence[tuple[str, Field]] = ()
    neighbors: Field | None = None
    attributes: Sequence[tuple[str, Field]] = ()
    partial: bool = False
    delete: Test | None = None
    skip: Test | None = None
    title: Field | None = None
    """For people, where files are imported."""
    all_fields: Sequence[Field] = field(default=(), repr=False)

    def read(self, document: Document, *, is_deleted: bool = False) -> Fields | Deletion | Skipped:
        """`is_deleted`: the envelope says so. Raises `SchemaError`, which names the field and the mapping's line."""
        if self.skip is not None and self.skip.holds(document):
            return SKIPPED
        item_id = self.item_id.read(document)
        if is_deleted or (self.delete is not None and self.delete.holds(document)):
            return Deletion(item_id)
        fields: Fields = {
            "schema_version": NewItem.version,
            "item_id": item_id,
            "revision": self.revision.read(document),
            "event_time_ms": self.event_time.read(document),
        }
        for name, found in (
            ("features", self._by_name(self.features, document)),
            ("content", {each.modality: value for each in self.content if (value := each.read(document)) is not None}),
        ):
            if found:
                fields[name] = found
        if self.neighbors is not None and (neighbors := self.neighbors.read(document)):
            fields["neighbors"] = neighbors
        if self.partial:
            fields["partial"] = True
        if self.attributes and (attributes := self._by_name(self.attributes, document)):
            fields["attributes"] = attributes
        return fields

    def item(self, fields: Fields) -> NewItem:
        """Raises `SchemaError`."""
        try:
            return NewItem.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise self.refused(error) from None

    def refused(self, error: ValidationError) -> SchemaError:
        return refused(error, self.all_fields)

    @staticmethod
    def _by_name(named: Sequence[tuple[str, Field]], document: Document) -> dict[str, Any]:
        return {name: value for name, each in named if (value := each.read(document)) is not None}

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_fields", tuple(self._fields()))

    def _fields(self) -> Iterator[Field]:
        yield from (self.item_id, self.revision, self.event_time)
        yield from (each.field for each in self.content)
        yield from (each for _, each in (*self.features, *self.attributes))
        if self.neighbors is not None:
            yield self.neighbors
