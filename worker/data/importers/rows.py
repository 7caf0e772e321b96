"""From a row of a table to an item or an event."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from schemas import Content, Dtype, NewItem, SchemaError, UserEvent
from worker.data.importers.output import TitledItem
from worker.data.importers.values import (
    TIME_UNITS,
    CellError,
    is_missing,
    to_count,
    to_feature,
    to_id,
    to_number,
    to_time_ms,
)
from worker.mapping import Document, MappingFile
from worker.mapping.envelopes import OPENERS
from worker.mapping.problem import MisfitError
from worker.mapping.values import event_id

Row = Mapping[str, Any]

ITEM_FIELDS = ("item_id", "revision", "event_time_ms", "neighbors", "title")
EVENT_FIELDS = ("event_id", "user_id", "item_id", "event_type", "event_time_ms", "value")


@dataclass(frozen=True, slots=True)
class ItemRows:
    """Makes items of rows. Only `item_id` has to be there."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The column of each of `ITEM_FIELDS` that is not called so."""
    vectors: Mapping[str, str] = field(default_factory=dict)
    """The column of vectors of each modality."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """The column of text of each modality that has raw content."""
    encoders: Mapping[str, str] = field(default_factory=dict)
    """Encoder of the vectors of each modality; where it is not given, the name of the modality."""
    dtype: Dtype = "f2"
    unit_ms: float = TIME_UNITS["ms"]

    @property
    def required(self) -> set[str]:
        """Columns that a table must have."""
        return {
            self.columns.get("item_id", "item_id"),
            *self.columns.values(),
            *self.vectors.values(),
            *self.texts.values(),
        }

    def item(self, row: Row) -> TitledItem:
        """Raises `CellError`."""
        cell = _Cells(row, self.columns)
        features = {
            name: to_feature(column, row.get(column), self.encoders.get(name, name), self.dtype)
            for name, column in self.vectors.items()
        }
        content = {
            name: _content(column, row[column])
            for name, column in self.texts.items()
            if not is_missing(row.get(column))
        }
        revision, time_ms = to_count(*cell("revision")), to_time_ms(*cell("event_time_ms"), self.unit_ms)
        try:
            item = NewItem(
                item_id=to_id(*cell("item_id")),
                revision=1 if revision is None else revision,
                event_time_ms=0 if time_ms is None else time_ms,
                features={name: feature for name, feature in features.items() if feature is not None},
                content=content,
                neighbors=_ids(*cell("neighbors")),
            )
        except ValidationError as error:
            raise cell.error(error) from None
        title = cell("title")[1]
        return TitledItem(item, None if is_missing(title) else str(title))


@dataclass(frozen=True, slots=True)
class EventRows:
    """Makes events of rows. `user_id`, `item_id`, `event_time_ms` and the type have to be there."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """The column of each of `EVENT_FIELDS` that is not called so."""
    event_type: str | None = None
    """Type of all events, instead of a column."""
    unit_ms: float = TIME_UNITS["ms"]

    @property
    def required(self) -> set[str]:
        """Columns that a table must have."""
        fields = {"user_id", "item_id", "event_time_ms", *self.columns}
        fields |= set() if self.event_type else {"event_type"}
        return {self.columns.get(name, name) for name in fields}

    def event(self, row: Row) -> UserEvent:
        """Raises `CellError`."""
        cell = _Cells(row, self.columns)
        time_ms = to_time_ms(*cell("event_time_ms"), self.unit_ms)
        if time_ms is None:
            raise CellError(cell("event_time_ms")[0], "is missing")
        user_id, item_id = to_id(*cell("user_id")), to_id(*cell("item_id"))
        kind = self.event_type or to_id(*cell("event_type"))
        value = to_number(*cell("value"))
        own_id = cell("event_id")
        try:
            return UserEvent(
                event_id=event_id(user_id, item_id, kind, time_ms, value) if is_missing(own_id[1]) else to_id(*own_id),
                user_id=user_id,
                item_id=item_id,
                event_type=kind,
                event_time_ms=time_ms,
                value=value,
            )
        except ValidationError as error:
            raise cell.error(error) from None


@dataclass(frozen=True, slots=True)
class MappedRows:
    """Makes items and events of rows as a mapping file says it, which is the same as for topics."""

    file: MappingFile

    required: Set[str] = frozenset()
    """A row lacks what it lacks: the mapping says what has to be there."""

    def item(self, row: Row) -> TitledItem | None:
        """None where the mapping leaves the row out, or where it deletes. Raises `CellError`."""
        mapping = self.file.for_items("--mapping")
        try:
            document, is_deleted = self._document(row)
            if document is None:
                return None
            found = mapping.read(document, is_deleted=is_deleted)
            if not isinstance(found, dict):
                return None
            title = None if mapping.title is None else mapping.title.read(document)
            return TitledItem(mapping.item(found), title)
        except SchemaError as error:
            raise CellError("", str(error)) from None

    def event(self, row: Row) -> UserEvent | None:
        """The same for events."""
        mapping = self.file.for_events("--mapping")
        try:
            document, is_deleted = self._document(row)
            if document is None or is_deleted:
                return None
            found = mapping.read(document)
            return mapping.event(found) if isinstance(found, dict) else None
        except SchemaError as error:
            raise CellError("", str(error)) from None

    def _document(self, row: Row) -> tuple[Document | None, bool]:
        try:
            opened = OPENERS[self.file.envelope](b"", None, lambda data: dict(row))
        except MisfitError as problem:
            raise CellError("", f"{problem} ({self.file.path.name})") from None
        return None if opened.root is None else Document(opened.root), opened.is_deleted


@dataclass(frozen=True, slots=True)
class _Cells:
    """The cells of a row by field."""

    row: Row
    columns: Mapping[str, str]

    def __call__(self, field: str) -> tuple[str, Any]:
        """Name of the column, and what it holds."""
        column = self.columns.get(field, field)
        return column, self.row.get(column)

    def error(self, error: ValidationError) -> CellError:
        first = error.errors(include_url=False)[0]
        field = str(first["loc"][0])
        return CellError(self.columns.get(field, field), first["msg"].removeprefix("Input "))


def _ids(column: str, value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise CellError(column, "should be a list of ids")
    return tuple(to_id(column, each) for each in value)


def _content(column: str, value: Any) -> Content:
    if not isinstance(value, str):
        raise CellError(column, f"should be text, got {type(value).__name__}")
    try:
        return Content(text=value)
    except ValidationError as error:
        raise CellError(column, error.errors()[0]["msg"]) from None
