"""The real worker, all of it but signals and exit codes, on a thread of this process: quick to start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tests.worker_process import as_text, is_restored
from worker.errors import StalledError, WorkerError
from worker.monitoring.status import RoleStatus, Status
from worker.process.service import Service
from worker.settings import load

PATIENCE_S = 150.0  # a second member has waited for nearly a minute on the embedded broker
_STEP_S = 0.01


class WorkerThread:
    """Runs within a `with` block, which ends with a drain and raises what the worker failed with, unless `failure` has
    been asked for."""

    def __init__(self, settings: Mapping[str, Any], *, until_caught_up: bool = False) -> None:
        texts = {name: as_text(value) for name, value in settings.items()}
        self.service = Service(load(texts), exit_process=self._exit, until_caught_up=until_caught_up)
        self.exit_code: int | None = None
        """What the watchdog would have ended the process with."""
        self.error: BaseException | None = None
        self._is_expected = False
        self._stalls_as_expected = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)

    def _run(self) -> None:
        try:
            self.service.run(self._stop)
        except BaseException as error:
            self.error = error

    def _exit(self, code: int) -> None:
        self.exit_code = code
        if not self._stalls_as_expected:
            self.error = self.error or StalledError(self.service.health.livez().detail)

    def __enter__(self) -> WorkerThread:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        if error is None and self.error is not None and not self._is_expected:
            raise self.error

    def stop(self, timeout: float = PATIENCE_S) -> None:
        """Drain, and wait for the end."""
        self._stop.set()
        self._thread.join(timeout)
        assert not self._thread.is_alive(), f"the worker has not stopped after {timeout:g} s"

    def wait_ready(self, timeout: float = PATIENCE_S, *, restored: bool = True) -> WorkerThread:
        """As `WorkerProcess.wait_ready`: a member of the group, with every partition it has restored."""
        self.until(lambda: self.service.health.readyz().ok, timeout, "ready")
        self.until(lambda: not restored or is_restored(self.status.model_dump()), timeout, "restored")
        return self

    def expect_stall(self) -> None:
        """The watchdog's ending is what the test is about: it fails nothing."""
        self._stalls_as_expected = True

    def until(self, condition: Callable[[], bool], timeout: float = PATIENCE_S, name: str = "as expected") -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            self.require_alive()
            assert time.monotonic() < deadline, f"the worker is not {name} after {timeout:g} s: {self.status}"
            time.sleep(_STEP_S)

    def require_alive(self) -> None:
        if self.error is not None:
            raise self.error
        assert self._thread.is_alive(), "the worker has ended"

    def failure(self, timeout: float = PATIENCE_S) -> WorkerError:
        """The error that the worker ends with, by itself."""
        self._thread.join(timeout)
        self._is_expected = True
        assert not self._thread.is_alive(), f"the worker has not ended after {timeout:g} s: {self.status}"
        assert isinstance(self.error, WorkerError), f"the worker ended with {self.error!r}"
        return self.error

    @property
    def status(self) -> Status:
        return self.service.status()

    @property
    def items(self) -> RoleStatus:
        return self.status.role("items")

    @property
    def users(self) -> RoleStatus:
        return self.status.role("users")

    @property
    def metrics_url(self) -> str:
        return f"{self.service.http.address}/metrics"

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels, among others perhaps."""
        wanted = labels.items()
        return sum(
            sample.value
            for family in self.service.registry.collect()
            for sample in family.samples
            if sample.name == name and wanted <= sample.labels.items()
        )


def silence_s(worker: WorkerThread) -> float:
    """How long no broker has answered its items role."""
    topic = worker.service.metrics["items"].topic
    return worker.metric("align_broker_silence_seconds", topic=topic)
