"""A PostgreSQL with pgvector, from the package `pgserver`, which brings both.

with Postgres() as postgres:
    postgres.query("SELECT 1")
    postgres.kill()
    postgres.start()
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import psycopg

from tests.brokers.guard import Guard

NOBODY = 65_534  # PostgreSQL refuses to run as root
START_TIMEOUT_S = 60.0


def installation() -> Path:
    found = find_spec("pgserver")
    assert found is not None
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "pginstall"


class Postgres:
    """On a port of its own, with what it holds in a directory that goes with it."""

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="align-postgres-"))
        self._as_nobody: dict[str, Any] = {}
        if os.geteuid() == 0:
            shutil.chown(self._directory, NOBODY, NOBODY)
            self._as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._data = self._directory / "data"
        self.port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: Guard | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    def __enter__(self) -> Self:
        try:
            initdb = [
                str(installation() / "bin" / "initdb"),
                "-D",
                str(self._data),
                "-U",
                "postgres",
                "-A",
                "trust",
                "-N",
            ]
            subprocess.run(initdb, check=True, capture_output=True, cwd=self._directory, **self._as_nobody)
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Returns when it answers."""
        options = {
            "port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off",
            "shared_buffers": "64MB", "maintenance_work_mem": "64MB", "max_connections": 30,
        }  # fmt: skip
        command = [str(installation() / "bin" / "postgres"), "-D", str(self._data)]
        for name, value in options.items():
            command += ["-c", f"{name}={value}"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                **self._as_nobody,
            )  # fmt: skip
        self._guard = Guard(self._process.pid)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.query("SELECT 1")
                return
            except psycopg.Error:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    log_text = (self._directory / "log").read_text(errors="replace")[-2_000:]
                    raise RuntimeError(f"PostgreSQL did not start:\n{log_text}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """As a machine that dies takes it: all of its processes at once."""
        if self._process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                first = psutil.Process(self._process.pid)
                family = [first, *first.children(recursive=True)]  # each has a process group of its own
                for each in family:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        each.kill()
                psutil.wait_procs(family[1:], timeout=30)
            self._process.wait()
            self._process = None
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def query(self, text: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, connect_timeout=5, autocommit=True) as connection:
            cursor = connection.execute(text, arguments or None)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    def create_database(self, name: str) -> str:
        """An empty one of its own, and the URL of it."""
        self.query(f'CREATE DATABASE "{name}"')
        return self.url.removesuffix("/postgres") + f"/{name}"

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])
