"""Micro-batches to vectors, so that one bad item or user costs only itself.

A batch that fails is halved until the entry that breaks it is alone (`align/halving.py`); memory that runs out halves
it too. One that fails alone is blamed only if the model still works on what is known to be good: otherwise the fault is
not in the data, and the process ends rather than send the whole topic to the dead letters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from schemas import Reason
from worker.align.halving import each_by_itself
from worker.errors import SystemicError
from worker.kafka.port import Outbound
from worker.partitions.batch_slice import BatchSlice, Receipt
from worker.records import Backfilled, Change
from worker.stages.batch import MicroBatch

STAGE = "fuse"


class Vector(NamedTuple):
    """One vector, as it is published."""

    data: bytes
    """Little-endian elements."""
    modalities: tuple[str, ...] = ()
    """Modalities that took part, for an item."""
    modality_data: Mapping[str, bytes] | None = None
    prior: float | None = None
    num_events: int = 0
    """Events that took part, for a user."""
    base: bytes | None = None
    """Vector before its neighbours moved it, for an item."""
    codes: Sequence[int] | None = None
    """Of an item in a space with codebooks: its vector as codes."""


class NoVector(NamedTuple):
    """There is nothing that a vector could be made of, and that is no fault."""


NO_VECTOR = NoVector()
Result = Vector | NoVector | None
"""None: it would not be finite."""


class Embedder(Protocol):
    """The model, as this stage needs it."""

    def vectors(self, entries: Sequence[Change]) -> list[Result]:
        """One result per entry, in order."""
        ...

    def padded_size(self, num_entries: int) -> int:
        """Rows that are computed for so many entries."""
        ...

    def probe(self) -> None:
        """Compute an entry known to be good. Raises what the model raises."""
        ...


class NextSpace(Protocol):
    """What the stages need of the space that is published beside the live one."""

    @property
    def space_id(self) -> str: ...
    @property
    def output(self) -> NextFormat: ...

    def beside(self, slices: Sequence[BatchSlice], on_out_of_memory: Callable[[], None]) -> Sequence[Beside | None]:
        """What became of each slice in it; None where nothing can be said, because it has failed."""
        ...


class NextFormat(Protocol):
    """How its vectors are written."""

    def output(self, entry: Change, vector: Vector | None, now_ms: int, receipt: Receipt) -> Outbound | None: ...


class OutputFormat(Protocol):
    """How a role writes what it has made."""

    @property
    def dead_letter_topic(self) -> str: ...
    @property
    def space_id(self) -> str | None: ...

    def output(self, entry: Change, vector: Vector | None, now_ms: int, receipt: Receipt) -> Outbound | None:
        """The record for readers; None where there is nothing to tell them."""
        ...

    def change(self, entry: Change, vector: Vector | None, receipt: Receipt) -> Outbound | None:
        """The changelog record of what is to be remembered; None where that is nothing new."""
        ...

    @property
    def state_topic(self) -> str:
        """The changelog."""
        ...


class Beside(NamedTuple):
    """What became of a slice in the next space."""

    space: NextSpace
    results: Sequence[tuple[Change, Vector | None]]
    """In order; without those that have nothing to be published."""
    missing: Mapping[str, str]
    """Ids that have a vector in the live space and none in this one, and why."""


class FusedSlice(NamedTuple):
    """A slice, frozen, with what became of each of its newest entries."""

    read: BatchSlice
    results: Sequence[tuple[Change, Vector | None]]
    """In order. None where there is no vector to publish: deletes, overtaken inputs, nothing to make one of."""
    beside: Beside | None = None
    """The same in the next space, where it is published in that."""
    output: OutputFormat | None = None
    """How it is written; None: as its role writes."""


class Fused(NamedTuple):
    """A micro-batch with its vectors."""

    slices: Sequence[FusedSlice]
    num_vectors: int
    num_without: int = 0
    """Entries of which no vector could be made."""


def fuse(
    batch: MicroBatch, embedder: Embedder, on_out_of_memory: Callable[[], None], output: OutputFormat | None = None
) -> Fused:
    """Compute the vectors of a batch. Entries that cannot be computed become rejections of their slice. `output`: how
    vectors of this embedder are written, where not as the role writes.

    An older input that such an entry had displaced takes its place, as if the batch had been computed one by one.
    Raises `SystemicError` when the fault is not in the entries.
    """
    vectors: dict[BatchSlice, dict[str, Vector]] = {each: {} for each in batch.slices}
    num_without = 0
    work = [(each, entry) for each in batch.slices for entry in each.newest.values() if entry.needs_vector]
    while work:
        results = isolate([entry for _, entry in work], embedder, on_out_of_memory)
        failed = []
        for (read, entry), result in zip(work, results, strict=True):
            if isinstance(result, Vector):
                vectors[read][entry.id] = result
            elif isinstance(result, NoVector):
                num_without += 1
            else:
                failed.append((read, _reject(read, entry, result)))
        work = [(read, displaced) for read, displaced in failed if displaced is not None and displaced.needs_vector]
    frozen = [_frozen(each, found)._replace(output=output) for each, found in vectors.items()]
    return Fused(_with_next(frozen, on_out_of_memory), sum(map(len, vectors.values())), num_without)


def _frozen(read: BatchSlice, vectors: Mapping[str, Vector]) -> FusedSlice:
    read.freeze()
    newest: Iterable[Change] = read.newest.values()
    if read.has_backfilled:
        newest = [entry for entry in newest if not isinstance(entry, Backfilled)]
    return FusedSlice(read, [(entry, vectors.get(entry.id)) for entry in newest])


def _with_next(slices: Sequence[FusedSlice], on_out_of_memory: Callable[[], None]) -> Sequence[FusedSlice]:
    """The slices with their vectors in the next space, those that are published in it."""
    reads: dict[NextSpace, list[BatchSlice]] = {}
    for each in slices:
        if each.read.backfill is not None:
            reads.setdefault(each.read.backfill.space, []).append(each.read)
    if not reads:
        return slices
    made: dict[BatchSlice, Beside | None] = {}
    for space, mine in reads.items():
        made |= zip(mine, space.beside(mine, on_out_of_memory), strict=True)
    return [each._replace(beside=made.get(each.read)) for each in slices]


def isolate(
    entries: Sequence[Change], embedder: Embedder, on_out_of_memory: Callable[[], None]
) -> Sequence[Result | Exception]:
    """One result per entry: what the model gives, or the error that the entry alone causes."""
    return each_by_itself(
        entries,
        embedder.vectors,
        lambda cause: _require_working_model(embedder, cause),
        "no memory for a batch of one; set device or lower dtype",
        on_out_of_memory,
    )


def _require_working_model(embedder: Embedder, cause: Exception) -> None:
    try:
        embedder.probe()
    except Exception as error:
        raise SystemicError(f"the model fails on everything, even on what is known to be good: {cause}") from error


def _reject(read: BatchSlice, entry: Change, result: Exception | None) -> Change | None:
    detail = "the vector is not finite" if result is None else f"{type(result).__name__}: {result}"
    return read.reject(entry, Reason.MODEL_FAILURE, STAGE, detail[:1000])
