"""What a decoder's process can still do: decode, and nothing else."""

from __future__ import annotations

import errno
import json
import logging
import platform
import struct
import sys
from typing import Any

import pytest

from tests import media_files
from worker.encode import decoder_pool
from worker.encode.confinement import _ARCHITECTURES, environment, filter_program
from worker.encode.decoder_pool import DecoderPool, Job
from worker.encode.media.forms import ImageForm, Text, TextForm

KILLED, REFUSED, ALLOWED = 0x80000000, 0x00050000 | errno.EPERM, 0x7FFF0000
IS_FILTERED = sys.platform == "linux" and platform.machine() in _ARCHITECTURES
SECRETS = {
    "ALIGN_KAFKA__SASL_PASSWORD": "secret-1",
    "AWS_SECRET_ACCESS_KEY": "secret-2",
    "DATABASE_URL": "postgres://me:secret-3@db/x",
    "LD_PRELOAD_TOKEN": "secret-4",
    "HOME": "/home/secret-5",
}

# In place of decoding: what is in reach. It says so as if it were the text of the file.
PROBE = """
import ctypes, json, os, resource, socket, subprocess, threading, errno
from worker.encode import decoder_process
from worker.encode.media.forms import Text

libc = ctypes.CDLL(None, use_errno=True)

def ptrace():
    if libc.ptrace(16, os.getppid(), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")

def attempt(action):
    try:
        action()
    except OSError as error:
        return errno.errorcode[error.errno]
    except (RuntimeError, ValueError) as error:
        return str(error)
    return "done"

ACTIONS = {
    "socket": lambda: socket.socket(), "udp": lambda: socket.socket(type=socket.SOCK_DGRAM),
    "unix": lambda: socket.socket(socket.AF_UNIX), "pair": lambda: socket.socketpair(),
    "read a file": lambda: open("/proc/self/environ").read(),
    "read the parent": lambda: open(f"/proc/{os.getppid()}/environ").read(),
    "write a file": lambda: open("/tmp/align-decoder-probe", "w"), "list": lambda: os.listdir("/"),
    "fork": os.fork, "spawn": lambda: subprocess.Popen(["true"]), "exec": lambda: os.execv("/bin/true", ["true"]),
    "thread": lambda: threading.Thread(target=print).start(), "ptrace": ptrace,
    "signal the parent": lambda: os.kill(os.getppid(), 0), "pipe": os.pipe, "duplicate": lambda: os.dup(0),
    "remove": lambda: os.unlink("/tmp/align-decoder-probe"), "chroot": lambda: os.chroot("/"),
    "raise a limit": lambda: resource.setrlimit(resource.RLIMIT_DATA, (-1, -1)),
}

def decode(data, forms, limits):
    return [Text(json.dumps({"environment": dict(os.environ), "tried": {n: attempt(a) for n, a in ACTIONS.items()}}))]

decoder_process.decode = decode
decoder_process.main()
"""


def probed(monkeypatch: pytest.MonkeyPatch, start: str = "") -> dict[str, Any]:
    monkeypatch.setattr(decoder_pool, "COMMAND", (sys.executable, "-c", start + PROBE))
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    pool = DecoderPool(1)
    (part,) = pool.decode(Job(b"", [TextForm(100_000)]))
    pool.close()
    assert isinstance(part, Text)
    return dict(json.loads(part.text))


@pytest.mark.skipif(not IS_FILTERED, reason="the platform has no filter of system calls that is known here")
def test_inside_a_decoder_nothing_can_be_opened_connected_or_started(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = probed(monkeypatch)["tried"]
    assert tried.pop("thread") == "can't start new thread"
    assert "not allowed" in tried.pop("raise a limit")
    assert set(tried.values()) == {"EPERM"}, tried


def test_inside_a_decoder_no_secret_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probed(monkeypatch)["environment"]
    assert not found.keys() & SECRETS.keys()
    assert "secret" not in str(found)
    assert found["OMP_NUM_THREADS"] == "1"


def test_only_what_says_where_code_lies_is_passed_on() -> None:
    own = {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "LD_LIBRARY_PATH": "/lib",
        "ALIGN_X": "1",
        "PYTHONSTARTUP": "/x",
        **SECRETS,
    }
    made = environment(own, ["/a", "", "/b", "/a"])
    assert made.pop("PYTHONPATH").split(":") == ["/a", "/b"]
    assert {name for name in made if not name.endswith("_THREADS")} == {"PATH", "LANG", "LD_LIBRARY_PATH"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_decoder_has_no_privileges_and_cannot_grow() -> None:
    pool = DecoderPool(1, memory_bytes=300 * 2**20)
    pool.warm_up()
    (decoder,) = pool._running
    process = f"/proc/{decoder._process.pid}/"
    with open(process + "status") as file:
        status = dict(line.split(":", 1) for line in file.read().splitlines())
    with open(process + "limits") as file:
        limits = {line[:25].strip(): line[25:].split()[:2] for line in file}
    pool.close()
    assert status["NoNewPrivs"].strip() == "1"
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == int(status["CapInh"], 16) == 0
    assert status["Threads"].strip() == "1"
    assert status["Seccomp"].strip() == ("2" if IS_FILTERED else "0")
    assert limits["Max processes"] == limits["Max file size"] == limits["Max core file size"] == ["0", "0"]
    assert limits["Max open files"] == ["32", "32"]
    assert limits["Max data size"] == [str(300 * 2**20)] * 2


@pytest.mark.skipif(sys.platform != "linux", reason="other platforms have no filter to do without")
def test_what_the_platform_does_not_protect_from_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = "from worker.encode import confinement; confinement._ARCHITECTURES = {}\n"
    code = start + "from worker.encode.decoder_process import main; main()"
    monkeypatch.setattr(decoder_pool, "COMMAND", (sys.executable, "-c", code))
    pool = DecoderPool(2)
    pool.warm_up()
    assert pool.num_started == 2
    assert pool.decode(Job(media_files.picture(), [ImageForm(8, 8)]))
    pool.close()
    (told,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "no filter of system calls is known for" in told.message


# ---------------------------------------------------------------------- the filter itself, on either architecture


def verdict(machine: str, number: int, architecture: int | None = None) -> int:
    """What the kernel would make of a call, by reading the program as it does."""
    values = {0: number, 4: _ARCHITECTURES[machine][0] if architecture is None else architecture}
    program = list(struct.iter_unpack("=HBBI", filter_program(machine)))
    position = loaded = 0
    while True:
        operation, if_true, if_false, operand = program[position]
        position += 1
        if operation == 0x06:
            return int(operand)
        if operation == 0x20:
            loaded = values[operand]
        else:
            is_true = loaded == operand if operation == 0x15 else loaded >= operand
            position += if_true if is_true else if_false


DENIED = {  # by number: x86-64, arm64
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206), "accept": (43, 202),
    "socketpair": (53, 199), "openat": (257, 56), "openat2": (437, 437), "execve": (59, 221), "execveat": (322, 281),
    "clone": (56, 220), "clone3": (435, 435), "ptrace": (101, 117), "kill": (62, 129), "tgkill": (234, 131),
    "prctl": (157, 167), "process_vm_readv": (310, 270), "bpf": (321, 280), "io_uring_setup": (425, 425),
    "mount": (165, 40), "unshare": (272, 97), "keyctl": (250, 219), "ioctl": (16, 29), "fcntl": (72, 25),
    "dup": (32, 23), "memfd_create": (319, 279), "prlimit64": (302, 261), "setuid": (105, 146),
}  # fmt: skip
NEEDED = {"read": (0, 63), "write": (1, 64), "mmap": (9, 222), "munmap": (11, 215), "brk": (12, 214), "exit": (231, 94)}


@pytest.mark.parametrize(("column", "machine"), [(0, "x86_64"), (1, "aarch64")])
def test_calls_that_reach_out_are_refused_and_those_that_decoding_needs_are_not(column: int, machine: str) -> None:
    assert {name: verdict(machine, numbers[column]) for name, numbers in DENIED.items()} == dict.fromkeys(
        DENIED, REFUSED
    )
    assert {verdict(machine, numbers[column]) for numbers in NEEDED.values()} == {ALLOWED}
    assert verdict(machine, 10_000) == REFUSED


def test_calls_by_another_table_end_the_process_or_are_refused() -> None:
    for machine in _ARCHITECTURES:
        assert verdict(machine, 1, architecture=0x40000003) == KILLED
    assert verdict("x86_64", 0x40000000 | 41) == REFUSED
    assert verdict("x86_64", 0x40000000) == REFUSED
