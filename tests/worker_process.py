"""The real worker as a process of its own: `python -m worker run`, for tests that signal it, kill it and look at it
from outside.

    with WorkerProcess({"kafka.bootstrap_servers": "…", "space.path": "…"}) as worker:
        worker.wait_ready()
        worker.signal(signal.SIGTERM)
        assert worker.wait() == 0, worker.stderr
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.brokers.guard import Guard
from worker.settings import ENV_PREFIX, variable

ROOT = Path(__file__).parents[1]
DEFAULTS: Mapping[str, str] = {"http.host": "127.0.0.1", "http.port": "0", "threads": "1"}
READY_TIMEOUT_S = 60.0
_HTTP_TIMEOUT_S = 10.0
_STEP_S = 0.02
_ADDRESS = re.compile(r"serving metrics and status at http://([^\s\"]+):(\d+)")

Sample = tuple[str, frozenset[tuple[str, str]]]
"""Name and labels of a metric's series."""


def is_restored(status: Mapping[str, Any]) -> bool:
    """Whether no partition in a `/status.json` is new or being restored, in a group at rest."""
    return all(
        role["group_stable"] and not {each["state"] for each in role["partitions"]} & {"new", "restoring"}
        for role in status["roles"]
    )


class WorkerProcess:
    """Started on entry, gone on exit: killed with its children, even when the tests themselves are killed.

    `settings` have the names of flags (`kafka.group_id`) or of environment variables (`ALIGN_KAFKA__GROUP_ID`), and
    values as text or as `Settings` has them; no other setting reaches the worker, whatever the environment holds. The
    port of its pages is free and found in its log, so `log.level` must stay at info.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        command: Sequence[str] = ("run",),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        chosen = {**DEFAULTS, **settings}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
        named = {
            name if name.startswith(ENV_PREFIX) else variable(name): as_text(value) for name, value in chosen.items()
        }
        self._environment = {**inherited, "PYTHONUNBUFFERED": "1", **(environment or {}), **named}
        self._command = [sys.executable, "-m", "worker", *command]
        self._stdout, self._stderr = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        for output in (self._stdout, self._stderr):  # readable as long as somebody has this object
            weakref.finalize(self, output.close)
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None
        self._address: tuple[str, int] | None = None

    def start(self) -> WorkerProcess:
        """Start it, once; does not wait for anything."""
        if self._process is not None:
            raise RuntimeError("this worker has been started already; make another WorkerProcess")
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._stdout,
            stderr=self._stderr,
            start_new_session=True,
        )
        self._guard = Guard(self._process.pid)
        return self

    def close(self) -> None:
        """Kill what is left of it. The outputs can be read afterwards."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def __enter__(self) -> WorkerProcess:
        return self if self._process is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
        if error is not None:
            error.add_note(f"the worker's log ends with:\n{self.log_tail()}")

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def exit_code(self) -> int | None:
        """Its exit code, minus the signal that ended it, or None while it runs."""
        return self._started().poll()

    @property
    def stderr(self) -> str:
        """Everything it has logged so far."""
        return _content(self._stderr.fileno())

    @property
    def stdout(self) -> str:
        return _content(self._stdout.fileno())

    def logged(self, action: str) -> list[dict[str, Any]]:
        """The JSON log lines of one `action`, in order."""
        lines = (line for line in self.stderr.splitlines() if line.startswith("{") and line.endswith("}"))
        return [fields for line in lines if (fields := json.loads(line)).get("action") == action]

    def log_tail(self, num_lines: int = 40) -> str:
        return "\n".join(self.stderr.splitlines()[-num_lines:])

    def signal(self, number: signal.Signals) -> None:
        """To the worker alone, not to its children."""
        self._started().send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit code once it has ended by itself. Raises `TimeoutError` when it does not."""
        try:
            return self._started().wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"the worker still runs after {timeout:g} s\n{self.log_tail()}") from None

    def wait_ready(self, timeout: float = READY_TIMEOUT_S) -> WorkerProcess:
        """Return when `/readyz` is green and every partition it has is restored.

        Ready means a member of the group, whatever it still has to read: a test that slows or takes away the broker
        before that is over waits for a restore that cannot end.
        """
        self.wait_until(lambda: self.get("/readyz")[0] == 200, timeout, "ready")
        self.wait_until(lambda: is_restored(self.status()), timeout, "restored")
        return self

    def wait_until(self, condition: Callable[[], bool], timeout: float = 60.0, name: str = "as expected") -> None:
        """Return when the condition holds. Connection errors count as not yet; the end of the worker does not."""
        deadline = time.monotonic() + timeout
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if condition():
                    return
            if self.exit_code is not None:
                raise AssertionError(f"the worker ended with {self.exit_code}, not {name}\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the worker is not {name} after {timeout:g} s\n{self.log_tail()}")
            time.sleep(_STEP_S)

    def get(self, path: str) -> tuple[int, str]:
        """HTTP status and body. Raises `OSError` while it does not listen."""
        connection = http.client.HTTPConnection(*self._listens_at(), timeout=_HTTP_TIMEOUT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        """`/status.json`."""
        found: dict[str, Any] = json.loads(self.get("/status.json")[1])
        return found

    def metrics(self) -> dict[Sample, float]:
        """`/metrics`, by name and labels."""
        families = text_string_to_metric_families(self.get("/metrics")[1])
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's series that have these labels, among others perhaps."""
        wanted = set(labels.items())
        return sum(value for (found, has), value in self.metrics().items() if found == name and wanted <= has)

    def url(self, path: str) -> str:
        """Of one of its pages. Raises `OSError` while it does not listen."""
        host, port = self._listens_at()
        return f"http://{host}:{port}{path}"

    def _listens_at(self) -> tuple[str, int]:
        if self._address is None:
            found = _ADDRESS.search(self.stderr)
            if found is None:
                raise ConnectionRefusedError("the worker has not said yet where it listens")
            self._address = found[1], int(found[2])
        return self._address

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the worker has not been started")
        return self._process


def in_group(group: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of one group by their full names: `in_group("topics", {"items": "x"})` is `{"topics.items": "x"}`."""
    return {f"{group}.{name}": value for name, value in settings.items()}


def as_text(value: Any) -> str:
    """A setting's value as it is written in flags and in the environment."""
    return ",".join(map(str, value)) if isinstance(value, (list, tuple, frozenset)) else str(value)


def _content(descriptor: int) -> str:
    """A whole file. Reads by position: the child writes through the same description of the file."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode(errors="replace")
