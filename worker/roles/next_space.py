"""The space that a role publishes beside the live one, while a rollout moves from that to this.

What is decoded, encoded, merged and remembered is so once; here it is fused a second time. What goes wrong with the
next space ends its part of the work, and not that of the live one, until readers read it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from schemas import AnyFeature
from worker.align import Contract, Refusal
from worker.errors import WorkerError
from worker.item_vectors.dependents import READY_STEP_S, Dependents
from worker.kafka.port import TopicLook
from worker.partitions.backfill import Backfill, Due
from worker.partitions.batch_slice import BatchSlice
from worker.partitions.tenure import Tenure
from worker.records import Backfilled, Change, Delete, Item, Recompute, RecomputeTrigger, Record, User
from worker.roles.items import ItemFormat, newest_published
from worker.roles.user_pool import UserPool
from worker.roles.users import UserFormat, made_of
from worker.roles.watched import WatchedItems, WatchedUsers, features_of
from worker.stages.fuse import Beside, Embedder, NoVector, Result, Vector, isolate
from worker.stages.stage import STEP_TIMEOUT_S, Watched
from worker.state.items import ItemState
from worker.state.overlay import StateOverlay
from worker.state.users import UserState
from worker.vector_health import VectorWatch

log = logging.getLogger(__name__)

TABLE_TIMEOUT_S = 30.0
NUM_TOLERATED = 3
"""Failures of its outputs in a row, without one that is written, which may be the brokers' condition."""


class NextItems:
    """The next space as its own `Embedder`: of items, whatever the live space has accepted of them."""

    def __init__(
        self,
        embed: Callable[[Sequence[Mapping[str, AnyFeature]]], list[Result]],
        probe: Callable[[], None],
        contract: Contract,
    ) -> None:
        self._embed = embed
        self._contract = contract
        self.probe = probe

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        checked = [self._checked(entry) for entry in entries]
        made = iter(self._embed([each for each in checked if not isinstance(each, Refusal)]))
        return [None if isinstance(each, Refusal) else next(made) for each in checked]

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def why(self, entry: Change) -> str:
        """Why there is no vector."""
        found = self._checked(entry)
        return found.detail if isinstance(found, Refusal) else "the vector is not finite"

    def _checked(self, entry: Change) -> Mapping[str, AnyFeature] | Refusal:
        features = features_of(entry)
        return self._contract.check(features) if features else features


class NextUsers:
    """The same of users: what is remembered may reach further back than the space looks."""

    def __init__(self, pool: UserPool, last: int) -> None:
        self._pool = pool
        self._last = last

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        states = [entry.state for entry in entries if isinstance(entry, User | Recompute | Backfilled)]
        return self._pool.pooled([self._seen(state) for state in states])

    def _seen(self, state: Any) -> UserState:
        assert isinstance(state, UserState)
        return state if len(state.events) <= self._last else state._replace(events=state.events[-self._last :])

    def padded_size(self, num_entries: int) -> int:
        return num_entries

    def probe(self) -> None:
        self._pool.probe()

    def why(self, entry: Change) -> str:
        return "the vector is not finite"


class NextSpace:
    """Of one role. Implements `stages.fuse.NextSpace`; compute, publish, poll and restore thread."""

    def __init__(
        self,
        output: ItemFormat | UserFormat,
        embedder: NextItems | NextUsers,
        dependents: Dependents | None = None,
        *,
        watched: WatchedItems | WatchedUsers | None = None,
        topic_id: str = "",
        may_begin: Callable[[], bool] = lambda: True,
        is_read: Callable[[], bool] = lambda: False,
        on_failed: Callable[[str], None] = lambda detail: None,
    ) -> None:
        """`watched` is the embedder with a watch over what it makes. `dependents`: of the users, by the items of this
        space; `may_begin`: whether it has all of these. `is_read`: whether readers read it, and it is no longer to be
        given up. `on_failed` is told once why it is given up."""
        self.output: ItemFormat | UserFormat = output
        self.space_id = output.space_id
        self.topic = output.topics.outputs
        self.dependents = dependents
        self.topic_id = topic_id
        self.failure = ""
        """Why it is given up."""
        self._may_begin = may_begin
        self._is_ready = dependents is None
        self._embedder = embedder
        self._made_by: Embedder = embedder if watched is None else watched
        self.watch: VectorWatch | None = None if watched is None else watched.watch
        self._is_read = is_read
        self._on_failed = on_failed
        self._num_failures = 0

    @property
    def is_of_items(self) -> bool:
        return isinstance(self.output, ItemFormat)

    def is_ready(self) -> bool:
        """Whether what is remembered may be computed: of users, once it has its items. Then it stays so."""
        if not self._is_ready and self._may_begin() and self.dependents is not None:
            self._is_ready = self.dependents.catalogue.is_up_to_date()
        return self._is_ready

    def fail(self, detail: str) -> None:
        """Give it up, whatever it was that failed. The live space goes on."""
        if not self.failure:
            self.failure = detail
            log.error("the next space, %s, is given up: %s", self.space_id, detail, extra={"action": "next_failed"})
            self._on_failed(detail)

    def output_failed(self, error: WorkerError, *, is_transient: bool) -> bool:
        """An output of it could not be written; returns whether that is its own affair: then it is given up."""
        self._num_failures += 1
        if self._is_read() or (is_transient and self._num_failures < NUM_TOLERATED):
            return False
        self.fail(error.one_line())
        return True

    def looked(self, look: TopicLook | None) -> None:
        """What has been seen of its topic."""
        if self._is_read():
            return
        if look is None:
            self.fail(f"topic {self.topic!r} is gone")
        elif look.topic_id and self.topic_id and look.topic_id != self.topic_id:
            self.fail(f"topic {self.topic!r} was deleted and made again")

    def output_written(self) -> None:
        self._num_failures = 0

    def close(self) -> None:
        """It is published no more."""
        if self.dependents is not None:
            self.dependents.stage.stop(STEP_TIMEOUT_S * 5)
            self.dependents.catalogue.close()

    # ------------------------------------------------------------------ compute thread

    def beside(self, slices: Sequence[BatchSlice], on_out_of_memory: Callable[[], None]) -> Sequence[Beside | None]:
        if self.failure:
            return [None] * len(slices)
        try:
            return self._beside(slices, on_out_of_memory)
        except Exception as error:
            if self._is_read():
                raise
            self.fail(error.one_line() if isinstance(error, WorkerError) else repr(error))
            return [None] * len(slices)

    def _beside(self, slices: Sequence[BatchSlice], on_out_of_memory: Callable[[], None]) -> list[Beside | None]:
        work = [(each, entry) for each in slices for entry in each.newest.values() if _is_computed(entry)]
        results = iter(isolate([entry for _, entry in work], self._made_by, on_out_of_memory) if work else ())
        made: list[Beside | None] = []
        for each in slices:
            published: list[tuple[Change, Vector | None]] = []
            missing: dict[str, str] = {}
            for entry in each.newest.values():
                if not _is_computed(entry):
                    if isinstance(entry, Delete | Backfilled) and not entry.is_overtaken:
                        published.append((entry, None))
                    continue
                result = next(results)
                if isinstance(result, Vector):
                    published.append((entry, result))
                elif isinstance(result, Exception):
                    missing[entry.id] = f"{type(result).__name__}: {result}"
                elif not isinstance(result, NoVector):
                    missing[entry.id] = self._embedder.why(entry)
            made.append(Beside(self, published, missing))
        return made

    # ------------------------------------------------------------------ poll thread

    def entry(self, due: Due, backfill: Backfill, partition: int, overlay: StateOverlay[Any]) -> Backfilled | None:
        """What is to be computed; None where there is nothing to do."""
        state, place = overlay.get(due.key), backfill.held(due.key)
        if state is None and not due.is_gone:
            return None
        if isinstance(state, ItemState):
            if due.place >= 0 and place >= state.offset:
                return None
            place = state.offset
        elif isinstance(state, UserState) and self.dependents is not None:
            self.dependents.add([event.item_id for event in state.events], partition, due.key)
        now_ms = time.time_ns() // 1_000_000
        trigger = RecomputeTrigger(self.output.topics.inputs, partition, now_ms, due.key.encode(), place)
        return Backfilled(trigger, due.key, state, due.place)

    # ------------------------------------------------------------------ restore thread, and the one that plans

    def look_back(self, groups: Iterable[Sequence[Record]]) -> dict[str, int]:
        """The places of what an earlier owner has published. Raises `SpaceError` for another space's vectors."""
        if not self.is_of_items:
            return {}
        return newest_published((record for records in groups for record in records), self.space_id)

    def recall(self, tenure: Tenure, overlay: StateOverlay[Any], watched: Watched) -> Collection[str] | None:
        """Who is to be computed anew in a partition that an earlier owner has begun with; None where its items cannot
        be read in time."""
        if self.dependents is None:
            return ()
        deadline = time.monotonic() + TABLE_TIMEOUT_S
        while not self.dependents.catalogue.is_ready:
            list(watched(()))
            if not tenure.is_live or time.monotonic() > deadline:
                return None
            time.sleep(READY_STEP_S)
        self._is_ready = True
        return self.dependents.restore_extra(tenure, overlay, watched, made_of)

    def held(self, groups: Iterable[Sequence[Record]]) -> tuple[dict[str, int], set[str]]:
        """All places in its output partition, and of whom there is a vector. Raises as `look_back` does."""
        places: dict[str, int] = {}
        there: set[str] = set()
        for records in groups:
            places |= newest_published(records, self.space_id)
            for record in records:
                key = (record.key or b"").decode(errors="replace")
                if record.value is None:
                    there.discard(key)
                else:
                    there.add(key)
        return places, there


def _is_computed(entry: Change) -> bool:
    if isinstance(entry, Backfilled):
        return entry.state is not None
    return isinstance(entry, Item | User | Recompute) and not entry.is_overtaken
