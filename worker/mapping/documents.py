"""A record as a mapping sees it: its value as an object, and around it what the record says besides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from worker.mapping.positions import position_of
from worker.mapping.problem import MisfitError
from worker.records import Record

KeyReader = Callable[[bytes], Any]
"""Decode a key. Raises `MisfitError`."""


def text_key(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise MisfitError("the record's key is not UTF-8") from None


class Document:
    """The object that paths begin in. Of a row in a file there is no record."""

    __slots__ = ("_key", "_read_key", "record", "root")

    def __init__(
        self, root: dict[str, Any], record: Record | None = None, read_key: KeyReader = text_key, key: Any = None
    ) -> None:
        """`key`: what the key holds, where that is known already."""
        self.root = root
        self.record = record
        self._read_key = read_key
        self._key = key

    @property
    def key(self) -> Any:
        """The record's key, decoded; None without one."""
        if self._key is None and self.record is not None and self.record.key is not None:
            self._key = self._read_key(self.record.key)
        return self._key

    def header(self, name: str) -> str | None:
        """The last header of that name, as text."""
        found = None
        for each, value in () if self.record is None else self.record.headers:
            if each == name and value is not None:
                found = value
        if found is None:
            return None
        try:
            return found.decode()
        except UnicodeDecodeError:
            raise MisfitError("the header is not UTF-8") from None


def _timestamp(document: Document) -> int | None:
    """A record without a time has -1."""
    record = document.record
    return record.timestamp if record is not None and record.timestamp >= 0 else None


def _offset(document: Document) -> int | None:
    return None if document.record is None else document.record.offset


def _partition(document: Document) -> int | None:
    return None if document.record is None else document.record.partition


def _topic(document: Document) -> str | None:
    return None if document.record is None else document.record.topic


def _position(document: Document) -> int:
    return position_of(document.root.get("source"))


VARIABLES: Mapping[str, Callable[[Document], Any]] = {
    "timestamp": _timestamp,
    "offset": _offset,
    "partition": _partition,
    "topic": _topic,
    "key": lambda document: document.key,
    "header": lambda document: None,  # of that, always one by name
    "position": _position,
}
"""Facts about a record beside its value."""
