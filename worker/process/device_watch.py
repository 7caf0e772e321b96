"""Looks at the GPU from time to time, so that no scrape has to wait for its driver."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from worker.align.usage import DeviceUsage, device_usage

log = logging.getLogger(__name__)

INTERVAL_S = 5.0


class DeviceWatch:
    """A thread of its own: a driver that hangs holds up nothing else. Where there is no GPU, no thread."""

    def __init__(
        self,
        device: str,
        on_usage: Callable[[str, DeviceUsage], None],
        usage: Callable[[str], DeviceUsage | None] = device_usage,
    ) -> None:
        self._device = device
        self._on_usage = on_usage
        self._usage = usage
        self._stop = threading.Event()

    def start(self) -> None:
        if self._look():
            threading.Thread(target=self._run, name="device", daemon=True).start()

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL_S) and self._look():
            pass

    def _look(self) -> bool:
        """Whether there is anything to look at."""
        try:
            usage = self._usage(self._device)
        except Exception as error:  # whatever the driver raises: the threads that compute will say what it means
            log.warning("the GPU cannot be looked at: %s", error, extra={"action": "device_watch"})
            return False
        if usage is None:
            return False
        self._on_usage(self._device, usage)
        return True
