"""`python -m tests`: everything a change must pass, as CI runs it. Arguments go to pytest.

Tests run in one process for each core (`-n 4` for four, `-n 0` for none but this one), each with brokers of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

CHECKS = (
    ("style", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest"]),
)


def with_processes(arguments: list[str]) -> list[str]:
    """The arguments for pytest, with one process for each core unless they say how many, or want a terminal."""
    says_so = any(each.startswith(("-n", "--numprocesses", "--pdb", "-s", "--capture=no")) for each in arguments)
    return arguments if says_so else ["-n", str(num_cores()), "--dist", "worksteal", *arguments]


def num_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def main() -> int:
    failed = []
    for name, command in CHECKS:
        arguments = with_processes(sys.argv[1:]) if name == "tests" else []
        print(f"== {name}: {' '.join(command + arguments)}", flush=True)
        started = time.monotonic()
        code = subprocess.run([sys.executable, "-m", *command, *arguments], check=False).returncode
        ended = "ok" if code == 0 else f"FAILED ({code})"
        print(f"== {name}: {ended} in {time.monotonic() - started:.0f} s", flush=True)
        if code:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
