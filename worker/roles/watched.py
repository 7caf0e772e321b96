"""Embedders whose vectors are looked at before they are published (`worker.vector_health`). Compute thread."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from schemas import AnyFeature
from worker.align.result import unpack_rows
from worker.align.users import NO_ROW
from worker.item_vectors.table import ItemTable
from worker.records import Backfilled, Change, Item, Recompute, User
from worker.stages.fuse import Embedder, Result, Vector
from worker.state.items import ItemState
from worker.state.users import UserState
from worker.vector_health import VectorWatch

ONE_IN = 16
"""Items and users of which what came before is kept, by their ids: always the same ones."""
MOST_KEPT = 2_048
MOST_RECENT = 512
"""Items that are kept to try another model on, where one is to take over."""
_DIGEST_BYTES = 16


class _Watched:
    def __init__(self, embedder: Embedder, watch: VectorWatch, dtype: Literal["f2", "f4"]) -> None:
        self._embedder = embedder
        self.watch = watch
        self._dtype: Literal["f2", "f4"] = dtype

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        results = self._embedder.vectors(entries)
        made = [result for result in results if type(result) is Vector]
        self.watch.add(self._values([each.data for each in made]), [each.modalities for each in made])
        self._compare(entries, results)
        return results

    def _values(self, rows: Sequence[bytes]) -> NDArray[np.float32]:
        return unpack_rows(rows, self.watch.dim, self._dtype)

    def _compare(self, entries: Sequence[Change], results: Sequence[Result]) -> None:
        raise NotImplementedError

    def padded_size(self, num_entries: int) -> int:
        return self._embedder.padded_size(num_entries)

    def probe(self) -> None:
        self._embedder.probe()


class WatchedItems(_Watched):
    """And an item whose features come again unchanged must have the vector that it had."""

    def __init__(self, embedder: Embedder, watch: VectorWatch, dtype: Literal["f2", "f4"]) -> None:
        super().__init__(embedder, watch, dtype)
        self._known: OrderedDict[str, tuple[bytes, bytes]] = OrderedDict()
        """By item the digest of its features, and its vector before graph fusion; the newest last."""
        self._recent: deque[tuple[Mapping[str, AnyFeature], Vector]] | None = None

    def recent(self) -> list[tuple[Mapping[str, AnyFeature], Vector]]:
        """The last items that had a vector, by their features, of those that have come since this was asked first. Any
        thread."""
        if self._recent is None:
            self._recent = deque(maxlen=MOST_RECENT)
        return list(self._recent)

    def forget_recent(self) -> None:
        """Keep them no longer. Any thread."""
        self._recent = None

    def _compare(self, entries: Sequence[Change], results: Sequence[Result]) -> None:
        if (recent := self._recent) is not None:
            pairs = zip(entries, results, strict=True)
            recent.extend((features_of(entry), result) for entry, result in pairs if type(result) is Vector)
        for entry, result in zip(entries, results, strict=True):
            if hash(entry.id) % ONE_IN or type(result) is not Vector:
                continue
            digest, vector = _digest(features_of(entry)), result.base or result.data
            known = self._known.get(entry.id)
            if known is not None and known[0] == digest:
                self.watch.turned(self._angle(known[1], vector))
            self._known[entry.id] = digest, vector
            self._known.move_to_end(entry.id)
        while len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)

    def _angle(self, before: bytes, now: bytes) -> float:
        if before == now:
            return 0.0
        a, b = self._values([before, now]).astype(np.float64)
        return 1 - float(a @ b) / float(np.sqrt((a @ a) * (b @ b)))


def features_of(entry: Change) -> Mapping[str, AnyFeature]:
    """What the vector of an item is made of."""
    if isinstance(entry, Item):
        return entry.features
    assert isinstance(entry, Recompute | Backfilled)
    assert isinstance(entry.state, ItemState)
    return entry.state.features


def _digest(features: Mapping[str, AnyFeature]) -> bytes:
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for name, feature in features.items():
        digest.update(f"{name} {feature.encoder} {feature.dtype} {feature.shape} {feature.scale}".encode())
        digest.update(feature.data)
    return digest.digest()


class WatchedUsers(_Watched):
    """And what a user does next is near the vector that the user has had: the cosine of the two, before the event
    counts."""

    def __init__(
        self,
        embedder: Embedder,
        watch: VectorWatch,
        dtype: Literal["f2", "f4"],
        table: ItemTable,
        weights: Mapping[str, float],
    ) -> None:
        super().__init__(embedder, watch, dtype)
        self._table = table
        self._weights = weights
        self._known: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        """By user the newest event, and the vector after it; the newest last."""

    def _compare(self, entries: Sequence[Change], results: Sequence[Result]) -> None:
        before, items = [], []
        for entry, result in zip(entries, results, strict=True):
            if hash(entry.id) % ONE_IN or type(result) is not Vector or not isinstance(entry, User):
                continue
            assert isinstance(entry.state, UserState)
            event, known = entry.state.events[-1], self._known.get(entry.id)
            if known is not None and known[0] != event.event_id and self._weights.get(event.event_type, 0.0) > 0:
                before.append(known[1])
                items.append(event.item_id)
            self._known[entry.id] = event.event_id, result.data
            self._known.move_to_end(entry.id)
        while len(self._known) > MOST_KEPT:
            self._known.popitem(last=False)
        if items:
            self._meet(before, items)

    def _meet(self, before: Sequence[bytes], items: Sequence[str]) -> None:
        with self._table.reading() as table_RD:
            rows = np.array(self._table.row_of_each(items))
            vectors_ED = table_RD[np.maximum(rows, 0)].float().cpu().numpy()
        self.watch.met((self._values(before) * vectors_ED).sum(1)[rows != NO_ROW])
