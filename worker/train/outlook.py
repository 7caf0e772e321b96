"""How long a training will take, said from its first steps, and how far it has come, where there is no terminal."""

from __future__ import annotations

import resource
import sys

from worker.train.settings import TrainSettings

LOOKED_AT = 10
"""Steps that an estimate is made from, after those that warm up."""
WARM_UP = 2
EVERY_S = 60.0
"""Between two lines about one epoch."""
WORTH_TELLING_S = 60.0
"""Of all epochs."""


def most_epochs(settings: TrainSettings) -> int:
    """Of all that is trained: what each recipe gets to show what it is worth, the training, and the final fit."""
    probes = (len(settings.recipes) - 1) * min(settings.probe_epochs, settings.epochs)
    return probes + settings.epochs * (1 if settings.final_fit is False else 2)


def peak_gb() -> float:
    """The most memory that this process has had, in 10⁹ bytes; files that are mapped count, too."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1_024) / 1e9


class EpochOutlook:
    """Of the steps of one epoch, as they are made. Time is an argument."""

    def __init__(self, num_steps: int, started_s: float) -> None:
        self._num_steps = num_steps
        self._done = 0
        self._warm_s = started_s
        self._told_s = started_s

    def step(self, now_s: float) -> None:
        self._done += 1
        if self._done == min(WARM_UP, self._num_steps - 1):
            self._warm_s = now_s

    def estimate(self, now_s: float, epochs_left: int) -> str | None:
        """What `epochs_left` epochs, this one included, will take: said once, where it is worth it."""
        if self._done != min(WARM_UP + LOOKED_AT, self._num_steps):
            return None
        step_s = self._step_s(now_s)
        epoch_s = step_s * self._num_steps
        if epoch_s * epochs_left < WORTH_TELLING_S:
            return None
        return (
            f"a step takes {step_s:.3g} s, an epoch {duration(epoch_s)} and its validation, and {epochs_left} epochs, "
            f"the most there can be, {duration(epoch_s * epochs_left)}; memory so far: {peak_gb():.1f} GB"
        )

    def line(self, now_s: float) -> str | None:
        """Where the epoch is, now and then."""
        if now_s - self._told_s < EVERY_S or self._done >= self._num_steps:
            return None
        self._told_s = now_s
        left_s = self._step_s(now_s) * (self._num_steps - self._done)
        return f"{self._done:,} of {self._num_steps:,} steps, {duration(left_s)} left"

    def _step_s(self, now_s: float) -> float:
        warm = min(WARM_UP, self._num_steps - 1)
        return (now_s - self._warm_s) / max(1, self._done - warm)


def duration(seconds: float) -> str:
    """As a reader would say it."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6_000 else f"{seconds / 3_600:.1f} h"
