"""From files of items and of events to one dataset.

Items and users are in the order of their ids, events in that of time. Messages of an item add up by the law of the
stream (`worker/state/items.py`), the files in the order given standing for the log; the result depends on that order
only where two messages of an item claim the same revision.
"""

from __future__ import annotations

import os
import tempfile
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from schemas import AnyFeature, NewItem, UserEvent, judge, time_problem
from schemas.times import SECONDS_FROM, SECONDS_TO
from worker.data.dataset import Bools, Dataset, Features, Floats, Interactions, Ints, fingerprint_of
from worker.data.files import read_events, read_items
from worker.data.progress import counted
from worker.errors import ConfigError, DataError
from worker.state.items import NONE, ItemState, merged

MAX_FUTURE_MS = 3_600_000
"""How far ahead of the clock an event may be, as for a worker."""
CHUNK_ITEMS = 256
MAPPED_FROM = 1 << 28
"""Bytes of the vectors of a modality that lie in a file from here on."""
MAX_WEIGHT = 1e6  # of an event; sums of weights stay exact enough in float32


@dataclass(slots=True)
class LeftOut:
    """Counts of messages that were read and are not in the dataset."""

    superseded: int = 0
    """Item messages of which newer ones leave nothing, or that brought nothing."""
    unencoded: Counter[str] = field(default_factory=Counter)
    """By modality, items that bring raw content and no vector of it: only vectors can be learnt from."""
    uninformative: Counter[str] = field(default_factory=Counter)
    """By modality, features of which a vector, or all, say nothing: zeros, or one value throughout."""
    duplicates: int = 0
    """Events whose id had been read."""
    unknown_items: int = 0
    """Events with an item that the catalogue lacks."""
    future: int = 0
    """Events whose time has not come yet: in a split by time they would be all that is asked."""
    unweighted: Counter[str] = field(default_factory=Counter)
    """By type, events that say nothing of taste, for want of a weight or with weight 0."""


class Version(NamedTuple):
    """Which message made an item what it is: a part with the same revision adds to it and changes nothing."""

    revision: int
    event_time_ms: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """A dataset, and what its files held besides."""

    dataset: Dataset
    versions: Sequence[Version]
    """`[I]`, of the items."""
    left_out: LeftOut


def load_dataset(item_files: Sequence[Path], event_files: Sequence[Path], event_weights: Mapping[str, float]) -> Loaded:
    """Read a catalogue and its events, with progress bars on a terminal.

    `event_weights` says what an event is worth, by type. Of each item the newest revision counts, of each event id one
    event: of several, the latest, as in a worker's histories. Events with unknown items and of types without a weight
    are left out.
    """
    return assemble(
        counted((item for path in item_files for item in read_items(path)), "items"),
        counted((event for path in event_files for event in read_events(path)), "events"),
        event_weights,
    )


def assemble(items: Iterable[NewItem], events: Iterable[UserEvent], event_weights: Mapping[str, float]) -> Loaded:
    """`load_dataset` of messages, wherever they come from."""
    for name, weight in event_weights.items():
        if not abs(weight) <= MAX_WEIGHT:
            raise ConfigError(
                f"event weights: {name}={weight}: expected a number from -{MAX_WEIGHT:g} to {MAX_WEIGHT:g}"
            )
    left_out = LeftOut()
    states = _merged(items, left_out)
    if not states:
        raise DataError("there are no items in the files")
    item_ids = sorted(states)
    catalogue = [states[item_id] for item_id in item_ids]
    index = {item_id: number for number, item_id in enumerate(item_ids)}
    user_ids, interactions = _interactions(events, index, event_weights, left_out)
    features = _features(item_ids, catalogue)
    named = [item.neighbors.ids if item.neighbors else () for item in catalogue]
    neighbors = [tuple(index[other] for other in ids if other in index) for ids in named]
    fingerprint = fingerprint_of(item_ids, user_ids, features, interactions, neighbors)
    versions = [Version(item.revision, item.event_time_ms) for item in catalogue]
    return Loaded(Dataset(item_ids, user_ids, features, interactions, neighbors, fingerprint), versions, left_out)


# ---------------------------------------------------------------------- items


def _merged(items: Iterable[NewItem], left_out: LeftOut) -> dict[str, ItemState]:
    """The items as their messages leave them, by id."""
    states: dict[str, ItemState] = {}
    num_read = 0
    for place, message in enumerate(_informative(items, left_out)):
        num_read += 1
        left_out.unencoded.update(message.content.keys() - message.features.keys())
        if state := merged(states.get(message.item_id), message, place):
            states[message.item_id] = state
    left_out.superseded = num_read - sum(map(_num_messages, states.values()))
    # Of attributes alone a worker makes no vector, and they say nothing to learn from.
    return {
        item_id: item for item_id, item in states.items() if item.parts or item.neighbors or item.whole_revision != NONE
    }


def _informative(items: Iterable[NewItem], left_out: LeftOut) -> Iterator[NewItem]:
    """The messages without features that say nothing. Raises `DataError` for one that cannot be computed with."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK_ITEMS)):
        judged = judge([message.features for message in chunk])
        for index, message in enumerate(chunk):
            if (found := judged.get(index)) is None:
                yield message
                continue
            if found.too_large is not None:
                raise DataError(f"item {message.item_id!r}: {found.problem()}")
            left_out.uninformative.update(found.dropped)
            if message.partial and not (found.features or message.neighbors or message.attributes):
                continue  # a worker takes no news from it either
            yield message.model_copy(update={"features": found.features})


def _num_messages(item: ItemState) -> int:
    """The messages that an item is made of; those of one revision count as one."""
    revisions = {part.revision for part in item.parts.values()} | {item.whole_revision, item.revision}
    revisions |= {attribute.revision for attribute in item.attributes.values()}
    return len((revisions | {item.neighbors.revision} if item.neighbors else revisions) - {NONE})


def _features(item_ids: Sequence[str], catalogue: Sequence[ItemState]) -> dict[str, Features]:
    names = sorted({name for item in catalogue for name in item.parts})
    return {name: _modality(name, item_ids, catalogue) for name in names}


def _modality(name: str, item_ids: Sequence[str], catalogue: Sequence[ItemState]) -> Features:
    found = [
        (item_id, item.parts[name].feature)
        for item_id, item in zip(item_ids, catalogue, strict=True)
        if name in item.parts
    ]
    first_id, first = found[0]
    for item_id, feature in found:
        if (feature.encoder, feature.dims) != (first.encoder, first.dims):
            raise DataError(
                f"features.{name}: item {first_id!r} has {_kind(first)}, item {item_id!r} has {_kind(feature)}; "
                "vectors can only be compared if one encoder made them"
            )
    counts_I = np.array([item.parts[name].feature.num_vectors if name in item.parts else 0 for item in catalogue])
    starts: Ints = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts_I)])
    vectors_NK = _room_for(int(starts[-1]), first.dims)
    for start, (_, feature) in zip(starts[:-1][counts_I > 0], found, strict=True):
        vectors_NK[start : start + feature.num_vectors] = feature.to_numpy()
    return Features(first.encoder, vectors_NK, starts)


def _room_for(rows: int, dims: int) -> Floats:
    """An array to fill: a large one in a file without a name, which the kernel keeps in memory as long as there is any,
    and that is gone with the process. In memory where the temporary directory has no room for it."""
    if rows * dims * 4 >= MAPPED_FROM and hasattr(os, "posix_fallocate"):
        with suppress(OSError), tempfile.TemporaryFile(prefix="align-vectors-") as file:
            os.posix_fallocate(file.fileno(), 0, rows * dims * 4)  # a full disk would otherwise end the process later
            return np.asarray(np.memmap(file, np.float32, "r+", shape=(rows, dims)))
    return np.empty((rows, dims), np.float32)


def _kind(feature: AnyFeature) -> str:
    return f"vectors of {feature.dims} elements by encoder {feature.encoder!r}"


# ---------------------------------------------------------------------- events


class _Columns:
    """Events as columns: tens of bytes each, where millions of messages would take a hundred times that."""

    def __init__(self) -> None:
        self.users = array("q")
        self.items = array("q")
        self.times_ms = array("q")
        self.weights = array("f")
        self.id_hashes = array("q")
        self._ids = bytearray()
        self._id_ends = array("q", [0])

    def append(self, event: UserEvent, user: int, item: int, weight: float) -> None:
        self.users.append(user)
        self.items.append(item)
        self.times_ms.append(event.event_time_ms)
        self.weights.append(weight)
        self.id_hashes.append(hash(event.event_id))
        self._ids += event.event_id.encode()
        self._id_ends.append(len(self._ids))

    def id(self, row: int) -> bytes:
        return bytes(self._ids[self._id_ends[row] : self._id_ends[row + 1]])


def _interactions(
    events: Iterable[UserEvent], index: Mapping[str, int], event_weights: Mapping[str, float], left_out: LeftOut
) -> tuple[list[str], Interactions]:
    """The ids of the users and the events, in the order that they are to have."""
    columns, numbers = _Columns(), dict[str, int]()
    latest_ms = time.time() * 1000 + MAX_FUTURE_MS
    for event in events:
        weight = event_weights.get(event.event_type, 0.0)
        item = index.get(event.item_id)
        if not weight:
            left_out.unweighted[event.event_type] += 1
        elif item is None:
            left_out.unknown_items += 1
        elif event.event_time_ms > latest_ms:
            left_out.future += 1
        else:
            columns.append(event, numbers.setdefault(event.user_id, len(numbers)), item, weight)
    user_ids = sorted(numbers)
    rank = np.empty(len(user_ids), np.int64)
    rank[[numbers[user_id] for user_id in user_ids]] = np.arange(len(user_ids))
    everything = Interactions(
        rank[np.array(columns.users, np.int64)],
        np.array(columns.items, np.int64),
        np.array(columns.times_ms, np.int64),
        np.array(columns.weights, np.float32),
    )
    _refuse_seconds(everything.times_ms_E)
    once_E = _once(everything, columns)
    left_out.duplicates = int(np.count_nonzero(~once_E))
    order = _in_order(everything.times_ms_E, np.flatnonzero(once_E), columns)
    return user_ids, everything.where(order)


def _refuse_seconds(times_ms_E: Ints) -> None:
    """Refuse events whose times are in seconds: all of them, or some among others in milliseconds.

    Times that count from 0, as in a world that was made up, pass through the numbers of seconds.
    """
    known_E = times_ms_E[times_ms_E > 0]
    seconds_E = (known_E >= SECONDS_FROM) & (known_E < SECONDS_TO)
    if seconds_E.any() and known_E.min() >= SECONDS_FROM:
        problem = time_problem(int(known_E[seconds_E][0]))
        raise DataError(f"event_time_ms of {np.count_nonzero(seconds_E):,} events {problem}")


def _once(events: Interactions, columns: _Columns) -> Bools:
    """Marks one event of each id: of several the latest, whatever order they were read in."""
    once_E = np.ones(len(events), bool)

    def rank(row: int) -> tuple[float, ...]:
        columns_of_rank = (events.times_ms_E, events.users_E, events.items_E, events.weights_E)
        return tuple(column_E[row].item() for column_E in columns_of_rank)

    hashes_E = np.array(columns.id_hashes, np.int64)
    order = np.argsort(hashes_E, kind="stable")
    for alike in _runs(hashes_E[order]):
        first: dict[bytes, int] = {}
        for row in sorted(order[alike].tolist(), key=rank, reverse=True):
            once_E[row] = first.setdefault(columns.id(row), row) == row
    return once_E


def _in_order(times_ms_E: Ints, rows: Ints, columns: _Columns) -> Ints:
    """The rows by time, of equal times by id."""
    order: Ints = rows[np.argsort(times_ms_E[rows], kind="stable")]
    for alike in _runs(times_ms_E[order]):
        order[alike] = sorted(order[alike].tolist(), key=columns.id)
    return order


def _runs(keys: Ints) -> Iterator[slice]:
    """Where a sorted array has the same value more than once in a row."""
    bounds = np.flatnonzero(np.diff(keys)) + 1
    starts, ends = np.concatenate([[0], bounds]), np.concatenate([bounds, [len(keys)]])
    several = ends - starts > 1
    for start, end in zip(starts[several].tolist(), ends[several].tolist(), strict=True):
        yield slice(start, end)
