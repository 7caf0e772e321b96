"""From a record's object to an event, or to nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import ValidationError

from schemas import SchemaError, UserEvent
from worker.mapping.documents import Document
from worker.mapping.fields import Field, Hash, refused
from worker.mapping.items import SKIPPED, Fields, Skipped, Test
from worker.mapping.values import event_id

Others = Literal["keep", "skip", "refuse"]


@dataclass(frozen=True, slots=True)
class TypeField:
    """The event type, in the words of the space."""

    field: Field
    rename: Mapping[str, str]
    others: Others
    """Treatment of types that are not renamed."""

    def read(self, document: Document) -> str | None:
        """None: such events are left out."""
        found: str = self.field.read(document)
        if (renamed := self.rename.get(found)) is not None:
            return renamed
        if self.others == "keep":
            return found
        if self.others == "skip":
            return None
        raise self.field.error(f"should be one of {', '.join(self.rename)} (others: refuse)")


@dataclass(frozen=True, slots=True)
class EventMapping:
    """Turns records about what users did into messages. Pure; any thread."""

    user_id: Field
    item_id: Field
    event_type: TypeField
    event_time: Field
    event_id: Field | Hash | None = None
    """None: it is made of the others."""
    value: Field | None = None
    skip: Test | None = None
    skips_deletes: bool = False
    """Whether what the envelope calls a delete is left out, and not refused."""
    all_fields: Sequence[Field] = field(default=(), repr=False)

    def read(self, document: Document) -> Fields | Skipped:
        """Raises `SchemaError`, which names the field and the mapping's line."""
        if self.skip is not None and self.skip.holds(document):
            return SKIPPED
        kind = self.event_type.read(document)
        if kind is None:
            return SKIPPED
        user_id, item_id = self.user_id.read(document), self.item_id.read(document)
        time_ms = self.event_time.read(document)
        value = None if self.value is None else self.value.read(document)
        match self.event_id:
            case None:
                own_id = event_id(user_id, item_id, kind, time_ms, value)
            case Hash() as hashed:
                own_id = event_id(*hashed.read(document))
            case own:
                own_id = own.read(document)
        fields: Fields = {
            "schema_version": UserEvent.version,
            "event_id": own_id,
            "user_id": user_id,
            "item_id": item_id,
            "event_type": kind,
            "event_time_ms": time_ms,
        }
        if value is not None:
            fields["value"] = value
        return fields

    def event(self, fields: Fields) -> UserEvent:
        """Raises `SchemaError`."""
        try:
            return UserEvent.__pydantic_validator__.validate_python(fields)  # type: ignore[no-any-return]
        except ValidationError as error:
            raise self.refused(error) from None

    def refused(self, error: ValidationError) -> SchemaError:
        return refused(error, self.all_fields)

    def __post_init__(self) -> None:
        object.__setattr__(self, "all_fields", tuple(self._fields()))

    def _fields(self) -> Iterator[Field]:
        yield from (self.user_id, self.item_id, self.event_type.field, self.event_time)
        if isinstance(self.event_id, Field):
            yield self.event_id
        if self.value is not None:
            yield self.value
