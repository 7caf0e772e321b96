"""The publish thread: what the compute thread made, to the client."""

from __future__ import annotations

import queue
import time
from collections.abc import Callable

from worker.monitoring.metrics import Metrics
from worker.stages.fuse import Fused
from worker.stages.publish import Publisher
from worker.stages.stage import Stage


class PublishStage(Stage):
    """Gives each fused batch to its publisher, and that a tick when none comes."""

    def __init__(
        self, fused: queue.Queue[Fused], make_publisher: Callable[[Callable[[], None]], Publisher], metrics: Metrics
    ) -> None:
        """`make_publisher` is given what says that the thread is alive, for a publisher that has to wait."""
        super().__init__("publish", self._publish)
        self._fused = fused
        self.publisher = make_publisher(self.beat)
        self._metrics = metrics

    def _publish(self) -> None:
        publisher = self.publisher
        try:
            fused = self._fused.get(timeout=publisher.wait_s())
        except queue.Empty:
            fused = None
        started, waited_s = time.monotonic(), publisher.waited_s
        if fused is not None:
            publisher.publish(fused)
            self._metrics.stage_duration.labels("publish").observe(time.monotonic() - started)
        publisher.tick()
        self.busy_s += time.monotonic() - started - (publisher.waited_s - waited_s)
