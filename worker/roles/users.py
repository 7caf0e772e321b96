"""The users half: events to user vectors."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from schemas import encode_user_vector
from worker.catalogue import Catalogue
from worker.decode import DecodedRecords, EventDecoder
from worker.flow import Flow
from worker.fuse import Embedder, Vector
from worker.histories import UserState, with_event
from worker.kafka.port import LogPort
from worker.memory import Memory
from worker.metrics import Metrics, raise_to
from worker.publish import Outbound, carried_headers
from worker.records import Action, Change, Decoded, Entry, Headers, Recompute, Superseded, User
from worker.roles.role import Watched
from worker.stage import Stage
from worker.state.packing import is_marked
from worker.tenure import ChangeReceipt, Share, Tenure
from worker.waiting import Waiting

READY_STEP_S = 0.05


@dataclass(frozen=True, slots=True)
class UserFormat:
    """What every user vector of this process has in common."""

    flow: Flow
    space_id: str
    dtype: Literal["f2", "f4"]
    dim: int

    @property
    def dead_letter_topic(self) -> str:
        return self.flow.dead_letters

    def output(self, share: Share, entry: Change, vector: Vector | None, now_ms: int) -> Outbound | None:
        if vector is None:
            return None
        assert isinstance(entry, User | Recompute)
        value = encode_user_vector(
            user_id=entry.id,
            event_time_ms=entry.state.events[-1].event_time_ms,  # type: ignore[attr-defined]
            num_events=vector.num_events,
            space_id=self.space_id,
            dtype=self.dtype,
            shape=(self.dim,),
            data=vector.data,
            produced_at_ms=now_ms,
        )
        record = entry.record
        return Outbound(self.flow.outputs, record.partition, record.key, value, carried_headers(record), share)

    def change(self, share: Share, entry: Change) -> Outbound | None:
        if not isinstance(entry, User):
            return None
        record = entry.record
        return Outbound(self.flow.state, record.partition, record.key, entry.state.encode(), (), ChangeReceipt(share))


class _Prompt(NamedTuple):
    """Stands in for the record that a recomputation has not got."""

    topic: str
    partition: int
    timestamp: int
    key: bytes
    offset: int = -1
    value: bytes | None = None
    headers: Headers = ()


class UsersRole:
    """Implements `Role`."""

    encoding = None

    def __init__(
        self,
        output: UserFormat,
        embedder: Embedder,
        catalogue: Catalogue,
        waiting: Waiting,
        event_types: Collection[str],
        last: int,
        *,
        follows_changes: bool,
    ) -> None:
        """`last`: events kept per user. `follows_changes`: users are computed anew when an item of theirs changes, not
        only when it appears."""
        self.flow = output.flow
        self.output = output
        self.embedder = embedder
        self.catalogue = catalogue
        self.waiting = waiting
        self.stages: Sequence[Stage] = (Stage("catalogue", catalogue.step),)
        self._last = last
        self._follows_changes = follows_changes
        self._decoder = EventDecoder(event_types)

    def decode(self, records: Sequence[Any]) -> DecodedRecords:
        return self._decoder.decode(records)

    def accept(self, entries: Sequence[Decoded], memory: Memory[UserState]) -> list[Entry]:
        return [self._accept_one(entry, memory) for entry in entries]

    def _accept_one(self, entry: Decoded, memory: Memory[UserState]) -> Entry:
        if not isinstance(entry, Action):
            return entry
        record = entry.record
        state = with_event(memory.get(entry.id), entry.event, record.offset, self._last)
        if isinstance(state, str):
            return Superseded(record, state)
        state = self._awaiting(state, record.partition, entry.id)
        memory.put(entry.id, state, record.offset)
        return User(record, entry.id, entry.event.event_time_ms, state)

    def _awaiting(self, state: UserState, partition: int, user_id: str) -> UserState:
        """The state, marked if an item of it has no vector; the user then waits for that item."""
        table = self.catalogue.table
        items = [event.item_id for event in state.events]
        missing = [item_id for item_id in items if item_id not in table]
        if missing or self._follows_changes:
            self.waiting.add(items if self._follows_changes else missing, partition, user_id)
        return replace(state, is_incomplete=bool(missing))

    def decode_state(self, value: bytes) -> UserState:
        return UserState.decode(value)

    def recall(self, tenure: Tenure, memory: Memory[UserState], log: LogPort, watched: Watched) -> Collection[str]:
        """Who waits for an item, once all item vectors have been read; who has got one meanwhile is computed anew."""
        while not self.catalogue.is_ready:
            list(watched(()))
            if not tenure.is_live:
                return ()
            time.sleep(READY_STEP_S)
        table, partition = self.catalogue.table, tenure.partition.partition
        found = set()
        for user_id, value in memory.items():
            if not (is_marked(value) or self._follows_changes):
                continue
            state = UserState.decode(value)
            items = [event.item_id for event in state.events]
            missing = [item_id for item_id in items if item_id not in table]
            self.waiting.add(items if self._follows_changes else missing, partition, user_id)
            # Looked up again, because its news may have come before somebody waited for it. Which items have changed
            # since the user was computed last is not known.
            if self._follows_changes or any(item_id in table for item_id in items):
                found.add(user_id)
        return found

    def recompute(self, keys: Collection[str], partition: int, memory: Memory[UserState]) -> list[Entry]:
        now_ms = time.time_ns() // 1_000_000
        entries: list[Entry] = []
        for key in keys:
            state = memory.get(key)
            if state is not None:
                entries.append(Recompute(_Prompt(self.flow.inputs, partition, now_ms, key.encode()), key, state))
        return entries

    def arrivals(self) -> Mapping[int, Collection[str]]:
        appeared, changed = self.catalogue.news()
        found: dict[int, set[str]] = {}
        for items in (appeared, changed if self._follows_changes else []):
            for partition, users in self.waiting.take(items, keep=self._follows_changes).items():
                found.setdefault(partition, set()).update(users)
        return found

    def forget(self, partition: int) -> None:
        self.waiting.forget(partition)

    def is_ready(self) -> bool:
        return self.catalogue.is_ready

    def figures(self) -> Mapping[str, int]:
        return {
            "item vectors": self.catalogue.table.num_items,
            "item vectors to read": self.catalogue.num_behind,
            "waiting for an item": self.waiting.num_pairs,
        }

    def measure(self, metrics: Metrics) -> None:
        topic, table = self.flow.inputs, self.catalogue.table
        metrics.waiting.labels(topic).set(self.waiting.num_pairs)
        metrics.table_items.labels(topic).set(table.num_items)
        metrics.table_bytes.labels(topic).set(table.num_bytes())
        raise_to(metrics.waiting_overflow.labels(topic), self.waiting.num_overflown)
        raise_to(metrics.table_foreign.labels(topic), self.catalogue.num_foreign)

    def close(self) -> None:
        self.catalogue.close()
