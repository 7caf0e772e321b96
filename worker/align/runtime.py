"""A space on a device, ready to embed items."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice

import torch

from worker.align.collate import Collator
from worker.align.collated import Collated
from worker.align.cores import available_cores
from worker.align.device import (
    DTYPES,
    DtypeName,
    candidate_dtypes,
    device_failures,
    device_name,
    resolve_device,
)
from worker.align.errors import OutOfMemoryError
from worker.align.features import Features
from worker.align.graph import GraphedModel
from worker.align.padding import rising_sizes
from worker.align.result import NO_MODALITY, Embeddings, concatenated, from_outputs, replaced, without_vectors
from worker.align.space import Space
from worker.align.synthetic import synthetic_items
from worker.align.warm_up import Candidate, Run, Vectors, WarmUpReport, chosen, try_dtypes
from worker.align.weights import build_model
from worker.errors import ConfigError, SystemicError

SMALL_BATCH = 32  # the first timing of a dtype: large enough to show a processor that only emulates it
MOST_TIMED_ON_CPU = 512  # nothing is won past it on a CPU, and the start should be quick


class AlignRuntime:
    """Embeds items in one space. One thread at a time; it need not be the thread that made it or warmed it up.

    `threads` 0 takes one core less than there are. `padded_sizes` None takes the powers of two up to `max_batch`;
    with one single size a vector is bit-identical whatever else is in its batch. With `modality_vectors` the vector
    of each modality alone is computed too.

    Raises `ConfigError` for a device, dtype or sizes that cannot be had.
    """

    def __init__(
        self,
        space: Space,
        *,
        device: str = "auto",
        dtype: str = "auto",
        threads: int = 0,
        max_batch: int = 512,
        padded_sizes: Sequence[int] | None = None,
        modality_vectors: bool = False,
    ) -> None:
        if dtype != "auto" and dtype not in DTYPES:
            raise ConfigError(f"dtype: {dtype!r} is unknown; it is auto, {', '.join(DTYPES)}")
        self.space = space
        self.device = resolve_device(device)
        self.max_batch = max_batch
        self.threads = threads or max(1, available_cores() - 1)
        self.report: WarmUpReport | None = None
        """None before `warm_up`."""
        self._requested_device, self._requested_dtype = device, dtype
        self._sizes = rising_sizes(max_batch, padded_sizes)
        self._collator = Collator(space.spec, self._sizes)
        self._modality_vectors = modality_vectors
        self._model: GraphedModel | None = None
        self._thread: int | None = None

    def warm_up(self) -> WarmUpReport:
        """Settle the dtype, then run every padded size once. `embed` does this at its first call if nobody has.

        Raises `ConfigError` if the largest batch does not fit into memory.
        """
        started = time.perf_counter()
        self._claim_thread()
        num_timed = min(self.max_batch, MOST_TIMED_ON_CPU) if self.device == "cpu" else self.max_batch
        sample = synthetic_items(self.space.spec, num_timed)
        try:
            with device_failures():
                model, candidates = self._choose(sample)
                self._model = model
                size_ms = {size: self._run_once_ms(sample, size) for size in self._sizes.sizes}
                self._embed(_with_gaps(sample))
        except OutOfMemoryError as error:
            raise ConfigError(
                f"batch.max_records: no memory on {self.device} for a batch of {self.max_batch}; lower it ({error})"
            ) from error
        self.report = WarmUpReport(
            space_id=self.space.space_id,
            requested_device=self._requested_device,
            device=self.device,
            device_name=device_name(self.device),
            requested_dtype=self._requested_dtype,
            dtype=chosen(candidates).dtype,
            threads=self.threads,
            timed_batch=num_timed,
            candidates=candidates,
            size_ms=size_ms,
            graphed=model.graphed,
            seconds=time.perf_counter() - started,
        )
        return self.report

    def embed(self, features: Sequence[Features]) -> Embeddings:
        """The vectors of items whose features the space's `Contract` accepted. More than `max_batch` are split.

        An item that cannot be embedded is a bad row; the others are not touched by it. Raises `OutOfMemoryError` when
        a smaller batch may fit, `SystemicError` when the device is gone, `ValueError` for features that the contract
        would have refused or whose bytes do not fit their shape.
        """
        if self._model is None:
            self.warm_up()
        self._claim_thread()
        with device_failures():
            return concatenated(
                [
                    self._embed(features[start : start + self.max_batch])
                    for start in range(0, max(1, len(features)), self.max_batch)
                ]
            )

    def padded_size(self, num_items: int) -> int:
        """Rows that the model computes for a call of `embed` with this many items."""
        return self._sizes.at_least(num_items)

    def probe(self) -> None:
        """Embed an item known to be good. Raises `SystemicError` if even that gives no vector."""
        bad = self.embed(synthetic_items(self.space.spec, 1)).bad_rows
        if bad:
            raise SystemicError(f"space.path: the space gives no vector for a good item: {bad[0]}")

    def _embed(self, features: Sequence[Features]) -> Embeddings:
        """The vectors of a batch. A row that seems bad is computed again alone, and what it gives there counts.

        A processor with tiles (AMX) reads some elements of the next row with a row whose length is no multiple of the
        tile, and multiplies them with 0. Of a finite neighbour that adds 0 exactly; of NaN or an infinite one it
        makes NaN, in a row that is well.
        """
        embedded = self._together(features)
        suspects = [row for row, why in embedded.bad_rows.items() if why != NO_MODALITY]
        if not suspects or len(features) == 1:
            return embedded
        return replaced(embedded, {row: self._together(features[row : row + 1]) for row in suspects})

    def _together(self, features: Sequence[Features]) -> Embeddings:
        assert self._model is not None
        batch = self._collator.collate(features)
        if batch is None:
            return without_vectors(len(features), self.space.spec.dim, self._modality_vectors)
        return from_outputs(batch, self._model(batch), features)

    def _claim_thread(self) -> None:
        """Set the number of threads for the calling thread: OpenMP keeps that number for each thread of its own."""
        thread = threading.get_ident()
        if thread != self._thread:
            torch.set_num_threads(self.threads)
            self._thread = thread

    def _choose(self, sample: Sequence[Features]) -> tuple[GraphedModel, tuple[Candidate, ...]]:
        """The model in the dtype that was asked for, or float32, and what others cost."""
        if self._requested_dtype == "auto":
            dtypes = candidate_dtypes(self.device)
        else:
            dtypes = tuple(name for name in DTYPES if name in ("float32", self._requested_dtype))
        models = {name: self._model_in(name) for name in dtypes}
        runs: dict[DtypeName, Run] = {name: partial(_first_output, model) for name, model in models.items()}
        small, large = self._collated(sample[:SMALL_BATCH]), self._collated(sample)
        candidates = try_dtypes(self._requested_dtype, runs, small, large)
        return models[chosen(candidates).dtype], candidates

    def _model_in(self, dtype: DtypeName) -> GraphedModel:
        model = build_model(self.space.spec, self.space.weights, DTYPES[dtype], self.device)
        return GraphedModel(model, device=self.device, modality_vectors=self._modality_vectors)

    def _collated(self, items: Sequence[Features]) -> Collated:
        batch = self._collator.collate(items)
        assert batch is not None
        return batch

    def _run_once_ms(self, sample: Sequence[Features], size: int) -> float:
        items = list(islice(cycle(sample), min(size, self.max_batch)))
        started = time.perf_counter()
        self._embed(items)
        return (time.perf_counter() - started) * 1e3


def _first_output(model: GraphedModel, batch: Collated) -> Vectors:
    return model(batch)[0]


def _with_gaps(sample: Sequence[Features]) -> list[Features]:
    """The items, every other one with its first modality alone: the layout of a stream with missing modalities."""
    return [item if index % 2 else dict(islice(item.items(), 1)) for index, item in enumerate(sample)]
