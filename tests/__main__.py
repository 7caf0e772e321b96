"""`python -m tests`: everything a change must pass, as CI runs it. Arguments go to pytest."""

from __future__ import annotations

import subprocess
import sys
import time

CHECKS = (
    ("style", ["ruff", "check", "."]),
    ("format", ["ruff", "format", "--check", "."]),
    ("types", ["mypy"]),
    ("tests", ["pytest"]),
)


def main() -> int:
    failed = []
    for name, command in CHECKS:
        arguments = sys.argv[1:] if name == "tests" else []
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
