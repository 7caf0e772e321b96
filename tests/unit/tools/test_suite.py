"""How the tests are run: what must not fail them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
LEFT_BEHIND = """
    import socket

    class Connection:
        def __init__(self):
            self.itself, self.socket = self, socket.socket()

    def test_refused():
        Connection()
"""


def test_sockets_that_the_client_left_behind_fail_no_run(tmp_path: Path) -> None:
    """Nor when the collector meets them only after the last test."""
    test = tmp_path / "test_it.py"
    test.write_text("\n".join(line.removeprefix("    ") for line in LEFT_BEHIND.splitlines()))
    command = [sys.executable, "-m", "pytest", "-q", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider"]
    done = subprocess.run([*command, str(test)], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
