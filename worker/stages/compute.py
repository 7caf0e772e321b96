"""The compute thread: micro-batches when they are due, what they became to the publish thread."""

from __future__ import annotations

import queue
import time

from worker.monitoring.metrics import Metrics
from worker.stages.batch_queue import BatchQueue
from worker.stages.fuse import Embedder, Fused, OutputFormat, fuse
from worker.stages.stage import STEP_TIMEOUT_S, Stage


class ComputeStage(Stage):
    def __init__(
        self,
        batches: BatchQueue,
        embedder: Embedder,
        fused: queue.Queue[Fused],
        max_records: int,
        metrics: Metrics,
    ) -> None:
        super().__init__("compute", self._compute)
        self._batches = batches
        self._serving: tuple[Embedder, OutputFormat | None] = embedder, None
        self._fused = fused
        self._max_records = max_records
        self._metrics = metrics
        self.batch_fill = 0.0
        """Size of the last batch, as a share of the largest there may be."""

    def serve(self, embedder: Embedder, output: OutputFormat) -> None:
        """From the next batch on, vectors are made by this one and written so. Any thread."""
        self._serving = embedder, output

    def _compute(self) -> None:
        batch = self._batches.take(STEP_TIMEOUT_S)
        if batch is None:
            return
        started = time.monotonic()
        metrics = self._metrics
        metrics.batch_wait.observe(max(0.0, time.time() - batch.oldest_ms / 1000))
        metrics.batch_size.labels(batch.reason).observe(batch.num_outputs)
        self.batch_fill = batch.num_outputs / self._max_records
        metrics.batch_fill.set(self.batch_fill)
        embedder, output = self._serving
        fused = fuse(batch, embedder, metrics.out_of_memory.inc, output)
        metrics.without_vector.labels(metrics.topic).inc(fused.num_without)
        if fused.num_vectors:
            metrics.padding.set(1 - fused.num_vectors / embedder.padded_size(fused.num_vectors))
        elapsed_s = time.monotonic() - started
        self.busy_s += elapsed_s
        metrics.stage_duration.labels("fuse").observe(elapsed_s)
        self._hand_over(fused)

    def _hand_over(self, fused: Fused) -> None:
        while any(each.read.tenure.is_live for each in fused.slices):
            try:
                self._fused.put(fused, timeout=STEP_TIMEOUT_S)
                return
            except queue.Full:
                self.beat()
