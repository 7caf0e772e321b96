"""Where published vectors and events are read: topics, to their present end, or files."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, Protocol, TypeVar

from schemas import ItemVector, Message, SchemaError, UserEvent, UserVector, decode, decode_vector, encode
from worker.data.files import read_events, read_item_vectors, read_user_vectors, write_encoded
from worker.data.progress import counted
from worker.item_vectors.order import Version, is_newer
from worker.item_vectors.source_offset import of_deletion
from worker.kafka.port import ClientPort
from worker.kafka.whole_topic import describe, read_whole
from worker.mapping.source import EventSource
from worker.records import Record
from worker.settings import TopicSettings

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Gone(NamedTuple):
    """The item has been deleted."""

    item_id: str
    source_offset: int | None
    partition: int = 0
    at_ms: int = 0
    """When that was written."""


class Placed(NamedTuple):
    """An item vector, and the partition that it lies in."""

    vector: ItemVector
    partition: int


class Unreadable(NamedTuple):
    """A record that is not what its topic is for."""

    detail: str


class Source(Protocol):
    """Each is read once, from the beginning. Of `users` only, where that is not None."""

    def item_vectors(self) -> Iterator[ItemVector | Placed | Gone | Unreadable]: ...
    def user_vectors(self, users: Collection[str] | None) -> Iterator[UserVector | Unreadable]: ...
    def events(self, users: Collection[str] | None) -> Iterator[UserEvent | Unreadable]: ...


@dataclass(frozen=True, slots=True)
class Files:
    """Files of messages of the wire contract. Raises `DataError` for one that is broken."""

    item_files: Sequence[Path]
    user_files: Sequence[Path] = ()
    event_files: Sequence[Path] = ()

    def item_vectors(self) -> Iterator[ItemVector]:
        return _all(read_item_vectors, self.item_files, "item vectors")

    def user_vectors(self, users: Collection[str] | None) -> Iterator[UserVector]:
        vectors = _all(read_user_vectors, self.user_files, "user vectors")
        return (vector for vector in vectors if users is None or vector.user_id in users)

    def events(self, users: Collection[str] | None) -> Iterator[UserEvent]:
        events = _all(read_events, self.event_files, "events")
        return (event for event in events if users is None or event.user_id in users)


@dataclass(frozen=True, slots=True)
class Topics:
    """Raises `TopicError` for one that does not exist."""

    client: ClientPort
    names: TopicSettings
    foreign_events: EventSource | None = None
    """Reads the events where they are no messages of the contract."""

    def item_vectors(self) -> Iterator[Placed | Gone | Unreadable]:
        return map(_item_vector, self._records("item_vectors"))

    def user_vectors(self, users: Collection[str] | None) -> Iterator[UserVector | Unreadable]:
        return (_decoded(UserVector, record) for record in self._of(users, "user_vectors"))

    def events(self, users: Collection[str] | None) -> Iterator[UserEvent | Unreadable]:
        if self.foreign_events is None:
            return (_decoded(UserEvent, record) for record in self._of(users, "events"))
        found = self._foreign_events(self.foreign_events)
        return (each for each in found if isinstance(each, Unreadable) or users is None or each.user_id in users)

    def _foreign_events(self, source: EventSource) -> Iterator[UserEvent | Unreadable]:
        """Without those that the mapping leaves out."""
        for record in self._records("events"):
            try:
                _, event = source.read_in_place(record)
            except SchemaError as error:
                yield Unreadable(f"{_place(record)}: {error}")
            else:
                if isinstance(event, UserEvent):
                    yield event

    def save(self, directory: Path) -> Files:
        """The newest vector of each item and user, and all events, as files. What is unreadable is left out, and so is
        a topic of the users where there is none."""
        items: Newest[bytes] = Newest()
        for record in self._records("item_vectors"):
            match _item_vector(record):
                case Placed(vector, partition):
                    items.take(vector.item_id, version_of(vector, partition), record.value)
                case Gone() as gone:
                    items.take(gone.item_id, version_of(gone), None)
        saved = {"item_vectors": _written(directory, "item_vectors", (value for _, value in items))}
        if self._exists("user_vectors"):
            users: dict[str, tuple[int, bytes]] = {}
            for record in self._records("user_vectors"):
                user = _decoded(UserVector, record)
                if isinstance(user, UserVector) and user.produced_at_ms >= users.get(user.user_id, (-1, b""))[0]:
                    users[user.user_id] = user.produced_at_ms, record.value or b""
            saved["user_vectors"] = _written(directory, "user_vectors", (value for _, value in users.values()))
        if self._exists("events"):
            readable = (encode(each) for each in self.events(None) if isinstance(each, UserEvent))
            saved["events"] = _written(directory, "events", readable)
        return Files(*([saved[name]] if name in saved else [] for name in ("item_vectors", "user_vectors", "events")))

    def _exists(self, name: str) -> bool:
        return describe(self.client, getattr(self.names, name)) is not None

    def _of(self, users: Collection[str] | None, name: str) -> Iterator[Record]:
        """By key, which is the user, so that what others did need not be decoded."""
        keys = None if users is None else {user.encode() for user in users}
        return (record for record in self._records(name) if keys is None or record.key in keys)

    def _records(self, name: str) -> Iterator[Record]:
        return counted(read_whole(self.client, getattr(self.names, name), f"topics.{name}"), name.replace("_", " "))


class Newest(Generic[T]):
    """The newest record of each item: the order of schemas/README.md, whatever the order of arrival."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Version, T | None]] = {}
        self.num_astray = 0
        """Records of an item in another partition than the one before."""

    def take(self, item_id: str, version: Version, value: T | None) -> None:
        """None: the item is gone."""
        known = self._known.get(item_id)
        if known is not None:
            self.num_astray += version.partition != known[0].partition
            if version.source_offset is None and version.partition == known[0].partition:
                version = version._replace(source_offset=known[0].source_offset)
            if not is_newer(version, known[0]):
                return
        self._known[item_id] = version, value

    def __iter__(self) -> Iterator[tuple[str, T]]:
        """Items that are there, by id."""
        for item_id in sorted(self._known):
            _, value = self._known[item_id]
            if value is not None:
                yield item_id, value


def _written(directory: Path, name: str, values: Iterable[bytes]) -> Path:
    path = directory / f"{name.replace('_', '-')}.msgpack"
    write_encoded(path, values)
    return path


def _all(read: Callable[[Path], Iterator[M]], paths: Iterable[Path], name: str) -> Iterator[M]:
    return counted((message for path in paths for message in read(path)), name)


def version_of(found: ItemVector | Gone, partition: int = 0) -> Version:
    """The order that decides whether it is the newest of its item."""
    if isinstance(found, Gone):
        return Version(found.source_offset, found.partition, made_at_ms=found.at_ms)
    return Version(found.source_offset, partition, found.revision, found.produced_at_ms)


def _item_vector(record: Record) -> Placed | Gone | Unreadable:
    if record.value is not None:
        vector = _decoded(ItemVector, record)
        return vector if isinstance(vector, Unreadable) else Placed(vector, record.partition)
    try:
        return Gone((record.key or b"").decode(), of_deletion(record), record.partition, record.timestamp)
    except ValueError as error:
        return Unreadable(f"{_place(record)}: {error}")


def _decoded(kind: type[M], record: Record) -> M | Unreadable:
    if record.value is None:
        return Unreadable(f"{_place(record)}: it has no value")
    try:
        message = _message(kind, record.value)
    except SchemaError as error:
        return Unreadable(f"{_place(record)}: {error}")
    if message.key != record.key:  # type: ignore[attr-defined]  # the three that are read have one
        return Unreadable(f"{_place(record)}: its key is not the id in the message")
    return message


def _message(kind: type[M], value: bytes) -> M:
    if kind is ItemVector or kind is UserVector:
        return decode_vector(kind, value)  # type: ignore[type-var]  # it is one of the two
    return decode(kind, value)


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition} offset {record.offset}"
