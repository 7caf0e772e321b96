"""Published vectors of a space, ready to be searched.

I items   D dim of the space
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas import AttributeValue, ItemVector, UserEvent, UserVector
from worker.align.history import Event, merged
from worker.errors import DataError
from worker.recommend.sources import Gone, Newest, Placed, Unreadable, version_of

NUM_LATEST = 5
"""Events of a user that are shown."""


@dataclass(slots=True)
class LeftOut:
    """Counts of what was read and cannot be used."""

    other_spaces: Counter[str] = field(default_factory=Counter)
    """Vectors by the space that they are of."""
    astray: int = 0
    """Records of items that have others in another partition."""
    unreadable: int = 0
    first_unreadable: str = ""

    def readable(
        self, read: Iterable[ItemVector | Placed | UserVector | UserEvent | Gone | Unreadable]
    ) -> Iterator[object]:
        """The rest, while what is unreadable is counted."""
        for each in read:
            if isinstance(each, Unreadable):
                self.unreadable += 1
                self.first_unreadable = self.first_unreadable or each.detail
            else:
                yield each


class _Row(NamedTuple):
    """The part of an item vector that is kept while others are read: a tenth of the message."""

    space_id: str
    vector: NDArray[np.float32]
    prior: float
    modalities: tuple[str, ...]
    alone: Mapping[str, NDArray[np.float32]]
    codes: tuple[str, tuple[int, ...]] | None = None
    """With the id of the codebooks."""


@dataclass(frozen=True, slots=True)
class PublishedItems:
    """The newest vectors of all items of one space, in the order of their ids."""

    space_id: str
    item_ids: Sequence[str]
    vectors_ID: Tensor
    priors_I: Tensor
    """0 where an item has none."""
    modalities: Sequence[tuple[str, ...]]
    alone: Mapping[str, Tensor]
    """By modality `[I, D]`, of those that were asked for: the vector of that modality alone; zeros where an item has
    none."""
    left_out: LeftOut
    rows: Mapping[str, int]
    """By item id."""
    codes: Sequence[tuple[str, tuple[int, ...]] | None] = ()
    """Of each item the id of the codebooks and its codes by them; None: it has none."""
    attributes: Sequence[Mapping[str, AttributeValue]] = ()
    """Of each item, where they come from an index."""

    def has(self, modality: str) -> Tensor:
        """`[I]`: which items have a vector of that modality alone."""
        return (self.alone[modality] != 0).any(1)


def collect_items(
    read: Iterable[ItemVector | Placed | Gone | Unreadable],
    space_id: str | None = None,
    alone: Collection[str] = (),
    device: str = "cpu",
) -> PublishedItems:
    """The items of a space; without an id, that which most of the items are of.

    `alone` names the modalities whose own vectors are kept. Raises `DataError` if there is no vector of the space.
    """
    left_out, newest, names = LeftOut(), Newest[_Row](), dict[tuple[str, ...], tuple[str, ...]]()
    for each in left_out.readable(read):
        partition = 0
        if isinstance(each, Placed):
            each, partition = each
        if isinstance(each, Gone):
            newest.take(each.item_id, version_of(each), None)
        elif isinstance(each, ItemVector):
            if space_id is not None and each.space_id != space_id:
                left_out.other_spaces[each.space_id] += 1
                continue
            modalities = names.setdefault(each.modalities, each.modalities)
            mine = {name: vector.to_numpy() for name, vector in (each.modality_vectors or {}).items() if name in alone}
            row = _Row(each.space_id, each.vector.to_numpy(), each.prior or 0.0, modalities, mine, _codes_of(each))
            newest.take(each.item_id, version_of(each, partition), row)
    left_out.astray = newest.num_astray
    spaces = Counter(row.space_id for _, row in newest)
    chosen = space_id or next((name for name, _ in spaces.most_common(1)), None)
    rows = {item_id: row for item_id, row in newest if row.space_id == chosen}
    if chosen is None or not rows:
        other = f"; there are {sum(left_out.other_spaces.values())} of other spaces" if left_out.other_spaces else ""
        raise DataError(f"there is no item vector{f' of space {space_id}' if space_id else ''}{other}")
    left_out.other_spaces.update({name: count for name, count in spaces.items() if name != chosen})
    dim = Counter(len(row.vector) for row in rows.values()).most_common(1)[0][0]
    for item_id in [item_id for item_id, row in rows.items() if _has_other_dims(row, dim)]:
        del rows[item_id]
        left_out.unreadable += 1
        left_out.first_unreadable = left_out.first_unreadable or f"item {item_id!r}: not a vector of {dim} elements"
    vectors_ID = _stacked([row.vector for row in rows.values()], dim, device)
    return PublishedItems(
        space_id=chosen,
        item_ids=list(rows),
        vectors_ID=vectors_ID,
        priors_I=torch.tensor([row.prior for row in rows.values()], dtype=torch.float32, device=device),
        modalities=[row.modalities for row in rows.values()],
        alone={
            name: _stacked([row.alone.get(name, np.zeros(dim, np.float32)) for row in rows.values()], dim, device)
            for name in alone
        },
        left_out=left_out,
        rows={item_id: number for number, item_id in enumerate(rows)},
        codes=[row.codes for row in rows.values()],
    )


def _codes_of(vector: ItemVector) -> tuple[str, tuple[int, ...]] | None:
    return None if vector.codes is None or vector.code_space_id is None else (vector.code_space_id, vector.codes)


def _has_other_dims(row: _Row, dim: int) -> bool:
    return any(vector.shape != (dim,) for vector in (row.vector, *row.alone.values()))


def _stacked(vectors: Sequence[NDArray[np.float32]], dim: int, device: str) -> Tensor:
    """float32, whatever they come as, without a second copy of all of them."""
    stacked = np.empty((len(vectors), dim), np.float32)
    for row, vector in enumerate(vectors):
        stacked[row] = vector
    return torch.from_numpy(stacked).to(device)


class PublishedUser(NamedTuple):
    """The last vector of a user."""

    vector: NDArray[np.float32]
    num_events: int
    event_time_ms: int


def collect_users(
    read: Iterable[UserVector | Unreadable], space_id: str, dim: int, left_out: LeftOut
) -> dict[str, PublishedUser]:
    """By user id; of several vectors of a user the one produced last, of equal ones the last that is read."""
    users: dict[str, PublishedUser] = {}
    produced_at_ms: dict[str, int] = {}
    for each in left_out.readable(read):
        if isinstance(each, UserVector):
            if each.space_id != space_id or each.vector.shape != (dim,):
                left_out.other_spaces[each.space_id] += 1
            else:
                vector = each.vector.to_numpy().astype(np.float32)
                if each.produced_at_ms >= produced_at_ms.get(each.user_id, -1):
                    produced_at_ms[each.user_id] = each.produced_at_ms
                    users[each.user_id] = PublishedUser(vector, each.num_events, each.event_time_ms)
    return users


@dataclass(slots=True)
class Activity:
    """Events of a user."""

    items: set[str] = field(default_factory=set)
    latest: list[Event] = field(default_factory=list)
    """The newest events, in order of time."""


def collect_activity(read: Iterable[UserEvent | Unreadable], left_out: LeftOut) -> dict[str, Activity]:
    """By user id. Every event counts, whatever its type: who disliked an item has seen it."""
    users: dict[str, Activity] = {}
    for each in left_out.readable(read):
        if isinstance(each, UserEvent):
            activity = users.setdefault(each.user_id, Activity())
            activity.items.add(each.item_id)
            event = Event(each.event_time_ms, each.event_id, each.item_id, each.event_type)
            activity.latest = merged(activity.latest, [event], NUM_LATEST)
    return users
