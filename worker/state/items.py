"""An item as its messages leave it: each modality from the newest message that brought it. Pure.

The one law by which messages add up, for the stream and for training alike: a space is learnt from what is served.

The state after any messages depends on the messages, not on the order in which they came:

- A whole message (`partial: false`) of revision R makes everything of revision R or less its own, and leaves what
  partial messages of a later revision have brought.
- A partial message of revision R brings a modality unless a message of a later revision has brought it, or a later
  whole one has come.

Neighbours go like a modality, and a message without any brings none.

Only where two messages of an item have the same revision does the later one in the log win. A delete ends all of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas import Feature
from worker.state.packing import pack, unpack

NONE = -1
"""In place of a revision: there is none yet."""


class Message(Protocol):
    """What the law asks of an item message."""

    @property
    def revision(self) -> int: ...
    @property
    def event_time_ms(self) -> int: ...
    @property
    def partial(self) -> bool: ...
    @property
    def features(self) -> Mapping[str, Feature]: ...
    @property
    def neighbors(self) -> Sequence[str]: ...


class Part(NamedTuple):
    """One modality of an item."""

    revision: int
    feature: Feature
    digest: bytes | None = None
    """Of the content that the feature was made of here, and how: the same content is not encoded again."""


class Named(NamedTuple):
    """The neighbours of an item."""

    revision: int
    ids: Sequence[str]
    missing: Sequence[str] = ()
    """Those of them that had no vector when this was written."""


class ItemState(NamedTuple):
    """What is remembered of an item."""

    offset: int
    """Of the newest message in it."""
    revision: int
    """The greatest of the messages in it."""
    whole: int
    """Revision of the newest whole message, or `NONE`."""
    event_time_ms: int
    """The latest of the messages in it."""
    parts: Mapping[str, Part]
    neighbors: Named | None = None

    @property
    def features(self) -> dict[str, Feature]:
        return {name: part.feature for name, part in self.parts.items()}

    def encode(self) -> bytes:
        parts = [
            (name, part.revision, *_fields(part.feature), *((part.digest,) if part.digest is not None else ()))
            for name, part in self.parts.items()
        ]
        fields = (self.offset, self.revision, self.whole, self.event_time_ms, parts)
        if self.neighbors is None:
            return pack(fields)
        return pack((*fields, self.neighbors), marked=bool(self.neighbors.missing))

    @classmethod
    def decode(cls, value: bytes) -> ItemState:
        offset, revision, whole, event_time_ms, parts, *named = unpack(value)
        return cls(
            offset, revision, whole, event_time_ms,
            {
                name: Part(of, Feature.model_construct(
                    encoder=encoder, dtype=dtype, shape=tuple(shape), data=data, scale=scale), *digest)
                for name, of, encoder, dtype, shape, data, scale, *digest in parts
            },
            Named(named[0][0], tuple(named[0][1]), tuple(named[0][2])) if named else None,
        )  # fmt: skip

    def without_parts(self) -> ItemState:
        return self._replace(parts={})


def _fields(feature: Feature) -> tuple[object, ...]:
    return feature.encoder, feature.dtype, feature.shape, feature.data, feature.scale


_NOTHING = ItemState(-1, NONE, NONE, 0, {})


def merged(
    known: ItemState | None, item: Message, offset: int, digests: Mapping[str, bytes] | None = None
) -> ItemState | None:
    """The item after a message, or None when newer messages leave nothing of it.

    `offset` is the message's place in the log; `digests` stand for the content behind features that were made here.
    """
    known = known or _NOTHING
    if item.revision < known.whole:
        return None
    digests = digests or {}
    brought = {
        name: Part(item.revision, feature, digests.get(name))
        for name, feature in item.features.items()
        if name not in known.parts or item.revision >= known.parts[name].revision
    }
    neighbors = _neighbors(known.neighbors, item)
    if item.partial:
        if not brought and neighbors is known.neighbors:
            return None
        parts, whole = {**known.parts, **brought}, known.whole
    else:
        newer = {name: part for name, part in known.parts.items() if part.revision > item.revision}
        parts, whole = {**brought, **newer}, item.revision
    return ItemState(
        offset,
        max(known.revision, item.revision),
        whole,
        max(known.event_time_ms, item.event_time_ms),
        dict(sorted(parts.items())),
        neighbors,
    )


def _neighbors(known: Named | None, item: Message) -> Named | None:
    if known is not None and known.revision > item.revision:
        return known
    if item.neighbors:
        return Named(item.revision, item.neighbors)
    return known if item.partial else None
