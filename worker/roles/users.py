"""The users half: events to user vectors."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas import encode_user_vector
from worker.errors import UnreadableError
from worker.item_vectors.dependents import Dependents
from worker.kafka.port import Outbound, PartitionReader
from worker.monitoring.metrics import Metrics, raise_to
from worker.partitions.batch_slice import Receipt
from worker.partitions.tenure import Tenure
from worker.records import (
    Action,
    Backfilled,
    Change,
    Decoded,
    Entry,
    Notice,
    Recompute,
    RecomputeTrigger,
    Superseded,
    User,
)
from worker.roles.left_out import UnusedTypes
from worker.stages.decode import MAX_FUTURE_S, DecodedRecords, EventDecoder, ForeignEvents
from worker.stages.fuse import Embedder, Vector
from worker.stages.stage import Stage, Watched
from worker.stages.trace import carried_headers
from worker.state.overlay import StateOverlay
from worker.state.users import UserState, with_event
from worker.topics import RoleTopics
from worker.vector_health import VectorWatch


@dataclass(frozen=True, slots=True)
class UserFormat:
    """Writes user vectors, with what all of this process have in common."""

    topics: RoleTopics
    space_id: str
    dtype: Literal["f2", "f4"]
    dim: int
    written: Callable[[bytes], bytes] | None = None
    """Settings as of `ItemFormat`."""

    @property
    def dead_letter_topic(self) -> str:
        return self.topics.dead_letters

    @property
    def state_topic(self) -> str:
        return self.topics.state

    def output(self, entry: Change, vector: Vector | None, now_ms: int, receipt: Receipt) -> Outbound | None:
        if vector is None:
            return None
        assert isinstance(entry, User | Recompute | Backfilled)
        value = encode_user_vector(
            user_id=entry.id,
            event_time_ms=entry.state.events[-1].event_time_ms,  # type: ignore[union-attr]
            num_events=vector.num_events,
            space_id=self.space_id,
            dtype=self.dtype,
            shape=(self.dim,),
            data=vector.data,
            produced_at_ms=now_ms,
        )
        if self.written is not None:
            value = self.written(value)
        record = entry.record
        return Outbound(self.topics.outputs, record.partition, record.key, value, carried_headers(record), receipt)

    def change(self, entry: Change, vector: Vector | None, receipt: Receipt) -> Outbound | None:
        if not isinstance(entry, User):
            return None
        record = entry.record
        return Outbound(self.topics.state, record.partition, record.key, entry.state.encode(), (), receipt)


class UsersRole:
    """Implements `Role`."""

    encoding = None
    recomputes_in_backlog = True

    def __init__(
        self,
        output: UserFormat,
        embedder: Embedder,
        dependents: Dependents,
        event_types: Collection[str],
        last: int,
        max_future_s: float = MAX_FUTURE_S,
        foreign: ForeignEvents | None = None,
        watch: VectorWatch | None = None,
    ) -> None:
        """`last`: events kept per user. `max_future_s` and `foreign` as in `EventDecoder`. `watch`: what looks at the
        vectors of `embedder`."""
        self.topics = output.topics
        self.use(output, embedder, watch)
        self.dependents = dependents
        self.stages: Sequence[Stage] = (dependents.stage,)
        self._last = last
        self._in_next: Dependents | None = None
        """By the items of the next space."""
        self._decoder = EventDecoder(event_types, max_future_s=max_future_s, foreign=foreign)
        self._unused = UnusedTypes(event_types)

    def use(self, output: UserFormat, embedder: Embedder, watch: VectorWatch | None) -> Embedder:
        """From now on this model and this way to write, at the start, or, by any thread, in the place of one of equal
        contract; returns it as it is to be served."""
        self.output, self.embedder, self.watch = output, embedder, watch
        return embedder

    def decode(self, records: Sequence[Any]) -> DecodedRecords:
        decoded = self._decoder.decode(records)
        if decoded.unused_types:
            self._unused.add(decoded.unused_types, time.monotonic())
        return decoded

    def accept(self, entries: Sequence[Decoded], overlay: StateOverlay[UserState]) -> list[Entry]:
        return [self._accept_one(entry, overlay) for entry in entries]

    def _accept_one(self, entry: Decoded, overlay: StateOverlay[UserState]) -> Entry:
        if not isinstance(entry, Action):
            return entry  # type: ignore[return-value]  # this half decodes no items
        record = entry.record
        state = with_event(overlay.get(entry.id), entry.event, overlay.log.at(record.offset), self._last)
        if isinstance(state, str):
            return Superseded(record, state)
        state = self._awaiting(state, record.partition, entry.id)
        overlay.put(entry.id, state, record.offset)
        return User(record, entry.id, entry.event.event_time_ms, state)

    def _awaiting(self, state: UserState, partition: int, user_id: str) -> UserState:
        """The state, marked if an item of it has no vector in a space; the user then waits for that item."""
        items = [event.item_id for event in state.events]
        missing = self.dependents.add(items, partition, user_id)
        if self._in_next is not None:
            missing = [*missing, *self._in_next.add(items, partition, user_id)]
        return state._replace(is_incomplete=True) if missing else state

    def decode_state(self, value: bytes) -> UserState:
        return UserState.decode(value)

    def look_back(
        self,
        tenure: Tenure,
        overlay: StateOverlay[UserState],
        log: PartitionReader,
        watched: Watched,
        *,
        is_whole: bool,
    ) -> int:
        return -1  # a user's vector says nothing of the log

    def restore_extra(self, tenure: Tenure, overlay: StateOverlay[UserState], watched: Watched) -> Collection[str]:
        """Learn who waits for an item, once all item vectors have been read; users whose item has appeared since are
        due."""

        return self.dependents.restore_extra(tenure, overlay, watched, made_of)

    def recompute(self, keys: Collection[str], partition: int, overlay: StateOverlay[UserState]) -> list[Entry]:
        now_ms = time.time_ns() // 1_000_000
        entries: list[Entry] = []
        for key in keys:
            state = overlay.get(key)
            if state is not None:
                trigger = RecomputeTrigger(self.topics.inputs, partition, now_ms, key.encode())
                entries.append(Recompute(trigger, key, state))
        return entries

    def newly_due(self) -> Mapping[int, Collection[str]]:
        return self.dependents.newly_due()

    def forget(self, partition: int) -> None:
        self.dependents.waiting.forget(partition)
        if self._in_next is not None:
            self._in_next.waiting.forget(partition)

    def wait_in_next(self, dependents: Dependents | None) -> None:
        self._in_next = dependents

    @property
    def can_recompute_all(self) -> bool:
        return True

    def is_ready(self) -> bool:
        return self.dependents.catalogue.is_ready

    def is_up_to_date(self) -> bool:
        # The items have been finished before, and their vectors read before this was ready, as far as they can be.
        return not self.dependents.catalogue.unreadable

    def unreadable(self) -> Sequence[UnreadableError]:
        return self.dependents.catalogue.unreadable

    def notices(self) -> Sequence[Notice]:
        return self.dependents.notices()

    def status(self) -> Mapping[str, int]:
        unused = {f"unused events: {name}": count for name, count in self._unused.totals.most_common()}
        return {**self.dependents.status(), **unused}

    def export(self, metrics: Metrics) -> None:
        self.dependents.export(metrics)
        for name, count in self._unused.totals.items():
            raise_to(metrics.unused_events.labels(metrics.topic, name), count)

    def close(self) -> None:
        self.dependents.catalogue.close()


def made_of(value: bytes) -> tuple[list[str], list[str]]:
    """The items of a remembered user, all of which they may wait for."""
    items = [event.item_id for event in UserState.decode(value).events]
    return items, items
