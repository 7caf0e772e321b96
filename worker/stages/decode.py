"""Records to items and actions: validation, and what the space has to say about them. Pure.

Whatever can be wrong with a record is found here, before batching, so that a bad revision never displaces a good one
and a batch only ever holds what can be computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from schemas import (
    DEFAULT_LIMITS,
    AnyFeature,
    Limits,
    NewItem,
    PlainEvent,
    PlainItem,
    Reason,
    SchemaError,
    UserEvent,
    as_model,
    decode_event,
    decode_item,
    judge,
    looks_like_seconds,
    suspects,
    time_problem,
)
from schemas.times import SECONDS_TO
from worker.align import Contract, Refusal
from worker.align.history import Event
from worker.mapping.items import Deletion, Skipped
from worker.mapping.registry import AwaitedError, Lookup
from worker.records import (
    Action,
    Decoded,
    Delete,
    Item,
    OversizedRecord,
    RawContent,
    Record,
    Rejection,
    Superseded,
    Unused,
)

STAGE = "decode"
MAX_FUTURE_S = 3600.0
NAMES_SHOWN = 8
_NO_FEATURES: Mapping[str, AnyFeature] = {}


@dataclass(slots=True)
class DecodedRecords:
    """One decoded entry per record, in order, and what was left out of them."""

    entries: list[Decoded] = field(default_factory=list)
    awaits: Lookup[Any] | None = None
    """What the first record without an entry needs to be read: it and all behind it are to come again."""
    num_features_ignored: int = 0
    num_content_ignored: int = 0
    uninformative: Counter[str] = field(default_factory=Counter)
    """By modality, features that say nothing, or in part: they were left out."""
    unused_types: Counter[str] = field(default_factory=Counter)
    """By type, events of those that the space does not use."""


class Encodes(Protocol):
    """Facts about the encoders that decoding needs."""

    @property
    def contents(self) -> Collection[str]:
        """Keys of contents for which an encoder is configured."""
        ...

    def modalities(self, contents: Collection[str], present: Collection[str]) -> Sequence[str]:
        """Which modalities they make of these contents, beside those that are `present`."""
        ...


class ForeignItems(Protocol):
    """Reads items out of records that are no messages of the contract."""

    def read_in_place(self, record: Record) -> tuple[Record, NewItem | Deletion | Skipped]:
        """Decode a record that has a value; returns the record under the id of its item, too. Raises `SchemaError`."""
        ...

    def deleted_by(self, record: Record) -> tuple[Record, Deletion]:
        """The same of a record without a value."""
        ...


class ForeignEvents(Protocol):
    """The same for events. A record may have no value."""

    def read_in_place(self, record: Record) -> tuple[Record, UserEvent | Skipped]: ...


class ItemDecoder:
    """Decodes item records for one space. Without `partial`, items that come in parts are refused; without `encodes`,
    raw content is no use."""

    def __init__(
        self,
        contract: Contract,
        *,
        partial: bool = True,
        encodes: Encodes | None = None,
        graph: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        max_future_s: float = MAX_FUTURE_S,
        foreign: ForeignItems | None = None,
    ) -> None:
        """`graph`: the space has graph fusion, so that neighbours are of use. `max_future_s`: see `wrong_time`.
        `foreign` reads the records where they are no messages of the contract."""
        self._foreign = foreign
        self._max_future_ms = round(max_future_s * 1000)
        self._graph = graph
        self._contract = contract
        self._partial = partial
        self._encodes = encodes
        self._limits = limits

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        """Decode consecutive records. Never raises for what a record holds."""
        decoded = DecodedRecords()
        add, decode_one = decoded.entries.append, self._decode_one if self._foreign is None else self._decode_foreign
        try:
            for record in records:
                add(decode_one(record, decoded))
        except AwaitedError as error:
            decoded.awaits = error.lookup
        self._look_at_elements(decoded)
        return decoded

    def _decode_one(self, record: Record, decoded: DecodedRecords) -> Decoded:
        if record.value is None:
            return too_large(record) if isinstance(record, OversizedRecord) else self._decode_delete(record)
        try:
            item = decode_item(record.value, self._limits)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if record.key != item.item_id.encode():
            return Rejection(
                record,
                Reason.KEY_MISMATCH,
                STAGE,
                f"the record's key must be its item_id {item.item_id!r} in UTF-8",
            )
        return self._accept(record, item, decoded)

    def _decode_foreign(self, record: Record, decoded: DecodedRecords) -> Decoded:
        assert self._foreign is not None
        if isinstance(record, OversizedRecord):
            return too_large(record)
        try:
            read = self._foreign.deleted_by if record.value is None else self._foreign.read_in_place
            keyed, found = read(record)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if isinstance(found, Skipped):
            return Superseded(record, "skipped")
        if isinstance(found, Deletion):
            return self._decode_delete(keyed)
        return self._accept(keyed, found, decoded)

    def _accept(self, record: Record, item: NewItem | PlainItem, decoded: DecodedRecords) -> Decoded:
        """Turn a valid message of the right key into an entry of this space."""
        time_ms = item.event_time_ms
        if (time_ms < SECONDS_TO or time_ms - record.timestamp > self._max_future_ms) and (
            rejection := wrong_time(record, time_ms, self._max_future_ms)
        ) is not None:
            return rejection
        if item.partial and not self._partial:
            return Rejection(
                record,
                Reason.PARTIAL_UNSUPPORTED,
                STAGE,
                "partial: this worker keeps no features to merge it into (state.features)",
            )
        raw = self._raw(item) if item.content else None
        features: Mapping[str, AnyFeature] = item.features
        accepted = self._contract.check(features)
        if isinstance(accepted, Refusal):
            if accepted.reason != "no_modality":
                return Rejection(record, Reason(accepted.reason), STAGE, accepted.detail)
            if raw is None and not (item.partial and (item.attributes or (self._graph and item.neighbors))):
                detail = self._no_encoder(item) if item.content else accepted.detail
                rejection = Rejection(record, Reason(accepted.reason), STAGE, detail)
                if not item.partial:
                    return rejection
                decoded.num_features_ignored += len(item.features)
                decoded.num_content_ignored += len(item.content)
                return Unused(record, item.item_id, rejection)
            accepted = _NO_FEATURES
        decoded.num_features_ignored += len(item.features) - len(accepted)
        if item.content:
            encoded = self._encodes.contents if self._encodes is not None else ()
            decoded.num_content_ignored += len(item.content.keys() - accepted.keys() - set(encoded))
        named = item.neighbors if self._graph else ()
        if accepted is features and type(item) is PlainItem and item.brings_features_alone():
            return Item(record, item.item_id, item.revision, item.event_time_ms, accepted, message=record.value)
        return Item(
            record, item.item_id, item.revision, item.event_time_ms, accepted, item.partial, raw=raw, neighbors=named,
            attributes=item.attributes,
        )  # fmt: skip

    def _look_at_elements(self, decoded: DecodedRecords) -> None:
        """Reject items with NaN or infinite features, or with what cannot be computed with, and take features that say
        nothing for ones that are not there. One pass over all, and a second over the few that may not be good."""
        entries = decoded.entries
        places = [index for index, entry in enumerate(entries) if type(entry) is Item]
        if not places:
            return
        looked_at = [entries[index].features for index in places]  # type: ignore[union-attr]
        for number in suspects(looked_at):
            item: Item = entries[places[number]]  # type: ignore[assignment]
            entries[places[number]] = self._looked_at(item, decoded)

    def _looked_at(self, item: Item, decoded: DecodedRecords) -> Decoded:
        features = {name: as_model(feature) for name, feature in item.features.items()}
        for name, feature in features.items():
            if not feature.is_finite():
                detail = f"features.{name}.data: holds NaN or infinite values"
                return Rejection(item.record, Reason.NON_FINITE, STAGE, detail)
        judged = judge([self._contract.judged(features)]).get(0)
        if judged is None:
            return item
        kept = {
            name: judged.features.get(name, feature)
            for name, feature in features.items()
            if name in judged.features or name not in judged.dropped
        }
        decoded.uninformative.update(judged.dropped)
        if judged.too_large is not None:
            return Rejection(item.record, Reason.NON_FINITE, STAGE, judged.problem())
        elif kept or item.raw is not None or (item.partial and (item.neighbors or item.attributes)):
            return item._replace(features=kept, message=None)
        rejection = Rejection(item.record, Reason.NO_MODALITY, STAGE, judged.problem())
        return Unused(item.record, item.id, rejection) if item.partial else rejection

    def _raw(self, item: NewItem | PlainItem) -> RawContent | None:
        if self._encodes is None:
            return None
        modalities = self._encodes.modalities(item.content, item.features)
        return RawContent(item.content, modalities) if modalities else None

    def _no_encoder(self, item: NewItem | PlainItem) -> str:
        has = ", ".join(sorted(self._encodes.contents)) if self._encodes is not None else ""
        return (
            f"content: came {', '.join(list(item.content)[:NAMES_SHOWN])}; this worker has encoders for "
            f"{has or 'no content'} (encode.encoders)"
        )

    def _decode_delete(self, record: Record) -> Decoded:
        try:
            item_id = (record.key or b"").decode()
        except UnicodeDecodeError:
            return Rejection(record, Reason.KEY_MISMATCH, STAGE, "a delete's key must be an item_id in UTF-8")
        if not 0 < len(item_id) <= self._limits.id_chars:
            return Rejection(
                record,
                Reason.KEY_MISMATCH,
                STAGE,
                f"a delete's key must have 1 to {self._limits.id_chars} characters",
            )
        return Delete(record, item_id)


def wrong_time(record: Record, event_time_ms: int, max_future_ms: int) -> Rejection | None:
    """The rejection of a record whose event time lies too far in the future, or is almost surely in seconds.

    The latest event of a user weighs most, so one from a clock that is a year fast would own the user for a year. The
    future begins at the record's Kafka timestamp and not at the worker's clock: whoever reads the log again, at
    whatever time, comes to the same result. A record without a timestamp is not judged.
    """
    if looks_like_seconds(event_time_ms):
        return Rejection(record, Reason.INVALID_FIELD, STAGE, f"event_time_ms: {time_problem(event_time_ms)}")
    ahead_ms = event_time_ms - record.timestamp
    if ahead_ms <= max_future_ms or record.timestamp <= 0:
        return None
    detail = (
        f"event_time_ms: lies {_duration(ahead_ms)} after the record's Kafka timestamp; at most "
        f"{_duration(max_future_ms)} are allowed (limits.max_future_s)"
    )
    return Rejection(record, Reason.FUTURE_TIME, STAGE, detail)


def _duration(milliseconds: int) -> str:
    seconds = milliseconds / 1000
    for unit, size in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


def too_large(record: OversizedRecord) -> Rejection:
    """The rejection of a record that was not taken into memory."""
    detail = f"the record has {record.num_bytes} bytes, more than kafka.max_record_bytes: its value is not kept"
    return Rejection(record, Reason.TOO_LARGE, STAGE, detail)


class EventDecoder:
    """Decodes event records for a space that uses events of some types."""

    def __init__(
        self,
        event_types: Collection[str],
        limits: Limits = DEFAULT_LIMITS,
        *,
        max_future_s: float = MAX_FUTURE_S,
        foreign: ForeignEvents | None = None,
    ) -> None:
        """`max_future_s`: see `wrong_time`. `foreign` reads the records where they are no messages of the contract."""
        self._foreign = foreign
        self._max_future_ms = round(max_future_s * 1000)
        self._event_types = frozenset(event_types)
        self._limits = limits

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        """Decode consecutive records. Never raises for what a record holds."""
        decoded = DecodedRecords()
        decode_one = self._decode_one if self._foreign is None else self._decode_foreign
        try:
            for record in records:
                decoded.entries.append(decode_one(record, decoded.unused_types))
        except AwaitedError as error:
            decoded.awaits = error.lookup
        return decoded

    def _decode_one(self, record: Record, unused_types: Counter[str]) -> Decoded:
        if record.value is None:
            if isinstance(record, OversizedRecord):
                return too_large(record)
            return Rejection(record, Reason.INVALID_FIELD, STAGE, "an event cannot be deleted: the record has no value")
        try:
            event = decode_event(record.value, self._limits)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if record.key != event.user_id.encode():
            detail = f"the record's key must be its user_id {event.user_id!r} in UTF-8"
            return Rejection(record, Reason.KEY_MISMATCH, STAGE, detail)
        return self._accept(record, event, unused_types)

    def _decode_foreign(self, record: Record, unused_types: Counter[str]) -> Decoded:
        assert self._foreign is not None
        if isinstance(record, OversizedRecord):
            return too_large(record)
        try:
            keyed, event = self._foreign.read_in_place(record)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if isinstance(event, Skipped):
            return Superseded(record, "skipped")
        return self._accept(keyed, event, unused_types)

    def _accept(self, record: Record, event: UserEvent | PlainEvent, unused_types: Counter[str]) -> Decoded:
        """Turn a valid message of the right key into an entry of this space."""
        time_ms = event.event_time_ms
        if (time_ms < SECONDS_TO or time_ms - record.timestamp > self._max_future_ms) and (
            rejection := wrong_time(record, time_ms, self._max_future_ms)
        ) is not None:
            return rejection
        if event.event_type not in self._event_types:
            unused_types[event.event_type] += 1
            return Superseded(record, "unused_type")
        kept = Event(event.event_time_ms, event.event_id, event.item_id, event.event_type)
        return Action(record, event.user_id, kept)
