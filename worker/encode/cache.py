"""Features of content that was encoded before, so that an item that changes its price is not encoded again."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from schemas import Feature

Key = tuple[str, bytes]

ENTRY_BYTES = 512  # of the key, the message object and the places they have


class FeatureCache:
    """The least recently used features go first when there are more than `max_bytes` of them. One thread at a time."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._features: OrderedDict[Key, Feature | None] = OrderedDict()
        self._num_bytes = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._features

    def get(self, key: Key) -> Feature | None:
        """The feature; None if the content has none of this modality. Only for a key that is there."""
        self._features.move_to_end(key)
        return self._features[key]

    def put(self, key: Key, feature: Feature | None) -> None:
        self._num_bytes += _size(feature) - (_size(self._features.pop(key)) if key in self._features else 0)
        self._features[key] = feature
        while self._num_bytes > self._max_bytes:
            _, oldest = self._features.popitem(last=False)
            self._num_bytes -= _size(oldest)


def content_key(modality: str, data: bytes | str) -> Key:
    """Stands for a content as seen by the encoder of a modality."""
    kind, raw = (b"t", data.encode()) if isinstance(data, str) else (b"d", data)
    return modality, hashlib.blake2b(raw, digest_size=16, key=kind).digest()


def _size(feature: Feature | None) -> int:
    return ENTRY_BYTES + (len(feature.data) if feature is not None else 0)
