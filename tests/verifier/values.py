"""What the verifier looks at, as plain values, and the order among the inputs of a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, NamedTuple

Position = tuple[int, int]
"""Partition and offset."""


class Kind(StrEnum):
    UPSERT = "upsert"
    DELETE = "delete"
    UNREADABLE = "unreadable"
    """An input that can only be dead-lettered."""


class Input(NamedTuple):
    """A record of the items topic."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    kind: Kind
    revision: int = 0
    """Of an upsert."""
    digest: bytes = b""
    """Of the value; empty for none."""
    has_neighbors: bool = False
    """Of an upsert: it may be computed anew when a neighbour comes, changes or goes."""
    attributes: Mapping[str, Any] = {}
    """Of an upsert."""

    @property
    def position(self) -> Position:
        return self.partition, self.offset

    def __str__(self) -> str:
        return f"input {self.partition}/{self.offset} (key {self.key!r}, {_described(self)})"


class Output(NamedTuple):
    """A record of the item-vectors topic."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    kind: Kind
    source_offset: int | None
    """Of the input it was made from, in the partition of the same number."""
    revision: int = 0
    space_id: str = ""
    dims: int = 0
    digest: bytes = b""
    """Of the vector's bytes."""
    problem: str = ""
    """What is wrong with the record by itself."""
    attributes: Mapping[str, Any] = {}

    def __str__(self) -> str:
        return f"output {self.partition}/{self.offset} (key {self.key!r}, {_described(self)})"


class Letter(NamedTuple):
    """A record of the dead-letters topic, and the input it keeps."""

    partition: int
    offset: int
    topic: str
    source: Position
    timestamp: int
    key: bytes | None
    digest: bytes
    reason: str
    problem: str = ""
    """Why it cannot be read."""

    def __str__(self) -> str:
        return f"dead letter {self.partition}/{self.offset} (key {self.key!r}, {self.reason})"


class Rank(NamedTuple):
    """Where an input stands among those of its key: the newest is the largest."""

    life: int
    revision: int
    offset: int


def ranked(accepted: Iterable[Input]) -> Iterator[tuple[Rank, Input]]:
    """The accepted inputs of one key, in offset order, with their ranks."""
    life = 0
    for input_ in accepted:
        is_delete = input_.kind is Kind.DELETE
        life += is_delete
        yield Rank(life, -1 if is_delete else input_.revision, input_.offset), input_


def _described(record: Input | Output) -> str:
    return f"revision {record.revision}" if record.kind is Kind.UPSERT else str(record.kind)
