"""One process of a Kafka cluster under test."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.brokers.addresses import HOST, NodeAddress
from tests.brokers.distribution import Distribution
from tests.brokers.guard import Guard

STOP_TIMEOUT_S = 30.0
FIRST_TIER = "-XX:TieredStopAtLevel=1"
"""Without the optimising compiler, which costs more than it wins within a second, or within a short test."""
_STARTED = b"Kafka Server started"
_LOG4J = """<Configuration status="error"><Appenders><Console name="stdout">
<PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="INFO"><AppenderRef ref="stdout"/></Root></Loggers></Configuration>"""


class KafkaFailedError(Exception):
    """A node did not do as told. The message ends with the tail of its log."""


@dataclass
class Node:
    """A broker and controller, with its files in a new `directory`."""

    address: NodeAddress
    directory: Path
    distribution: Distribution
    process: subprocess.Popen[bytes] | None = None
    guard: Guard | None = None
    log_start: int = 0
    """Where in the log file the present run begins."""

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.data = self.directory / "data"
        self.config = self.directory / "server.properties"
        self.log4j = self.directory / "log4j2.xml"
        self.log = self.directory / "server.log"
        self.log.touch()

    def configure(self, properties: Mapping[str, str]) -> None:
        self.config.write_text("".join(f"{name}={value}\n" for name, value in properties.items()))
        self.log4j.write_text(_LOG4J)

    def format(self, cluster_id: str, users: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin to write the cluster's identity, and its users, into the data directory."""
        # An id may begin with a dash, and would be taken for an option if it stood alone.
        options = (f"--cluster-id={cluster_id}", f"--config={self.config}", *users)
        command = self._java([FIRST_TIER], ("kafka.tools.StorageTool", "format", *options))
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def launch(self, heap: str, *, optimizing: bool) -> None:
        options = [f"-Xms{heap}", f"-Xmx{heap}", f"-Dlog4j2.configurationFile={self.log4j}"]
        if not optimizing:
            options.append(FIRST_TIER)
        self.log_start = self.log.stat().st_size
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._java(options, ("kafka.Kafka", str(self.config))),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # an interrupt at the terminal is for the tests, which then close us
            )
        self.guard = Guard(self.process.pid)

    def is_ready(self) -> bool:
        with self.log.open("rb") as log:
            log.seek(self.log_start)
            return _STARTED in log.read() and all(map(_accepts, self.address.client_ports.values()))

    def send(self, number: signal.Signals) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise KafkaFailedError(f"node {self.address.number} does not run")
        self.process.send_signal(number)
        return self.process

    def freeze(self) -> None:
        """Stop all threads, and return when they stand still."""
        process = self.send(signal.SIGSTOP)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG) is None:
            if time.monotonic() > deadline:
                raise self.failure(f"did not freeze within {STOP_TIMEOUT_S:g} s")
            time.sleep(0.002)

    def end(self, number: signal.Signals) -> None:
        """Send the signal and wait for the end."""
        process = self.send(number)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise self.failure(f"did not end within {STOP_TIMEOUT_S:g} s of {number.name}") from None
        finally:
            if self.guard is not None:
                self.guard.dismiss()
            self.process = self.guard = None

    def failure(self, problem: str) -> KafkaFailedError:
        tail = self.log.read_text(errors="replace").splitlines()[-40:]
        return KafkaFailedError("\n".join([f"node {self.address.number} {problem}", *tail]))

    def _java(self, options: Sequence[str], arguments: Sequence[str]) -> list[str]:
        java = [self.distribution.java, "-XX:+UseSerialGC", *options, "-cp", self.distribution.class_path]
        return [*java, *arguments]


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection((HOST, port), timeout=1.0):
            return True
    except OSError:
        return False
