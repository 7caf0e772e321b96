"""Features of content that was encoded before, so that an item that changes its price is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from schemas import Feature

if TYPE_CHECKING:
    from worker.encode.content import Route

ENTRY_BYTES = 512  # of the key, the message object and the places they have


class FeatureCache:
    """Features by the digest of their content. The least recently used go first when there are more than `max_bytes`
    of them. One thread at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._features: OrderedDict[bytes, Mapping[str, Feature]] = OrderedDict()
        self._num_bytes = 0

    def get(self, digest: bytes) -> dict[str, Feature] | None:
        """Features by modality. One that the content has nothing for is not among them."""
        found = self._features.get(digest)
        if found is None:
            return None
        self._features.move_to_end(digest)
        return dict(found)

    def put(self, digest: bytes, features: Mapping[str, Feature]) -> None:
        self._num_bytes += _size(features) - (_size(self._features.pop(digest)) if digest in self._features else 0)
        self._features[digest] = dict(features)
        while self._num_bytes > self._max_bytes:
            _, oldest = self._features.popitem(last=False)
            self._num_bytes -= _size(oldest)


def content_digest(data: bytes | str, routes: Iterable[Route]) -> bytes:
    """Stands for a content and all that is made of it, so that what another encoder has made, or the same one of other
    samples, is not taken for it."""
    kind, raw = (b"t", data.encode()) if isinstance(data, str) else (b"d", data)
    made = hashlib.blake2b(digest_size=16, key=kind)
    for route in routes:
        made.update(f"{route.modality}={route.encoder.name}:{route.max_vectors}:{route.num_samples}\0".encode())
    made.update(b"\0")
    made.update(raw)
    return made.digest()


def _size(features: Mapping[str, Feature]) -> int:
    return ENTRY_BYTES * (1 + len(features)) + sum(len(feature.data) for feature in features.values())
