"""Vectors of items with attributes that were made a moment ago: a price that comes while its item is still on the way
is published with the vector of that, as it is once the item is remembered with it (`state/items.Made`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import blake2b

from schemas import AnyFeature
from worker.records import Change, Item
from worker.stages.fuse import Embedder, Result, Vector
from worker.state.items import ItemState

MAX_ITEMS = 4_096
_DIGEST_BYTES = 16


class MadeBefore:
    """An `Embedder` before another. Used by the compute thread alone."""

    def __init__(self, embedder: Embedder, max_items: int = MAX_ITEMS) -> None:
        self._embedder = embedder
        self._max_items = max_items
        self._made: OrderedDict[str, tuple[bytes, Vector]] = OrderedDict()
        """By item the digest of its features, and what was made of them; the newest last."""

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        digests = {
            index: _digest(entry.features)
            for index, entry in enumerate(entries)
            if isinstance(entry, Item) and _is_concerned(entry)
        }
        if not digests:
            return self._embedder.vectors(entries)
        results: list[Result] = [None] * len(entries)
        for index, digest in digests.items():
            known = self._made.get(entries[index].id)
            results[index] = known[1] if known is not None and known[0] == digest else None
        missing = [index for index, result in enumerate(results) if result is None]
        made = self._embedder.vectors([entries[index] for index in missing]) if missing else []
        for index, result in zip(missing, made, strict=True):
            results[index] = result
            if index in digests and isinstance(result, Vector):
                self._made[entries[index].id] = digests[index], result
                self._made.move_to_end(entries[index].id)
        while len(self._made) > self._max_items:
            self._made.popitem(last=False)
        return results

    def padded_size(self, num_entries: int) -> int:
        return self._embedder.padded_size(num_entries)

    def probe(self) -> None:
        self._embedder.probe()


def _is_concerned(entry: Item) -> bool:
    """Whether its vector is made of its features alone, and may be asked for again without a change of them."""
    state = entry.state
    return isinstance(state, ItemState) and bool(state.attributes) and state.neighbors is None


def _digest(features: Mapping[str, AnyFeature]) -> bytes:
    """Digest of features: two items of one digest have one vector."""
    digest = blake2b(digest_size=_DIGEST_BYTES)
    for name, feature in features.items():
        digest.update(repr((name, feature.encoder, feature.dtype, feature.shape, feature.scale)).encode())
        digest.update(feature.data)
    return digest.digest()
