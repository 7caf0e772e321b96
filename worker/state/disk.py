"""A store in a directory, on LMDB: chosen over RocksDB and SQLite by `tests/bench/stores.py`.

Nothing is synced while it runs. A process that dies leaves its pages to the kernel, and one transaction holds values
and changelog offset together. A machine that dies may leave anything, so the stamp names the boot in which the store
was opened, and one that was not closed in an earlier boot is not trusted. Neither is a store of another version, topic
or group, one last written so long ago that the changelog may have dropped tombstones since, and one that cannot be
read. What is not trusted is removed, and comes again from the changelog.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import lmdb

from worker.errors import StateError
from worker.json_text import read_json
from worker.state.input_log import InputLog

log = logging.getLogger(__name__)

VERSION = 1
MAX_AGE_S = 12 * 3_600  # half of the time for which the changelog keeps tombstones
_MAP_BYTES = 2**36  # per partition; address space, not memory or disk
_READERS_BYTES = 2 * 4_096  # of LMDB's table of readers
_NO_ROOM_BYTES = 2**20
_MAX_ID_BYTES = 500  # LMDB takes keys of 511
# No UTF-8 begins with these bytes, so they cannot meet an id.
_STAMP, _APPLIED, _LOG, _LONG = b"\xfe stamp", b"\xfe applied", b"\xfe log", b"\xff"


class DiskStore:
    """The store of one partition in `path`. `identity` says whose it is; a store with another identity is rebuilt."""

    def __init__(self, path: Path, identity: Mapping[str, str], now_s: float) -> None:
        self._path = path
        self._stamp = {"version": str(VERSION), **identity}
        try:
            distrust = self._distrust(now_s) if path.exists() else ""
            if distrust is not None:
                if distrust:
                    log.warning(
                        "the store in %s is removed and restored from the changelog: %s", path, distrust,
                        extra={"action": "store_rebuilt"},
                    )  # fmt: skip
                _remove(path)
                path.mkdir(parents=True)
            self._environment = _opened(path)
            self._write_stamp(closed=False)
            with self._environment.begin() as transaction:
                self.applied = int(transaction.get(_APPLIED, b"0"))
                written = transaction.get(_LOG)
            self.log = None if written is None else InputLog.decode(written)
        except (lmdb.Error, OSError) as error:
            raise self._failure(error) from error

    def get(self, key: str) -> bytes | None:
        raw = _raw(key)
        with self._translated(), self._environment.begin() as transaction:
            value: bytes | None = transaction.get(raw)
        return value if value is None or raw[:1] != _LONG else _split(value)[1]

    def apply(self, changes: Mapping[str, bytes | None], applied: int, log: InputLog | None = None) -> None:
        with self._translated(), self._environment.begin(write=True) as transaction:
            for key, value in changes.items():
                raw = _raw(key)
                if value is None:
                    transaction.delete(raw)
                else:
                    transaction.put(raw, _joined(key, value) if raw[:1] == _LONG else value)
            transaction.put(_APPLIED, b"%d" % applied)
            if log is not None:
                transaction.put(_LOG, log.encode())
        self.applied, self.log = applied, log or self.log

    def clear(self) -> None:
        with self._translated(), self._environment.begin(write=True) as transaction:
            transaction.drop(self._environment.open_db(txn=transaction), delete=False)
        self._write_stamp(closed=False)
        self.applied, self.log = 0, None

    def items(self) -> Iterator[tuple[str, bytes]]:
        with self._translated(), self._environment.begin() as transaction:
            for raw, value in transaction.cursor():
                if raw[:1] == _LONG:
                    yield _split(value)
                elif raw not in (_STAMP, _APPLIED, _LOG):
                    yield raw.decode(), value

    def keys(self) -> list[str]:
        found: list[str] = []
        with self._translated(), self._environment.begin() as transaction:
            for raw, value in transaction.cursor():
                if raw[:1] == _LONG:
                    found.append(_split(value)[0])
                elif raw not in (_STAMP, _APPLIED, _LOG):
                    found.append(raw.decode())
        return found

    def num_bytes(self) -> int:
        with self._translated():
            return _num_bytes(self._environment)

    def __len__(self) -> int:
        with self._translated():
            return max(0, int(self._environment.stat()["entries"]) - 2 - (self.log is not None))

    def close(self) -> None:
        """Make it durable, so that it may be trusted whatever happens to the machine."""
        with contextlib.suppress(lmdb.Error):  # one that is full or closed already is not trusted, and that is all
            self._environment.sync(True)
            self._write_stamp(closed=True)
            self._environment.sync(True)
        self._environment.close()

    def _distrust(self, now_s: float) -> str | None:
        """Why what lies in the directory cannot be used, or None."""
        data = self._path / "data.mdb"
        if not data.is_file():
            return "it holds no store"
        if now_s - data.stat().st_mtime > MAX_AGE_S:
            return f"it was last written more than {MAX_AGE_S // 3_600} hours ago"
        try:
            with contextlib.closing(_opened(self._path)) as environment:
                # To read what is mapped and not there would be the end of the process.
                if data.stat().st_size < _num_bytes(environment):
                    return "it is cut short"
                with environment.begin() as transaction:
                    stamp = read_json(transaction.get(_STAMP, b"{}"))
                    int(transaction.get(_APPLIED, b"0"))
                    if not isinstance(stamp, dict):
                        raise ValueError("its stamp is no map")
        except (lmdb.Error, ValueError) as error:
            return f"it cannot be read ({error})"
        if {name: value for name, value in stamp.items() if name not in ("closed", "boot")} != self._stamp:
            return f"it belongs to {stamp or 'nobody'}, not to {self._stamp}"
        if not stamp.get("closed") and stamp.get("boot") != _boot():
            return "it was in use when the machine stopped"
        return None

    def _write_stamp(self, *, closed: bool) -> None:
        with self._environment.begin(write=True) as transaction:
            transaction.put(_STAMP, json.dumps({**self._stamp, "closed": closed, "boot": _boot()}).encode())

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except lmdb.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> StateError:
        advice = ""
        if isinstance(error, lmdb.DiskError) or _is_full(self._path):  # a write may have been cut short before that
            advice = "; the disk is full: make room there, or set state.dir to a larger volume"
        return StateError(f"state.dir: the store in {self._path} cannot be used: {error}{advice}")


def _opened(path: Path) -> Any:
    # A full disk must be an error. Where there is no room for what is mapped for writing, the write would be the end of
    # the process: the table of readers is given its room before, and the data are not mapped for writing.
    with (path / "lock.mdb").open("ab") as readers:
        os.posix_fallocate(readers.fileno(), 0, _READERS_BYTES)
    return lmdb.open(str(path), map_size=_MAP_BYTES, sync=False, metasync=False, readahead=False)


def _num_bytes(environment: Any) -> int:
    return int((environment.info()["last_pgno"] + 1) * environment.stat()["psize"])


def _is_full(path: Path) -> bool:
    try:
        return shutil.disk_usage(path).free < _NO_ROOM_BYTES
    except OSError:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _raw(key: str) -> bytes:
    raw = key.encode()
    return raw if len(raw) <= _MAX_ID_BYTES else _LONG + hashlib.blake2b(raw).digest()


def _joined(key: str, value: bytes) -> bytes:
    """The value of a key too long for LMDB, with the key before it."""
    raw = key.encode()
    return len(raw).to_bytes(4, "little") + raw + value


def _split(joined: bytes) -> tuple[str, bytes]:
    end = 4 + int.from_bytes(joined[:4], "little")
    return joined[4:end].decode(), joined[end:]
