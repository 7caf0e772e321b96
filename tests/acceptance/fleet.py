"""Workers under supervision: one that ends by itself is started again, as Kubernetes would, and remembered."""

from __future__ import annotations

import contextlib
import http.client
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.worker_process import WorkerProcess

LEAVE_TIMEOUT_S = 45.0


class Exit(NamedTuple):
    """A worker that ended without being told to, or not as it was told."""

    member: str
    code: int
    last_line: str

    def __str__(self) -> str:
        return f"{self.member} ended with {self.code}: {self.last_line}"


@dataclass
class Member:
    """A place in the fleet, and the process that has it at present."""

    name: str
    slot: int
    """Which place: whoever takes it has the same identity, as a container that is started again in its pod."""
    worker: WorkerProcess
    is_frozen: bool = False


class Fleet:
    """The members. Used by one thread; `tend` must be called often."""

    def __init__(self, make: Callable[[int], WorkerProcess], logs: Path, say: Callable[[str], None]) -> None:
        """`make` makes the process of a slot."""
        self._make = make
        self._logs = logs
        self._say = say
        self._num_started = 0
        self.members: list[Member] = []
        self.exits: list[Exit] = []

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for member in self.members:
            member.worker.close()
            self._keep_log(member)

    def start(self) -> Member:
        """One more member; does not wait for it."""
        slot = min(set(range(len(self.members) + 1)) - {member.slot for member in self.members})
        name, worker = self._launch(slot)
        member = Member(name, slot, worker)
        self.members.append(member)
        return member

    def kill(self, member: Member, pause_s: float = 0.0) -> None:
        """SIGKILL, and after a pause a new process in its place."""
        member.worker.kill()
        time.sleep(pause_s)
        self._replace(member)

    def freeze(self, member: Member) -> None:
        member.worker.signal(signal.SIGSTOP)
        member.is_frozen = True

    def thaw(self, member: Member) -> None:
        member.worker.signal(signal.SIGCONT)
        member.is_frozen = False

    def leave(self, member: Member) -> None:
        """SIGTERM, and no new process. It should drain and end with 0."""
        self.members.remove(member)
        member.worker.signal(signal.SIGTERM)
        code = member.worker.wait(LEAVE_TIMEOUT_S)
        if code != 0:
            self._remember(member, code)
        member.worker.close()
        self._keep_log(member)

    def tend(self) -> None:
        """Replace members whose process has ended by itself."""
        for member in self.members:
            code = member.worker.exit_code
            if code is not None:
                self._remember(member, code)
                self._replace(member)

    def statuses(self) -> dict[str, Sequence[Mapping[str, Any]]]:
        """What the members that can answer say of themselves, role by role."""
        found: dict[str, Sequence[Mapping[str, Any]]] = {}
        for member in self.members:
            if not member.is_frozen:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    found[member.name] = member.worker.status()["roles"]
        return found

    def _remember(self, member: Member, code: int) -> None:
        line = next(iter(member.worker.stderr.splitlines()[::-1]), "(it logged nothing)")
        self.exits.append(Exit(member.name, code, line))
        self._say(str(self.exits[-1]))

    def _replace(self, member: Member) -> None:
        member.worker.close()
        self._keep_log(member)
        member.name, member.worker = self._launch(member.slot)
        member.is_frozen = False

    def _launch(self, slot: int) -> tuple[str, WorkerProcess]:
        self._num_started += 1
        return f"worker-{self._num_started}", self._make(slot).start()

    def _keep_log(self, member: Member) -> None:
        (self._logs / f"{member.name}.log").write_text(member.worker.stderr)
