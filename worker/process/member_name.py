"""The name under which a process comes back to its group after it was killed.

A member that is killed says nothing, so the broker counts it in until its session ends, and when a stranger joins
meanwhile, all wait for the dead one. With a name (`kafka.group_instance_id`) there is no such trouble: whoever comes
next under it takes the dead one's partitions at once, and nobody else notices.

Where nobody gives names, a machine remembers its own: a directory holds a file per name, locked for as long as its
process lives. The kernel lets go of a lock however the process ends, so the next one to start finds the name free.
Never have two living processes one name: it is made up at random, it is in use while it is locked, and a file that was
copied to another machine, or was there before this one was started, is not believed.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import socket
import stat
import tempfile
import uuid
import weakref
from pathlib import Path

from worker.settings import KafkaSettings, Settings

log = logging.getLogger(__name__)

MAX_NAMES = 1_000
"""On one machine, of one group."""
MAX_FILE_BYTES = 1_024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")


class TakenName:
    """A name that no other living process has. It is free again when this one has ended, or has let go of it."""

    def __init__(self, name: str, descriptor: int) -> None:
        """`descriptor`: of the file, locked."""
        self.name = name
        self._let_go = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        self._let_go()


def take_name(directory: Path, key: str, boot_id: str) -> TakenName | None:
    """The first free name in the directory among those of `key`, or a new one. None: all are in use.

    `boot_id`: what tells this run of the machine from others.
    """
    for number in range(MAX_NAMES):
        descriptor = os.open(directory / f"{key}-{number}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return TakenName(_remembered(descriptor, boot_id), descriptor)
        except BlockingIOError:
            os.close(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    return None


def _remembered(descriptor: int, boot_id: str) -> str:
    """The name in a file that is locked; a new one, written to it, where it holds none of this run of the machine."""
    written_at, _, name = os.pread(descriptor, MAX_FILE_BYTES, 0).decode(errors="replace").partition("\n")
    if written_at == boot_id and _NAME.fullmatch(name):
        return name
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64]
    name = f"{host}-{uuid.uuid4().hex[:12]}"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{boot_id}\n{name}".encode(), 0)
    return name


def with_member_name(settings: Settings) -> tuple[Settings, TakenName | None]:
    """The settings with a name for this member of its groups, and what keeps it. Close that when the member has left.

    They are as they were where a name is given, or none is to be remembered or can be.
    """
    kafka = settings.kafka
    if kafka.group_instance_id is not None or not kafka.remember_member or kafka.api_version is not None:
        return settings, None  # the embedded broker keeps no names
    try:
        taken = take_name(own_directory(Path(tempfile.gettempdir())), _key(settings), _boot_id())
    except OSError as error:
        log.warning(
            "no name can be remembered for this member: %s; killed and started again, it makes the whole group wait "
            "for kafka.session_timeout_ms; set kafka.group_instance_id, or TMPDIR to a local directory", error,
            extra={"action": "no_member_name"},
        )  # fmt: skip
        return settings, None
    if taken is None:
        return settings, None
    log.info("member name %s", taken.name, extra={"action": "member_name"})
    named: KafkaSettings = kafka.model_copy(update={"group_instance_id": taken.name, "leave_group": kafka.leaves_group})
    return settings.model_copy(update={"kafka": named}), taken


def own_directory(parent: Path) -> Path:
    """A directory of this user's own. Raises `OSError` where somebody else has made it: its names could be theirs."""
    directory = parent / f"align-worker-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{directory} is not a directory that only this user writes to")
    return directory


def _key(settings: Settings) -> str:
    """A key for those who share names: members of one group, with one disk where they have disks, so that a worker
    finds its own again. Processes with other settings do not take them."""
    parts = (settings.kafka.bootstrap_servers, settings.kafka.group_id, sorted(settings.roles), settings.state.dir)
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:16]


def _boot_id() -> str:
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:  # not Linux
        return "unknown"
