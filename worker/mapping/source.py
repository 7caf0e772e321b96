"""A topic of other people, as items or events: format, envelope and mapping put together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgpack

from schemas import DEFAULT_LIMITS, NewItem, Reason, SchemaError, UserEvent
from worker.errors import ConfigError
from worker.mapping.documents import Document, KeyReader, text_key
from worker.mapping.envelopes import OPENERS, EnvelopeName, Open, Parse, around_key, without_schema
from worker.mapping.events import EventMapping
from worker.mapping.file import KeyFormat, MappingFile, read_mapping
from worker.mapping.formats import make_parser
from worker.mapping.items import Deletion, Fields, ItemMapping, Skipped
from worker.mapping.problem import MisfitError, shown
from worker.mapping.registry import Registry
from worker.mapping.values import to_id
from worker.printable import shortened
from worker.records import KeyedRecord, Record
from worker.settings import FormatName

M = TypeVar("M", ItemMapping, EventMapping)
_ID_CHARS = 80
RELAY = "send the topic through `align-worker relay`, which writes it anew by its id"


@dataclass(frozen=True, slots=True)
class _Reader(Generic[M]):
    """Common part of the readers of items and events."""

    mapping: M
    file: Path
    setting: str
    """Name of the setting that names the format, as `input.items`."""
    format: FormatName
    envelope: EnvelopeName
    open: Open
    parse: Parse
    read_key: KeyReader

    def packed(self, fields: Fields) -> bytes:
        """The bytes of the message that has these fields, which has been found valid: those of `schemas.encode`."""
        try:
            data: bytes = msgpack.packb(fields)
        except UnicodeEncodeError:
            raise SchemaError(Reason.INVALID_FIELD, "", "a string has characters that UTF-8 cannot hold") from None
        if len(data) > DEFAULT_LIMITS.message_bytes:
            raise SchemaError(
                Reason.TOO_LARGE,
                "",
                f"the message has {len(data)} bytes, the limit is {DEFAULT_LIMITS.message_bytes} ({self.file.name})",
            )
        return data

    def _document(self, record: Record, value: bytes) -> tuple[Document | None, bool, bool]:
        """Open the envelope: the document that paths begin in, if any; whether it is a delete; whether it is no change
        at all."""
        try:
            opened = self.open(value, record, self.parse)
        except MisfitError as problem:
            raise self._error("value", problem, self.format) from None
        if opened.root is None:
            return None, opened.is_deleted, opened.is_skipped
        return Document(opened.root, record, self.read_key), opened.is_deleted, opened.is_skipped

    def _error(self, field: str, problem: MisfitError, format_name: str, reason: Reason | None = None) -> SchemaError:
        told = f"{problem} ({self.file.name}; {self.setting}.format={format_name})"
        return SchemaError(reason or problem.reason, field, told)

    def _key_id(self, record: Record, field: Any) -> str:
        """The id that the record's key holds, in which the field's path is followed where it is an object."""
        if record.key is None:
            raise SchemaError(Reason.KEY_MISMATCH, "key", f"the record has none ({self.file.name})")
        try:
            key = self.read_key(record.key)
            if type(key) is dict:
                around = Document(around_key(self.envelope, key), record, self.read_key, key=key)
                found = field.convert(field.expression.get(around))
            elif isinstance(key, list):
                raise MisfitError(f"should be an id or an object, got {shown(key)}")
            else:
                found = to_id(key)
        except MisfitError as problem:
            raise self._error("key", problem, self.format, Reason.KEY_MISMATCH) from None
        if found is None:
            raise SchemaError(
                Reason.KEY_MISMATCH, "key", f"does not hold the {field.name} ({field.place}: {field.expression.text})"
            )
        return str(found)

    def _keyed(self, record: Record, own_id: str, field: Any) -> Record:
        """The record under the id that its key holds. Raises `SchemaError` where that is another one."""
        wanted = own_id.encode()
        if record.key == wanted:
            return record
        shown_id = repr(shortened(own_id, _ID_CHARS))
        if record.key is None:
            raise SchemaError(
                Reason.KEY_MISMATCH, "key", f"the record has none, and is of {shown_id} ({field.place}): {RELAY}"
            )
        if self.read_key is text_key:
            raise SchemaError(
                Reason.KEY_MISMATCH,
                "key",
                f"should be the {field.name} {shown_id} in UTF-8 ({field.place}); if keys are written in another way, "
                f"key: says how; if they are of something else, {RELAY}",
            )
        if self._key_id(record, field) != own_id:
            raise SchemaError(
                Reason.KEY_MISMATCH,
                "key",
                f"holds another {field.name} than the value, which is of {shown_id} ({field.place}): {RELAY}",
            )
        return KeyedRecord(
            record.topic,
            record.partition,
            record.offset,
            record.timestamp,
            wanted,
            record.value,
            record.headers,
            record,
        )


class ItemSource(_Reader[ItemMapping]):
    """Reads items. For one thread."""

    def read(self, record: Record) -> Fields | Deletion | Skipped:
        """Decode a record, wherever its data lies. Raises `SchemaError`."""
        if record.value is None:
            return Deletion(self._key_id(record, self.mapping.item_id))
        document, is_deleted, is_skipped = self._document(record, record.value)
        if is_skipped:
            return Skipped()
        if document is None:
            return Deletion(self._key_id(record, self.mapping.item_id))
        return self.mapping.read(document, is_deleted=is_deleted)

    def deleted_by(self, record: Record) -> tuple[Record, Deletion]:
        """Decode a record without a value; returns the record under the id that its key holds, too."""
        item_id = self._key_id(record, self.mapping.item_id)
        return self._keyed(record, item_id, self.mapping.item_id), Deletion(item_id)

    def read_in_place(self, record: Record) -> tuple[Record, NewItem | Deletion | Skipped]:
        """The same of a record that lies in the partition of its item: under the item's id, and whole."""
        found = self.read(record)
        if isinstance(found, Skipped):
            return record, found
        if isinstance(found, Deletion):
            return self._keyed(record, found.item_id, self.mapping.item_id), found
        item = self.mapping.item(found)
        return self._keyed(record, item.item_id, self.mapping.item_id), item


class EventSource(_Reader[EventMapping]):
    """Reads events. For one thread."""

    def read(self, record: Record) -> Fields | Skipped:
        """Decode a record, wherever its data lies. Raises `SchemaError`."""
        if record.value is None:
            return self._deleted()
        document, is_deleted, is_skipped = self._document(record, record.value)
        if is_skipped:
            return Skipped()
        if document is None or is_deleted:
            return self._deleted()
        return self.mapping.read(document)

    def _deleted(self) -> Skipped:
        if self.mapping.skips_deletes:
            return Skipped()
        raise SchemaError(
            Reason.INVALID_FIELD,
            "value",
            f"an event cannot be deleted ({self.file.name}; deletes: skip leaves such records out)",
        )

    def read_in_place(self, record: Record) -> tuple[Record, UserEvent | Skipped]:
        """The same of a record that lies in the partition of its user: under the user's id, and whole."""
        found = self.read(record)
        if isinstance(found, Skipped):
            return record, found
        event = self.mapping.event(found)
        return self._keyed(record, event.user_id, self.mapping.user_id), event


def item_source(setting: str, form: FormatName, path: Path, registry: Registry | None) -> ItemSource:
    """`setting` names the group of settings, as `input.items`. Raises `ConfigError`."""
    mapping = read_mapping(path)
    return ItemSource(mapping.for_items(f"{setting}.mapping"), *_parts(setting, form, mapping, registry))


def event_source(setting: str, form: FormatName, path: Path, registry: Registry | None) -> EventSource:
    """The same for events."""
    mapping = read_mapping(path)
    return EventSource(mapping.for_events(f"{setting}.mapping"), *_parts(setting, form, mapping, registry))


def _parts(
    setting: str, form: FormatName, mapping: MappingFile, registry: Registry | None
) -> tuple[Path, str, FormatName, EnvelopeName, Open, Parse, KeyReader]:
    parse = make_parser(form, registry, f"{setting}.format")
    key = _key_reader(mapping, form, parse, registry)
    return mapping.path, setting, form, mapping.envelope, OPENERS[mapping.envelope], parse, key


def _key_reader(mapping: MappingFile, form: FormatName, parse: Parse, registry: Registry | None) -> KeyReader:
    """Debezium writes keys as it writes values."""
    if mapping.key is None:
        if mapping.envelope != "debezium":
            return text_key
        reader = parse
    elif mapping.key == "text":
        return text_key
    elif mapping.key == form:
        reader = parse
    else:
        reader = _other(mapping.key, mapping, registry)
    return lambda key: without_schema(reader(key))


def _other(key: KeyFormat, mapping: MappingFile, registry: Registry | None) -> Parse:
    assert key != "text"
    try:
        return make_parser(key, registry, "key")
    except ConfigError as error:
        raise ConfigError(f"the mapping file {mapping.path}: {error}") from None
