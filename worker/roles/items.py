"""The items half: item messages to item vectors."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from schemas import AttributeValue, ItemVector, SchemaError, decode_vector, encode_item_vector
from worker.align import Contract, Refusal
from worker.codes.books import disambiguator
from worker.errors import SpaceError, UnreadableError
from worker.item_vectors.dependents import Dependents
from worker.item_vectors.source_offset import header, of_deletion
from worker.kafka.port import Outbound, PartitionReader
from worker.monitoring.metrics import Metrics, raise_to
from worker.partitions.batch_slice import Receipt
from worker.partitions.tenure import Tenure, parse_note
from worker.records import (
    Backfilled,
    Change,
    Decoded,
    Delete,
    Entry,
    Item,
    Notice,
    Recompute,
    RecomputeTrigger,
    Record,
    Superseded,
    TopicPartition,
    Unused,
)
from worker.roles.coded import CodeUse
from worker.roles.left_out import Uninformative
from worker.roles.made_before import MadeBefore
from worker.roles.watched import WatchedItems
from worker.stages.decode import MAX_FUTURE_S, DecodedRecords, ForeignItems, ItemDecoder
from worker.stages.encode import EncodeStage
from worker.stages.fuse import Embedder, Vector
from worker.stages.stage import Stage, Watched
from worker.stages.trace import carried_headers
from worker.state.items import ItemState, Made, merged
from worker.state.overlay import StateOverlay
from worker.topics import RoleTopics
from worker.vector_health import VectorWatch

logger = logging.getLogger(__name__)

READ_TIMEOUT_S = 30.0
NUM_CHECKED = 256
"""Outputs that are read in any case, to see whether they are of this space and this log."""


@dataclass(frozen=True, slots=True)
class ItemFormat:
    """Writes item vectors, with what all of this process have in common."""

    topics: RoleTopics
    space_id: str
    dtype: Literal["f2", "f4"]
    dim: int
    has_modality_vectors: bool = False
    written: Callable[[bytes], bytes] | None = None
    """The form in which vectors are written, from the encoded message; None: as it is."""
    is_next: bool = False
    """Whether this is the next space: the vectors that are remembered are those of the live one."""

    code_space_id: str | None = None
    """The codebooks of their codes; None: they have none."""
    compatible_ids: frozenset[str] = frozenset()
    """Other spaces whose vectors may stand in the topic, too."""
    earlier: ItemFormat | None = None
    """Of the space in whose place this one has come: of vectors that are remembered, and were to be published again."""

    @property
    def stamp(self) -> bytes:
        """Says which vectors that are remembered may be published again."""
        codes = "" if self.code_space_id is None else f" {self.code_space_id}"
        return f"{self.space_id} {self.dtype} {self.dim} {self.has_modality_vectors:d}{codes}".encode()

    @property
    def dead_letter_topic(self) -> str:
        return self.topics.dead_letters

    @property
    def state_topic(self) -> str:
        return self.topics.state

    def output(self, entry: Change, vector: Vector | None, now_ms: int, receipt: Receipt) -> Outbound | None:
        if vector is None and isinstance(entry, Item) and entry.has_vector and not self.is_next:
            vector, stamp = _made_before(entry)
            if self.earlier is not None and stamp != self.stamp:
                return self.earlier.output(entry, vector, now_ms, receipt)
        match entry:
            case Item(is_overtaken=False) | Recompute() | Backfilled() if vector is not None:
                made_of: Any = entry if isinstance(entry, Item) else entry.state
                value = encode_item_vector(
                    item_id=entry.id,
                    revision=made_of.revision,
                    event_time_ms=made_of.event_time_ms,
                    space_id=self.space_id,
                    dtype=self.dtype,
                    shape=(self.dim,),
                    data=vector.data,
                    modalities=vector.modalities,
                    prior=vector.prior,
                    modality_vectors=vector.modality_data,
                    produced_at_ms=now_ms,
                    source_offset=_place(entry),
                    base_vector=vector.base,
                    attributes=_attributes(entry),
                    codes=vector.codes,
                    code_space_id=self.code_space_id,
                    disambiguator=None if vector.codes is None else disambiguator(entry.id),
                )
                if self.written is not None:
                    value = self.written(value)
                return self._outbound(entry.record, value, carried_headers(entry.record), receipt)
            case Delete(is_overtaken=False) | Backfilled(state=None):
                headers = [*carried_headers(entry.record), header(_place(entry))]
                return self._outbound(entry.record, None, headers, receipt)
        return None

    def change(self, entry: Change, vector: Vector | None, receipt: Receipt) -> Outbound | None:
        if not entry.is_record:
            return None
        record, state = entry.record, entry.state if isinstance(entry, Item) else None
        if isinstance(state, ItemState):
            state = self._remembering(state, vector)
        value = None if state is None else state.encode()
        return Outbound(self.topics.state, record.partition, record.key, value, (), receipt)

    def _remembering(self, state: ItemState, vector: Vector | None) -> ItemState:
        """The state with its vector, where that may be published again with other attributes."""
        if vector is None or not (state.attributes and state.parts) or state.neighbors is not None:
            return state
        # Without codes in the form that a worker reads which knows of none.
        return state._replace(made=Made(self.stamp, vector[:-1] if vector.codes is None else vector))

    def _outbound(
        self, record: Record, value: bytes | None, headers: Sequence[tuple[str, bytes | None]], receipt: Receipt
    ) -> Outbound:
        return Outbound(self.topics.outputs, record.partition, record.key, value, headers, receipt)


def _attributes(entry: Item | Recompute | Backfilled) -> Mapping[str, AttributeValue] | None:
    state = entry.state
    return state.values if isinstance(state, ItemState) and state.attributes else None


def _made_before(entry: Item) -> tuple[Vector, bytes]:
    """The vector, and the stamp of the format that wrote it."""
    assert isinstance(entry.state, ItemState)
    assert entry.state.made is not None  # or it would have to be computed
    return Vector(*entry.state.made.fields), entry.state.made.stamp


def _place(entry: Item | Delete | Recompute | Backfilled) -> int:
    """Place of the newest message in an output (`InputLog.at`). What is computed anew names that itself."""
    if isinstance(entry, Recompute | Backfilled):
        return entry.record.offset
    return entry.record.offset if entry.at is None else entry.at


class ItemsRole:
    """Implements `Role`."""

    recomputes_in_backlog = False  # a catalogue that comes all at once is computed twice, and not once per neighbour

    def __init__(
        self,
        output: ItemFormat,
        contract: Contract,
        embedder: Embedder,
        *,
        keep_features: bool,
        encoding: EncodeStage | None = None,
        dependents: Dependents | None = None,
        max_future_s: float = MAX_FUTURE_S,
        foreign: ForeignItems | None = None,
        watch: VectorWatch | None = None,
        code_use: CodeUse | None = None,
    ) -> None:
        """`keep_features`: items may come in parts. Without `encoding`, raw content is refused. `dependents`: items by
        their neighbours, in a space with graph fusion, which needs `keep_features`. `watch` looks at all vectors, and
        `code_use` at their codes."""
        self.topics = output.topics
        self._num_read = 0
        self._uninformative = Uninformative()
        self.tried: WatchedItems | None = None
        """What knows the last items, and their vectors."""
        self.use(output, embedder, watch, code_use)
        self._contract = contract
        self._keep_features = keep_features
        self.encoding = encoding
        self.dependents = dependents
        self._unsettled: dict[int, set[str]] = {}
        """Items by partition that are to be computed anew once what is known of them is settled. Poll thread."""
        self.stages: Sequence[Stage] = [
            *(() if encoding is None else encoding.stages),
            *(() if dependents is None else (dependents.stage,)),
        ]
        self._decoder = ItemDecoder(
            contract,
            partial=keep_features,
            encodes=None if encoding is None else encoding.encoder,
            graph=dependents is not None,
            max_future_s=max_future_s,
            foreign=foreign,
        )

    def use(
        self, output: ItemFormat, embedder: Embedder, watch: VectorWatch | None, code_use: CodeUse | None
    ) -> Embedder:
        """From now on this model and this way to write; returns it as it is to be served. At the start, or, by any
        thread, in the place of one of equal contract."""
        if watch is not None:
            watch.count_inputs(lambda: (self._num_read, dict(self._uninformative.totals)))
        self.tried = None if watch is None else WatchedItems(embedder, watch, output.dtype)
        self.embedder = MadeBefore(self.tried or embedder)
        self.output, self.watch, self._code_use = output, watch, code_use
        return self.embedder

    def decode(self, records: Sequence[Record]) -> DecodedRecords:
        decoded = self._decoder.decode(records)
        self._num_read += len(records)
        if decoded.uninformative:
            self._uninformative.add(decoded.uninformative, time.monotonic())
        return decoded

    def accept(self, entries: Sequence[Decoded], overlay: StateOverlay[ItemState]) -> list[Entry]:
        return [self._accept_one(entry, overlay) for entry in entries]

    def _accept_one(self, entry: Decoded, overlay: StateOverlay[ItemState]) -> Entry:
        if isinstance(entry, Unused):
            known = overlay.get(entry.id)
            return entry.rejection if known is None else Superseded(entry.record, "unused_modality")
        if not isinstance(entry, Item | Delete):
            return entry  # type: ignore[return-value]  # this half decodes no actions
        offset, known = entry.record.offset, overlay.get(entry.id)
        at = overlay.log.at(offset)
        if known is not None and at < known.offset:
            return Superseded(entry.record)
        is_overtaken = overlay.is_overtaken(entry.id, offset)
        if isinstance(entry, Delete):
            overlay.put(entry.id, None, offset)
            if self.dependents is not None and known is not None and known.neighbors is not None:
                self.dependents.waiting.remove(known.neighbors.ids, entry.record.partition, entry.id)
            return Delete(entry.record, entry.id, is_overtaken, at)
        state = merged(known, entry, at, entry.digests, entry.message)
        if state is None:
            return Superseded(entry.record)
        has_vector = state.made is not None and state.made.stamp == self.output.stamp
        if state.made is not None and not has_vector:
            state = state._replace(made=None)
        state = self._waiting(state, entry.record.partition, entry.id)
        kept = state if self._keep_features else state.without_parts()
        overlay.put(entry.id, kept, offset)
        return Item(
            entry.record, entry.id, state.revision, state.event_time_ms, state.features, False, kept, is_overtaken,
            at=at, has_vector=has_vector,
        )  # fmt: skip

    def _waiting(self, state: ItemState, partition: int, item_id: str) -> ItemState:
        """The state, with those of its neighbours that have no vector; the item then waits for them."""
        if self.dependents is None or state.neighbors is None:
            return state
        # It goes on waiting for those it named before: if the model fails on this message, they are its neighbours.
        missing = self.dependents.add(state.neighbors.ids, partition, item_id)
        return state._replace(neighbors=state.neighbors._replace(missing=tuple(missing)))

    def decode_state(self, value: bytes) -> ItemState:
        """Without parts that another space has accepted and this one refuses."""
        state = ItemState.decode(value)
        if state.parts and self._contract.check(features := state.features) is not features:
            parts = {
                name: part
                for name, part in state.parts.items()
                if not isinstance(self._contract.check({name: part.feature}), Refusal)
            }
            return state._replace(parts=parts, made=None, message=None)
        return state

    def look_back(
        self,
        tenure: Tenure,
        overlay: StateOverlay[ItemState],
        log: PartitionReader,
        watched: Watched,
        *,
        is_whole: bool,
    ) -> int:
        """Which inputs an earlier owner has published after its last commit.

        They are computed again; publishing the older ones after the newer would undo these. The commit carries a note
        of where in the output partition the uncommitted outputs begin (`tenure.Note`).
        """
        partition = TopicPartition(self.topics.outputs, tenure.partition.partition)
        note = parse_note(tenure.commit.metadata)
        start = None if note is None or is_whole else note.vectors_end
        groups = watched(log.read(partition, start, at_least_last=NUM_CHECKED, timeout_s=READ_TIMEOUT_S))
        overlay.published = newest_published(
            chain.from_iterable(groups), self.output.space_id, self.output.compatible_ids
        )
        return max(overlay.published.values(), default=-1)

    def restore_extra(self, tenure: Tenure, overlay: StateOverlay[ItemState], watched: Watched) -> Collection[str]:
        begins_at = overlay.log.at(tenure.commit.offset)
        overlay.published = {key: at for key, at in overlay.published.items() if at >= begins_at}
        return () if self.dependents is None else self.dependents.restore_extra(tenure, overlay, watched, _neighbors)

    def recompute(self, keys: Collection[str], partition: int, overlay: StateOverlay[ItemState]) -> list[Entry]:
        now_ms = time.time_ns() // 1_000_000
        entries: list[Entry] = []
        for key in keys:
            if not overlay.is_settled(key):  # its message may yet become a dead letter, and so have no vector
                self._unsettled.setdefault(partition, set()).add(key)
                continue
            state = overlay.get(key)
            # What an earlier owner has published of a newer message is computed when that message comes again.
            if state is not None and state.offset >= overlay.published.get(key, 0):
                prompt = RecomputeTrigger(self.topics.inputs, partition, now_ms, key.encode(), state.offset)
                entries.append(Recompute(prompt, key, state))
        return entries

    def newly_due(self) -> Mapping[int, Collection[str]]:
        if self.dependents is None:
            return {}
        unsettled, self._unsettled = self._unsettled, {}
        found = self.dependents.newly_due()
        return {
            number: {*unsettled.get(number, ()), *found.get(number, ())} for number in unsettled.keys() | found.keys()
        }

    def wait_in_next(self, dependents: Dependents | None) -> None:
        return

    def forget(self, partition: int) -> None:
        self._unsettled.pop(partition, None)
        if self.dependents is not None:
            self.dependents.waiting.forget(partition)

    @property
    def can_recompute_all(self) -> bool:
        return self._keep_features

    def is_ready(self) -> bool:
        return self.dependents is None or self.dependents.catalogue.is_ready

    def is_up_to_date(self) -> bool:
        return self.dependents is None or self.dependents.catalogue.is_up_to_date()

    def notices(self) -> Sequence[Notice]:
        return [] if self.dependents is None else self.dependents.notices()

    def unreadable(self) -> Sequence[UnreadableError]:
        return () if self.dependents is None else self.dependents.catalogue.unreadable

    def status(self) -> Mapping[str, int]:
        silent = {f"features without information: {name}": count for name, count in self._uninformative.totals.items()}
        return silent if self.dependents is None else {**self.dependents.status(), **silent}

    def export(self, metrics: Metrics) -> None:
        if self._code_use is not None:
            metrics.show_codes(self._code_use.perplexities(), self._code_use.residual_ratio)
        for name, count in self._uninformative.totals.items():
            raise_to(metrics.uninformative.labels(metrics.topic, name), count)
        if self.dependents is not None:
            self.dependents.export(metrics)

    def close(self) -> None:
        if self.encoding is not None:
            self.encoding.close()
        if self.dependents is not None:
            self.dependents.catalogue.close()


def _neighbors(value: bytes) -> tuple[Sequence[str], Sequence[str]]:
    """All that an item names, and those that had no vector at its last message."""
    named = ItemState.decode(value).neighbors
    return ((), ()) if named is None else (named.ids, named.missing)


def newest_published(records: Iterable[Record], space_id: str, compatible_ids: Collection[str] = ()) -> dict[str, int]:
    """The place of the newest input of each item that the output records come from (`InputLog.at`).

    Raises `SpaceError` for a vector of another space, unless that is one of `compatible_ids`: vectors of two spaces in
    one topic would be compared with each other by whoever reads it.
    """
    newest: dict[str, int] = {}
    for record in records:
        try:
            item_id = (record.key or b"").decode()
            if record.value is None:
                offset = of_deletion(record)
            else:
                vector = decode_vector(ItemVector, record.value, check_values=False)
                offset = vector.source_offset
                if vector.space_id != space_id and vector.space_id not in compatible_ids:
                    raise _foreign_space(record, vector, space_id)
        except (SchemaError, ValueError) as error:
            logger.warning(
                "%s/%d offset %d is not an output of this worker: %s",
                record.topic, record.partition, record.offset, error, extra={"action": "foreign_output"},
            )  # fmt: skip
            continue
        if offset is not None:
            newest[item_id] = offset
    return newest


def _foreign_space(record: Record, vector: ItemVector, space_id: str) -> SpaceError:
    return SpaceError(
        f"topic {record.topic} holds vectors of space {vector.space_id}, but space.path is space {space_id}: "
        f"give the new space a topic of its own (topics.item_vectors), set space.path back, or, if it was trained like "
        f"the other, measure whether their vectors can be compared (`align-worker space relate`)"
    )
