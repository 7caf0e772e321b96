"""Restore of a partition: the state its earlier owners left is taken over before work begins.

The store holds all of the changelog up to some offset; the rest is read from there. Partitions are restored one after
the other, on a thread of their own, while the loop goes on with those that are ready.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.errors import ClientError, SpaceError, StateError, TopicError, WorkerError
from worker.kafka.port import ClientPort, TopicLook
from worker.loop.origin import FoundLogs, Known, Origin, are_different, found_logs, watched_topics
from worker.partitions.backfill import Backfill, NextNote, place_of
from worker.partitions.tenure import Note, Tenure, format_note, parse_note
from worker.records import Record, TopicPartition
from worker.roles.next_space import NextSpace
from worker.roles.role import Role
from worker.stages.stage import STEP_TIMEOUT_S, Stage
from worker.state import Store, Stores
from worker.state.input_log import KEY as LOG_KEY
from worker.state.input_log import InputLog
from worker.state.overlay import StateOverlay
from worker.state.packing import is_readable

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 30.0
RETRY_S = 1.0
LOOK_S = 5.0  # how soon it is seen that a topic was deleted, or made again


@dataclass(frozen=True, slots=True)
class Restored:
    """State that `tenure` starts from."""

    tenure: Tenure
    overlay: StateOverlay[Any] | None
    """None with an error."""
    recompute: Collection[str] = ()
    """Ids that are to be computed anew."""
    origin: Origin | None = None
    """Where the tenure begins."""
    told: Sequence[str] = ()
    """Sentences about logs that are not those of before."""
    error: WorkerError | None = None


class Plan(NamedTuple):
    """What a backfill has to do, as `Backfill.plan` takes it."""

    backfill: Backfill
    places: Sequence[tuple[int, str]]
    held: Mapping[str, int]
    gone: Collection[str]


class Progress(NamedTuple):
    """Progress of the partition that is being restored."""

    partition: int
    position: int
    """In the changelog."""
    end: int


class RestoreStage(Stage):
    """The restore thread, one partition after the other.

    The poll thread calls `request`, `keep_only` and `results`, which go through queues, and reads `looked`, `progress`
    and `num_records`: each is one reference, replaced whole.
    """

    def __init__(
        self,
        client: ClientPort,
        role: Role,
        stores: Stores,
        *,
        refuses_new_logs: bool = False,
        next_space: Callable[[], NextSpace | None] = lambda: None,
    ) -> None:
        """`refuses_new_logs`: where a log is another one than before, that is an error. `next_space`: what is published
        beside the live one at present."""
        super().__init__("restore", self.restore_next)
        self._log = client.log()
        self._topics = client.topics()
        self._refuses_new_logs = refuses_new_logs
        self._next_look = 0.0
        self.looked: Mapping[str, TopicLook] | None = None
        """The role's topics at the last look, another object each time. None before the first."""
        self._role = role
        self._stores = stores
        self._next_space = next_space
        self._requests: queue.SimpleQueue[Tenure | Collection[int]] = queue.SimpleQueue()
        self._to_plan: queue.SimpleQueue[tuple[Tenure, Backfill]] = queue.SimpleQueue()
        self._plans: queue.SimpleQueue[Plan] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Restored] = queue.SimpleQueue()
        self.progress: Progress | None = None
        self.num_records = 0
        """Changelog records read so far."""

    def request(self, tenure: Tenure) -> None:
        self._requests.put(tenure)

    def keep_only(self, partitions: Collection[int]) -> None:
        """Let go of what is known of all others: they have gone to other workers."""
        self._requests.put(partitions)

    def results(self) -> list[Restored]:
        """Partitions restored since the last call. Never waits."""
        results = []
        while not self._results.empty():
            results.append(self._results.get())
        return results

    def request_plan(self, tenure: Tenure, backfill: Backfill) -> None:
        """What there is to be published in the next space, once there is nothing to restore."""
        self._to_plan.put((tenure, backfill))

    def plans(self) -> list[Plan]:
        """What has been planned since the last call. Never waits."""
        plans = []
        while not self._plans.empty():
            plans.append(self._plans.get())
        return plans

    def restore_next(self) -> None:
        """Restore the next partition; returns after a moment when there is none."""
        try:
            request = self._requests.get(timeout=0 if not self._to_plan.empty() else STEP_TIMEOUT_S)
        except queue.Empty:
            if self._to_plan.empty():
                self._look_due()
            else:
                self._plan(*self._to_plan.get())
            return
        if not isinstance(request, Tenure):
            self._stores.keep_only(request)
        elif request.is_live:
            committed = request.commit
            try:
                self._results.put(self._restore(request))
            except WorkerError as error:
                request.commit = committed  # it may say of a next space what has to be taken over again
                time.sleep(RETRY_S)
                self._results.put(Restored(request, None, error=error))
            finally:
                self.progress = None

    def close(self) -> None:
        """Once the restore thread has ended."""
        self._log.close()
        self._topics.close()

    def _restore(self, tenure: Tenure) -> Restored:
        topics, number = self._role.topics, tenure.partition.partition
        looked = self._look_now()
        outputs_id = looked[topics.outputs].topic_id
        state_id = looked[topics.state].topic_id if topics.state else ""
        store = self._stores.open(number, state_id)
        if topics.state:
            self._catch_up(store, TopicPartition(topics.state, number))
        overlay: StateOverlay[Any] = StateOverlay(store, self._role.decode_state)
        reached = self._take_over_next(tenure)
        note = parse_note(tenure.commit.metadata)
        known = Known(
            committed=tenure.commit.offset,
            note=note,
            remembered=store.log,
            newest_published=self._role.look_back(
                tenure, overlay, self._log, self._watched, is_whole=are_different(note and note.state_id, state_id)
            ),
            topic_id=looked[topics.inputs].topic_id,
            first=self._log.beginning(tenure.partition, READ_TIMEOUT_S),
            end=self._log.end(tenure.partition, READ_TIMEOUT_S),
            doubt=tenure.doubt,
        )
        found = found_logs(known, outputs_id, state_id)
        self._require_allowed(found, looked)
        if found.are_outputs_new and not self._role.can_recompute_all:  # from the log, then, all of which counts anew
            log = found.origin.log
            start = Origin(log._replace(era=log.era + 1), known.first, found.origin.reason)
        elif found.is_state_new and not found.origin.reason:  # the log leads to the same state again
            start = Origin(found.origin.log, known.first)
        else:
            start = found.origin
        overlay.log = start.log
        vectors_end = 0 if note is None or found.are_outputs_new else note.vectors_end
        rebuilds = found.are_outputs_new and self._role.can_recompute_all
        named = note.outputs_id if rebuilds and note is not None else outputs_id
        is_nameless = not topics.state or (not start.log.topic_id and not start.log.era)
        backfill = None if found.told(topics) or note is None else self._resumed(tenure, note.next, overlay)
        tenure.begin_at(
            start.offset,
            Note(vectors_end, start.log, named, state_id, None if backfill is None else backfill.begun),
            is_remembered=store.log == start.log or is_nameless,
        )
        tenure.backfill = backfill
        recompute = set(self._role.restore_extra(tenure, overlay, self._watched))
        if reached is not None:  # the space that has become the live one did not have all
            recompute |= {key for key, _ in overlay.items() if place_of(key) > reached}
        if rebuilds:
            tenure.new_outputs_id = outputs_id
            recompute |= {key for key, _ in overlay.items()}
        return Restored(tenure, overlay, recompute, start, found.told(topics))

    def _take_over_next(self, tenure: Tenure) -> int | None:
        """Where the live space was the next one when that was committed, what is said of its outputs is what counts.
        Returns how far it had been filled, if that was not all: then its topic is another one than before, too, and is
        named by commits when it has everything."""
        note = parse_note(tenure.commit.metadata)
        if note is None or note.next is None or note.next.space_id != self._role.output.space_id:
            return None
        outputs_id = note.next.outputs_id if note.next.is_complete else note.outputs_id
        live = note._replace(vectors_end=note.next.vectors_end, outputs_id=outputs_id, next=None)
        tenure.commit = tenure.commit._replace(metadata=format_note(live))
        return None if note.next.is_complete else note.next.reached

    def _resumed(self, tenure: Tenure, note: NextNote | None, overlay: StateOverlay[Any]) -> Backfill | None:
        """What is to be published in the next space, where an earlier owner has begun with that and nothing is missing;
        else it is begun anew, when the partition is worked on. What that owner has published there after its commit
        counts like what it has published in the live space: an older input never follows on it."""
        space = self._next_space()
        if space is None or note is None or note.space_id != space.space_id or note.num_missing:
            return None
        if are_different(note.outputs_id, space.topic_id):
            return None
        partition = TopicPartition(space.topic, tenure.partition.partition)
        try:
            found = space.look_back(
                self._watched(self._log.read(partition, note.vectors_end, timeout_s=READ_TIMEOUT_S))
            )
        except SpaceError as error:
            space.fail(error.one_line())
            return None
        if (recalled := space.recall(tenure, overlay, self._watched)) is None:
            return None
        for key, at in found.items():
            overlay.published[key] = max(at, overlay.published.get(key, -1))
        backfill = Backfill(space, note, is_doubted=False)
        backfill.again(recalled)
        return backfill

    def _plan(self, tenure: Tenure, backfill: Backfill) -> None:
        """What is remembered and not in the next space: as far as commits say, and of items what its topic holds. That
        has what came from the log after an earlier owner had said how far it was, and what is remembered no longer."""
        space: NextSpace = backfill.space
        if not tenure.is_live or tenure.overlay is None:
            return
        held: dict[str, int] = {}
        there: set[str] = set()
        try:
            if space.is_of_items:
                partition = TopicPartition(space.topic, tenure.partition.partition)
                groups = self._watched(self._log.read(partition, None, timeout_s=READ_TIMEOUT_S))
                held, there = space.held(groups)
            keys = tenure.overlay.keys()
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "plan_failed"})
            time.sleep(RETRY_S)
            self._to_plan.put((tenure, backfill))
            return
        except WorkerError as error:
            space.fail(error.one_line())
            return
        self.beat()
        places = sorted((place, key) for key in keys if (place := place_of(key)) > backfill.begun.reached)
        self._plans.put(Plan(backfill, places, held, there.difference(keys)))

    def _require_allowed(self, found: FoundLogs, looked: Mapping[str, TopicLook]) -> None:
        """Raise `TopicError` where another log than before is not to be taken up, or cannot be."""
        topics = self._role.topics
        if not (told := found.told(topics)):
            return
        if self._refuses_new_logs:
            raise TopicError(
                f"{'; '.join(told)}: kafka.on_new_log=refuse; set it to take_up to begin at the log's beginning, or "
                f"give this worker a new kafka.group_id and new outputs (worker/README.md, Building everything again)"
            )
        counts = {name: looked[name].num_partitions for name in topics.aligned}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name!r} {count}" for name, count in counts.items())
            raise TopicError(
                f"{'; '.join(told)}; its partitions are not as many as those of what belongs to it ({listed}), and "
                f"keys have moved: give the new log the old number of partitions, or the worker new outputs and a new "
                f"kafka.group_id"
            )

    def _look_now(self) -> Mapping[str, TopicLook]:
        """All topics of the role; raises `ClientError` where one is missing, which may come back."""
        self._next_look = time.monotonic() + LOOK_S
        names = watched_topics(self._role.topics)
        space = self._next_space()
        self.looked = looked = self._topics.look([*names, *(() if space is None else (space.topic,))])
        if space is not None:
            space.looked(looked.get(space.topic))
        if missing := [name for name in names if name not in looked]:
            raise ClientError(f"topic {missing[0]!r} does not exist at present")
        return looked

    def _look_due(self) -> None:
        """See now and then whether the topics are still the same."""
        if time.monotonic() >= self._next_look:
            try:
                self._look_now()
            except ClientError as error:
                log.debug("%s", error.one_line(), extra={"action": "look_failed"})

    def _catch_up(self, store: Store, changelog: TopicPartition) -> None:
        """Apply what the store does not have. A store ahead of its changelog belongs to one that is gone."""
        end = self._log.end(changelog, READ_TIMEOUT_S)
        if store.applied > end:
            log.warning(
                "the store of %s/%d is ahead of its topic, which was made anew: it is emptied", *changelog,
                extra={"action": "foreign_log"},
            )  # fmt: skip
            store.clear()
        started, num_before = time.monotonic(), self.num_records
        for records in self._watched(self._log.read(changelog, store.applied, timeout_s=READ_TIMEOUT_S)):
            store.apply(_changes(records), records[-1].offset + 1, _log_of(records))
            self.num_records += len(records)
            self.progress = Progress(changelog.partition, records[-1].offset, end)
        store.apply({}, max(end, store.applied))
        if num_read := self.num_records - num_before:
            seconds = time.monotonic() - started
            log.info(
                "%s/%d restored: %d records in %.1f s, %d values", *changelog, num_read, seconds, len(store),
                extra={"action": "restored"},
            )  # fmt: skip

    def _watched(self, groups: Iterable[Sequence[Record]]) -> Iterator[Sequence[Record]]:
        """A large partition takes longer than the watchdog allows for a step."""
        self.beat()
        for records in groups:
            self.beat()
            self._look_due()
            yield records


def _changes(records: Sequence[Record]) -> dict[str, bytes | None]:
    """Changes that changelog records hold; none where another writer made them."""
    changes: dict[str, bytes | None] = {}
    for record in records:
        key, value = record.key, record.value
        if key == LOG_KEY:
            continue
        if key is not None and (value is None or is_readable(value)):
            try:
                changes[key.decode()] = value
                continue
            except UnicodeDecodeError:
                pass
        log.warning(
            "%s/%d offset %d is no state of this worker",
            record.topic, record.partition, record.offset, extra={"action": "foreign_state"},
        )  # fmt: skip
    return changes


def _log_of(records: Sequence[Record]) -> InputLog | None:
    """Which log the states come from, as the last record that says so has it."""
    for record in reversed(records):
        if record.key == LOG_KEY and record.value is not None:
            try:
                return InputLog.decode(record.value)
            except (StateError, ValueError) as error:
                log.warning(
                    "%s/%d offset %d: %s", record.topic, record.partition, record.offset, error,
                    extra={"action": "foreign_state"},
                )  # fmt: skip
    return None
