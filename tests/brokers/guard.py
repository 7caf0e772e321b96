"""Child processes that end with this one, however it ends."""

from __future__ import annotations

import subprocess


class Guard:
    """Kills a process when this one is gone, even by SIGKILL.

    It is a shell that waits on a pipe whose other end only we hold. The parent-death signal of Linux would be
    simpler, but follows the thread that started the child, not the process.
    """

    def __init__(self, pid: int) -> None:
        self._shell = subprocess.Popen(
            ["sh", "-c", 'read -r _; kill -9 "$0"', str(pid)], stdin=subprocess.PIPE, start_new_session=True
        )

    def dismiss(self) -> None:
        """The process has ended, and its number may come to name another one."""
        self._shell.kill()
        self._shell.wait()
        if self._shell.stdin is not None:
            self._shell.stdin.close()
