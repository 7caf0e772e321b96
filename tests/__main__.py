"""`python -m tests`: everything a change must pass, as CI runs it. Arguments go to pytest.

Tests run in four processes for two cores (`-n 3` for three, `-n 0` for none but this one), each with brokers of its
own: they wait for brokers and workers about as long as they compute. Types are checked meanwhile.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import IO

STYLE = ("style", ["ruff", "check", "."])
FORMAT = ("format", ["ruff", "format", "--check", "."])
TYPES = ("types", ["mypy"])


def with_processes(arguments: list[str]) -> list[str]:
    """The arguments for pytest, with the number of processes unless they say how many, or want a terminal."""
    says_so = any(each.startswith(("-n", "--numprocesses", "--pdb", "-s", "--capture=no")) for each in arguments)
    return arguments if says_so else ["-n", str(num_processes(num_cores())), "--dist", "worksteal", *arguments]


def num_processes(cores: int) -> int:
    """As many as keep these cores busy."""
    return 2 * cores


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Check:
    """A command that is under way from when this is made."""

    def __init__(self, name: str, command: list[str], output: IO[bytes] | None = None) -> None:
        self._name, self._command, self._output = name, command, output
        self._started = time.monotonic()
        self._process = subprocess.Popen([sys.executable, "-m", *command], stdout=output, stderr=output)
        if output is None:
            print(f"== {name}: {' '.join(command)}", flush=True)

    def failed(self) -> list[str]:
        """Wait for the end, and say how it was: its name, if it failed. Output that was kept is printed now."""
        code = self._process.wait()
        if self._output is not None:
            print(f"== {self._name}: {' '.join(self._command)}", flush=True)
            self._output.seek(0)
            sys.stdout.write(self._output.read().decode(errors="replace"))
        ended = "ok" if code == 0 else f"FAILED ({code})"
        print(f"== {self._name}: {ended} after {time.monotonic() - self._started:.0f} s", flush=True)
        return [self._name] if code else []


def main() -> int:
    failed = Check(*STYLE).failed() + Check(*FORMAT).failed()
    with tempfile.TemporaryFile() as output:
        types = Check(*TYPES, output=output)
        failed += Check("tests", ["pytest", *with_processes(sys.argv[1:])]).failed()
        failed += types.failed()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
