"""An item as its messages leave it: each modality from the newest message that brought it. Pure.

The one law by which messages add up, for the stream and for training alike: a space is learnt from what is served.

The state after any messages depends on the messages, not on the order in which they came:

- A whole message (`partial: false`) of revision R makes everything of revision R or less its own, and leaves what
  partial messages of a later revision have brought.
- A partial message of revision R brings a modality unless a message of a later revision has brought it, or a later
  whole one has come.

Neighbours go like a modality, and a message without any brings none. Attributes go like modalities, each by its name.

Only where two messages of an item have the same revision does the later one in the log win. A delete ends all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from schemas import AnyFeature, AttributeValue, Feature, PlainFeature
from worker.state.packing import holds_message, of_message, pack, unpack, with_message

NONE = -1
"""In place of a revision: there is none yet."""


class Message(Protocol):
    """The fields of an item message that the merge law needs."""

    @property
    def revision(self) -> int: ...
    @property
    def event_time_ms(self) -> int: ...
    @property
    def partial(self) -> bool: ...
    @property
    def features(self) -> Mapping[str, AnyFeature]: ...
    @property
    def neighbors(self) -> Sequence[str]: ...
    @property
    def attributes(self) -> Mapping[str, AttributeValue]: ...


class ModalityState(NamedTuple):
    """One modality of an item."""

    revision: int
    feature: AnyFeature
    digest: bytes | None = None
    """Digest of the content that the feature was made of here, and how: the same content is not encoded again."""


class Named(NamedTuple):
    """The neighbours of an item."""

    revision: int
    ids: Sequence[str]
    missing: Sequence[str] = ()
    """Those of them that had no vector when this was written."""


class Attribute(NamedTuple):
    """One attribute of an item."""

    revision: int
    value: AttributeValue


class Made(NamedTuple):
    """The vector that was made of an item's parts, for when only its attributes change."""

    stamp: bytes
    """Stamp of the space and the settings that it was made with."""
    fields: Sequence[Any]
    """The vector, as the stage that makes it has it."""


class OfOneMessage(Mapping[str, ModalityState]):
    """The modalities that one message has brought. Most are never asked for by themselves."""

    __slots__ = ("_features", "_revision")

    def __init__(self, revision: int, features: Mapping[str, AnyFeature]) -> None:
        self._revision = revision
        self._features = features

    @property
    def features(self) -> Mapping[str, AnyFeature]:
        return self._features

    def __getitem__(self, name: str) -> ModalityState:
        return ModalityState(self._revision, self._features[name])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._features))

    def __len__(self) -> int:
        return len(self._features)


class ItemState(NamedTuple):
    """State of an item."""

    offset: int
    """Offset of the newest message in it."""
    revision: int
    """The greatest of the messages in it."""
    whole_revision: int
    """Revision of the newest whole message, or `NONE`."""
    event_time_ms: int
    """The latest of the messages in it."""
    parts: Mapping[str, ModalityState]
    neighbors: Named | None = None
    attributes: Mapping[str, Attribute] = {}
    made: Made | None = None
    """The vector of these parts alone, for an item with attributes. None where it is not known, or depends on more."""
    message: bytes | None = None
    """The message as it came, where all that there is has come with it. It is written then, rather than packed anew."""

    @property
    def features(self) -> Mapping[str, AnyFeature]:
        parts = self.parts
        return parts.features if type(parts) is OfOneMessage else {name: part.feature for name, part in parts.items()}

    @property
    def values(self) -> dict[str, AttributeValue]:
        return {name: attribute.value for name, attribute in self.attributes.items()}

    def encode(self) -> bytes:
        if self.message is not None:
            return with_message(self[:4], self.message)
        parts = [
            (name, part.revision, *_fields(part.feature), *((part.digest,) if part.digest is not None else ()))
            for name, part in self.parts.items()
        ]
        fields = (self.offset, self.revision, self.whole_revision, self.event_time_ms, parts)
        if self.neighbors is None and not self.attributes:
            return pack(fields)
        neighbors = self.neighbors or _NOBODY
        if self.attributes:
            attributes = [(name, *attribute) for name, attribute in self.attributes.items()]
            return pack((*fields, neighbors, attributes, self.made), marked=bool(neighbors.missing))
        return pack((*fields, neighbors), marked=bool(neighbors.missing))

    @classmethod
    def decode(cls, value: bytes) -> ItemState:
        if holds_message(value):
            return cls._of_message(value)
        offset, revision, whole_revision, event_time_ms, parts, *more = unpack(value)
        named, attributes, made = (*more, *_NO_MORE[len(more) :])
        return cls(
            offset, revision, whole_revision, event_time_ms,
            {
                name: ModalityState(of, Feature.model_construct(
                    encoder=encoder, dtype=dtype, shape=tuple(shape), data=data, scale=scale), *digest)
                for name, of, encoder, dtype, shape, data, scale, *digest in parts
            },
            None if named[0] == NONE else Named(named[0], tuple(named[1]), tuple(named[2])),
            {name: Attribute(of, tuple(each) if type(each) is list else each) for name, of, each in attributes},
            None if made is None else Made(*made),
        )  # fmt: skip

    @classmethod
    def _of_message(cls, value: bytes) -> ItemState:
        numbers, message, fields = of_message(value)
        features = {
            name: PlainFeature(each["encoder"], each["dtype"], tuple(each["shape"]), each["data"], each.get("scale"))
            for name, each in fields["features"].items()
        }
        return cls(*numbers, OfOneMessage(numbers[2], features), message=message)

    def without_parts(self) -> ItemState:
        return ItemState(*self[:4], {}, self.neighbors, self.attributes)


def _fields(feature: AnyFeature) -> tuple[object, ...]:
    return feature.encoder, feature.dtype, feature.shape, feature.data, feature.scale


_NOTHING = ItemState(-1, NONE, NONE, 0, {})
_NOBODY = Named(NONE, (), ())
"""Written in place of no neighbours, so that a worker which knows nothing of what comes behind them reads it, too."""
_NO_MORE: tuple[Any, ...] = (_NOBODY, (), None)


def merged(
    known: ItemState | None,
    item: Message,
    offset: int,
    digests: Mapping[str, bytes] | None = None,
    message: bytes | None = None,
) -> ItemState | None:
    """The item after a message, or None when newer messages leave nothing of it.

    `offset` is the message's place in the log; `digests` stand for the content behind features that were made here.
    `message` are the bytes of a whole message that brings features alone, and each of them as it is remembered.
    """
    known = known or _NOTHING
    if message is not None and known.revision <= item.revision and known.made is None:
        time_ms = max(known.event_time_ms, item.event_time_ms)
        parts_of_it = OfOneMessage(item.revision, item.features)
        return ItemState(offset, item.revision, item.revision, time_ms, parts_of_it, message=message)
    if item.revision < known.whole_revision:
        return None
    digests = digests or {}
    brought = {
        name: ModalityState(item.revision, feature, digests.get(name))
        for name, feature in item.features.items()
        if name not in known.parts or item.revision >= known.parts[name].revision
    }
    neighbors = _neighbors(known.neighbors, item)
    attributes = _attributes(known.attributes, item) if item.attributes or known.attributes else known.attributes
    if item.partial:
        if not brought and neighbors is known.neighbors and attributes is known.attributes:
            return None
        parts, whole_revision = {**known.parts, **brought}, known.whole_revision
    else:
        newer = {name: part for name, part in known.parts.items() if part.revision > item.revision}
        parts, whole_revision = {**brought, **newer}, item.revision
    state = ItemState(
        offset,
        max(known.revision, item.revision),
        whole_revision,
        max(known.event_time_ms, item.event_time_ms),
        dict(sorted(parts.items())),
        neighbors,
        attributes,
    )
    is_made = known.made is not None and neighbors is None and _are_alike(state.features, known.features)
    return state._replace(made=known.made) if is_made else state


def _attributes(known: Mapping[str, Attribute], item: Message) -> Mapping[str, Attribute]:
    """Merge attributes; the old ones themselves where a partial message brings nothing that counts."""
    brought = {
        name: Attribute(item.revision, value)
        for name, value in item.attributes.items()
        if name not in known or item.revision >= known[name].revision
    }
    if item.partial:
        return dict(sorted({**known, **brought}.items())) if brought else known
    newer = {name: attribute for name, attribute in known.items() if attribute.revision > item.revision}
    return dict(sorted({**brought, **newer}.items()))


def _are_alike(features: Mapping[str, AnyFeature], others: Mapping[str, AnyFeature]) -> bool:
    """Whether the same vector comes of both."""
    return features.keys() == others.keys() and all(
        _fields(feature) == _fields(others[name]) for name, feature in features.items()
    )


def _neighbors(known: Named | None, item: Message) -> Named | None:
    if known is not None and known.revision > item.revision:
        return known
    if item.neighbors:
        return Named(item.revision, item.neighbors)
    return known if item.partial else None
