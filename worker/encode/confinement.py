"""Confinement of a process before it reads the files of strangers: it gives up files, network, other processes, and
privileges.

A flaw in a C library makes the file the author of what its process does next. What is left to it here is to compute,
and to answer its parent: nothing can be opened, connected to or started, and nothing grows. Limits hold wherever POSIX
does; the filter of system calls, written here as the kernel takes it, holds on Linux for x86-64 and arm64.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import struct
import sys
from collections.abc import Iterable, Mapping

MAX_OPEN_FILES = 32

PASSED_ON = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONHOME",
    "PYTHONUTF8",
    "PYTHONDONTWRITEBYTECODE",
    "PYTHONPYCACHEPREFIX",
)
"""Variables that say where code lies and how text is written. No other is passed on: what is configured by the
environment is so above all because it is secret."""
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 38, 22, 24
_SECCOMP_MODE_FILTER = 2
_CAPABILITY_VERSION = 0x20080522

# Instructions of the kernel's packet filter, and what they return.
_LOAD, _JUMP_IF_EQUAL, _JUMP_IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE = 0, 4
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_X32_BIT = 0x40000000  # the other table of calls of x86-64

# By number: x86-64, arm64; None where an architecture does not have the call.
_NEEDED: Mapping[str, tuple[int | None, int | None]] = {
    # to be asked and to answer
    "read": (0, 63), "readv": (19, 65), "write": (1, 64), "writev": (20, 66), "close": (3, 57), "lseek": (8, 62),
    "fstat": (5, 80), "poll": (7, None), "ppoll": (271, 73),
    # memory
    "brk": (12, 214), "mmap": (9, 222), "mremap": (25, 216), "munmap": (11, 215), "mprotect": (10, 226),
    "madvise": (28, 233),
    # time
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "setitimer": (38, 103), "getitimer": (36, 102),
    # to know itself
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getrusage": (98, 165), "uname": (63, 160), "sysinfo": (99, 179),
    "sched_getaffinity": (204, 123), "getcpu": (309, 168), "times": (100, 153),
    # locks, signals, randomness, the end
    "futex": (202, 98), "sched_yield": (24, 124), "membarrier": (324, 283), "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128),
    "getrandom": (318, 278), "exit": (60, 93), "exit_group": (231, 94),
}  # fmt: skip
_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def environment(own: Mapping[str, str], search_path: Iterable[str]) -> dict[str, str]:
    """Environment of a confined process: of `own`, the variables it needs to start and to find code."""
    passed_on = {name: own[name] for name in PASSED_ON if name in own}
    return {**passed_on, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(dict.fromkeys(filter(None, search_path)))}


def confine(memory_bytes: int) -> list[str]:
    """Give up what decoding does not need, for good. Returns what the platform does not let go of, in words.

    All code has to be loaded by now: no file can be opened afterwards, and no thread started.
    """
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_DATA, memory_bytes)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_NOFILE, MAX_OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, 0)
    if sys.platform != "linux":
        return [f"no privileges and system calls are given up on {sys.platform}"]
    kernel = _Kernel()
    missing = []
    for give_up in (kernel.give_up_capabilities, kernel.give_up_new_privileges, kernel.filter_calls):
        try:
            give_up()
        except OSError as error:
            missing.append(str(error.strerror or error))
    return missing


def _limit(kind: int, value: int) -> None:
    """Never above what is in force: raising a limit takes a privilege."""
    _, most = resource.getrlimit(kind)
    least = value if most == resource.RLIM_INFINITY else min(value, most)
    with contextlib.suppress(OSError, ValueError):  # a platform that does not know it
        resource.setrlimit(kind, (least, least))


class _Kernel:
    """The calls of Linux that Python has no name for. Each raises `OSError`."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def give_up_capabilities(self) -> None:
        """Drop the capabilities, which only a process of root has."""
        number = 0
        while self._libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) == 0:
            number += 1
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
        none = (ctypes.c_uint32 * 6)()
        self._check("capabilities", self._libc.capset(ctypes.byref(header), ctypes.byref(none)))

    def give_up_new_privileges(self) -> None:
        self._check("no_new_privs", self._libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))

    def filter_calls(self) -> None:
        """Let through the calls on the list; any other fails with EPERM, and one of another architecture ends the
        process."""
        machine = platform.machine()
        if machine not in _ARCHITECTURES or sys.maxsize < 2**32:
            raise OSError(errno.ENOSYS, f"no filter of system calls is known for {machine}")
        code = filter_program(machine)
        buffer = ctypes.create_string_buffer(code, len(code))
        program = _Program(len(code) // 8, ctypes.addressof(buffer))
        done = self._libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
        self._check("the filter of system calls", done)

    def _check(self, what: str, result: int) -> None:
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"{what}: {os.strerror(number)}")


def filter_program(machine: str) -> bytes:
    """For the kernel: the calls that `machine` may make, one comparison each."""
    architecture, column = _ARCHITECTURES[machine]
    numbers = sorted({entry[column] for entry in _NEEDED.values()} - {None}, key=lambda number: number or 0)
    allow = len(numbers) + 1  # instructions from the first comparison to the last one
    steps = [
        (_LOAD, 0, 0, _OFFSET_ARCHITECTURE),
        (_JUMP_IF_EQUAL, 1, 0, architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _OFFSET_NUMBER),
        (_JUMP_IF_AT_LEAST, len(numbers), 0, _X32_BIT),
        *((_JUMP_IF_EQUAL, allow - index - 1, 0, number) for index, number in enumerate(numbers)),
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)
