"""Records to items and actions: validation, and what the space has to say about them. Pure.

Whatever can be wrong with a record is found here, before batching, so that a bad revision never displaces a good one
and a batch only ever holds what can be computed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from schemas import DEFAULT_LIMITS, Limits, NewItem, Reason, SchemaError, UserEvent, all_finite, decode
from worker.align import Contract, Refusal
from worker.align.history import Event
from worker.records import Action, Decoded, Delete, Item, Record, Rejection, Superseded

STAGE = "decode"


@dataclass(slots=True)
class DecodedRecords:
    """One decoded entry per record, in order, and what was left out of them."""

    entries: list[Decoded] = field(default_factory=list)
    num_features_ignored: int = 0
    num_content_ignored: int = 0


class ItemDecoder:
    """Decodes item records for one space. Without `partial`, items that come in parts are refused."""

    def __init__(self, contract: Contract, *, partial: bool = True, limits: Limits = DEFAULT_LIMITS) -> None:
        self._contract = contract
        self._partial = partial
        self._limits = limits

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        """Decode consecutive records. Never raises for what a record holds."""
        decoded = DecodedRecords()
        for record in records:
            decoded.entries.append(self._decode_one(record, decoded))
        _reject_non_finite(decoded.entries)
        return decoded

    def _decode_one(self, record: Record, decoded: DecodedRecords) -> Decoded:
        if record.value is None:
            return self._decode_delete(record)
        try:
            item = decode(NewItem, record.value, check_values=False, limits=self._limits)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if record.key != item.item_id.encode():
            return Rejection(
                record,
                Reason.KEY_MISMATCH,
                STAGE,
                f"the record's key must be its item_id {item.item_id!r} in UTF-8",
            )
        if item.partial and not self._partial:
            return Rejection(
                record,
                Reason.PARTIAL_UNSUPPORTED,
                STAGE,
                "partial: this worker keeps no features to merge it into (state.features)",
            )
        accepted = self._contract.check(item.features)
        if isinstance(accepted, Refusal):
            return Rejection(record, Reason(accepted.reason), STAGE, accepted.detail)
        decoded.num_features_ignored += len(item.features) - len(accepted)
        if item.content:
            decoded.num_content_ignored += len(item.content.keys() - accepted.keys())
        return Item(record, item.item_id, item.revision, item.event_time_ms, accepted, item.partial)

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


def _reject_non_finite(entries: list[Decoded]) -> None:
    """Replace items with NaN or infinite features. One pass over all of them, a second only if that finds some."""
    items = [(index, entry) for index, entry in enumerate(entries) if type(entry) is Item]
    if all_finite([feature for _, item in items for feature in item.features.values()]):
        return
    for index, item in items:
        bad = [name for name, feature in item.features.items() if not all_finite([feature])]
        if bad:
            detail = f"features.{bad[0]}.data: holds NaN or infinite values"
            entries[index] = Rejection(item.record, Reason.NON_FINITE, STAGE, detail)


class EventDecoder:
    """Decodes event records for a space that uses events of some types."""

    def __init__(self, event_types: Collection[str], limits: Limits = DEFAULT_LIMITS) -> None:
        self._event_types = frozenset(event_types)
        self._limits = limits

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        """Decode consecutive records. Never raises for what a record holds."""
        return DecodedRecords([self._decode_one(record) for record in records])

    def _decode_one(self, record: Record) -> Decoded:
        if record.value is None:
            return Rejection(record, Reason.INVALID_FIELD, STAGE, "an event cannot be deleted: the record has no value")
        try:
            event = decode(UserEvent, record.value, limits=self._limits)
        except SchemaError as error:
            return Rejection(record, error.reason, STAGE, str(error))
        if record.key != event.user_id.encode():
            detail = f"the record's key must be its user_id {event.user_id!r} in UTF-8"
            return Rejection(record, Reason.KEY_MISMATCH, STAGE, detail)
        if event.event_type not in self._event_types:
            return Superseded(record, "unused_type")
        kept = Event(event.event_time_ms, event.event_id, event.item_id, event.event_type)
        return Action(record, event.user_id, kept)
