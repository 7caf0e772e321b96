"""What an earlier owner of a partition has already published, read back before the partition is worked on.

After a crash the inputs since the last commit are computed again. Some of their outputs may be written already, newer
ones of the same item among them; publishing the older ones after those would undo them. The commit carries a note of
where in the output partition the uncommitted outputs begin (`tenure.format_note`), so reading from there to the end
tells which inputs have been overtaken. Without a note (first start, offsets reset by hand) everything is read.

Inputs of one item can also arrive in the wrong order, with a change of owner between them. So some of the committed
outputs are read, too: those last written, as far as this process does not know them.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from schemas import ItemVector, SchemaError, decode
from worker.errors import SpaceError, WorkerError
from worker.kafka.port import ClientPort
from worker.publish import SOURCE_OFFSET_HEADER
from worker.records import Record, TopicPartition
from worker.revisions import Newest
from worker.tenure import Tenure, parse_note

log = logging.getLogger(__name__)

STEP_TIMEOUT_S = 30.0
RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class Restored:
    """What `tenure` starts from."""

    tenure: Tenure
    newest: dict[str, Newest]
    known_until: int
    """Offset in the output partition up to which nothing is left to be read."""
    error: WorkerError | None = None


class Restorer:
    """Reads output partitions back, one at a time, on a thread of its own."""

    def __init__(
        self, client: ClientPort, output_topic: str, num_records: int, space_id: str, beat: Callable[[], None]
    ) -> None:
        self._client = client
        self._output_topic = output_topic
        self._num_records = num_records
        self._space_id = space_id
        self._beat = beat
        self._requests: queue.SimpleQueue[tuple[Tenure, int]] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[Restored] = queue.SimpleQueue()
        self._read_until = 0

    def request(self, tenure: Tenure, known_until: int) -> None:
        """`known_until` is that of the last restore of the partition whose result has been taken over; 0 for none."""
        self._requests.put((tenure, known_until))

    def results(self) -> list[Restored]:
        """What has been restored since the last call. Never waits."""
        results = []
        while not self._results.empty():
            results.append(self._results.get())
        return results

    def step(self) -> None:
        """Restore the next partition; returns after a moment when there is none."""
        try:
            tenure, known_until = self._requests.get(timeout=0.2)
        except queue.Empty:
            return
        if not tenure.is_live:
            return
        try:
            self._results.put(self._read(tenure, known_until))
        except WorkerError as error:
            time.sleep(RETRY_S)
            self._results.put(Restored(tenure, {}, known_until, error))

    def _read(self, tenure: Tenure, known_until: int) -> Restored:
        partition = TopicPartition(self._output_topic, tenure.partition.partition)
        records = self._client.read(
            partition,
            parse_note(tenure.commit.note),
            at_least_last=self._num_records,
            not_before=known_until,
            timeout_s=STEP_TIMEOUT_S,
        )
        self._read_until = known_until
        newest = newest_published(self._watched(records), self._space_id)
        end = self._client.end(tenure.partition, STEP_TIMEOUT_S)
        if any(each.offset >= end for each in newest.values()):
            log.warning(
                "%s/%d holds outputs of inputs that the log does not have: it was made anew; only revisions count",
                *partition, extra={"action": "foreign_log"},
            )  # fmt: skip
            newest = without_offsets(newest)
        return Restored(tenure, newest, self._read_until)

    def _watched(self, records: Iterable[Record]) -> Iterator[Record]:
        """A large partition takes longer than the watchdog allows for a step."""
        for record in records:
            self._beat()
            self._read_until = record.offset + 1
            yield record


def without_offsets(newest: dict[str, Newest]) -> dict[str, Newest]:
    """What is left when the offsets belong to another log, one that has been deleted or mirrored: the revisions."""
    return {item_id: Newest(-1, each.revision) for item_id, each in newest.items() if each.revision is not None}


def newest_published(records: Iterable[Record], space_id: str) -> dict[str, Newest]:
    """The newest input of each item that the output records come from.

    Raises `SpaceError` for a vector of another space: vectors of two spaces in one topic would be compared with each
    other by whoever reads it.
    """
    newest: dict[str, Newest] = {}
    for record in records:
        try:
            item_id = (record.key or b"").decode()
            if record.value is None:
                source = next(value for name, value in record.headers if name == SOURCE_OFFSET_HEADER)
                newest[item_id] = Newest(int(source or b""), None)
                continue
            vector = decode(ItemVector, record.value, check_values=False)
        except (SchemaError, ValueError, StopIteration) as error:
            log.warning(
                "%s/%d offset %d is not an output of this worker: %s",
                record.topic, record.partition, record.offset, error, extra={"action": "foreign_output"},
            )  # fmt: skip
            continue
        if vector.space_id != space_id:
            raise SpaceError(
                f"topic {record.topic} holds vectors of space {vector.space_id}, but space.path is space {space_id}: "
                f"give the new space a topic of its own (topics.item_vectors) or set space.path back"
            )
        if vector.source_offset is not None:
            newest[item_id] = Newest(vector.source_offset, vector.revision)
    return newest
