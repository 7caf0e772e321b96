"""What a partition's earlier owners have left, taken over before the partition is worked on.

The store holds all of the changelog up to some offset; the rest is read from there. Partitions are restored one after
the other, on a thread of their own, while the loop goes on with those that are ready.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from worker.errors import WorkerError
from worker.kafka.port import ClientPort
from worker.partitions.tenure import Tenure
from worker.records import Record, TopicPartition
from worker.roles.role import Role
from worker.state import Store, Stores
from worker.state.memory import Memory
from worker.state.packing import is_readable

log = logging.getLogger(__name__)

READ_TIMEOUT_S = 30.0
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What `tenure` starts from."""

    tenure: Tenure
    memory: Memory[Any] | None
    """None with an error."""
    recompute: Collection[str] = ()
    """Ids that are to be computed anew."""
    error: WorkerError | None = None


class Progress(NamedTuple):
    """Of the partition that is being restored."""

    partition: int
    position: int
    """In the changelog."""
    end: int


class Restorer:
    """Everything but `request`, `keep_only` and `results` belongs to the restore thread."""

    def __init__(self, client: ClientPort, role: Role, stores: Stores, beat: Callable[[], None]) -> None:
        self._log = client.log()
        self._role = role
        self._stores = stores
        self._beat = beat
        self._requests: queue.SimpleQueue[Tenure | Collection[int]] = queue.SimpleQueue()
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
        """What has been restored since the last call. Never waits."""
        results = []
        while not self._results.empty():
            results.append(self._results.get())
        return results

    def step(self) -> None:
        """Restore the next partition; returns after a moment when there is none."""
        try:
            request = self._requests.get(timeout=0.2)
        except queue.Empty:
            return
        if not isinstance(request, Tenure):
            self._stores.keep_only(request)
        elif request.is_live:
            try:
                self._results.put(self._restored(request))
            except WorkerError as error:
                time.sleep(RETRY_S)
                self._results.put(Restored(request, None, error=error))
            finally:
                self.progress = None

    def close(self) -> None:
        """Once the restore thread has ended."""
        self._log.close()

    def _restored(self, tenure: Tenure) -> Restored:
        number = tenure.partition.partition
        store = self._stores.open(number)
        self._catch_up(store, TopicPartition(self._role.topics.state, number))
        memory: Memory[Any] = Memory(store, self._role.decode_state)
        recompute = self._role.recall(tenure, memory, self._log, self._watched)
        return Restored(tenure, memory, recompute)

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
            store.apply(_changes(records), records[-1].offset + 1)
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
        self._beat()
        for records in groups:
            self._beat()
            yield records


def _changes(records: Sequence[Record]) -> dict[str, bytes | None]:
    """What changelog records say; nothing where another writer made them."""
    changes: dict[str, bytes | None] = {}
    for record in records:
        key, value = record.key, record.value
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
