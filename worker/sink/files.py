"""Snapshots in files, for Faiss and whatever else reads arrays: a directory per space.

    current -> snapshot-00000012/
        vectors.npy       float32 [N, D], a row for each id
        ids.json          the ids, in the order of the rows
        rows.parquet      the same with attributes and all that is known
        deleted.parquet   what was deleted, so that nothing older brings it back

A batch is appended to a journal and is on the disk before it is acknowledged; a snapshot takes the journal in, and
appears whole, when `current` is switched. What begins again reads the snapshot and the journal behind it. One process
at a time: the directory is locked.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import struct
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from worker.errors import ConfigError, StoreError
from worker.json_text import read_json
from worker.settings import SinkSettings
from worker.sink.port import Outcome
from worker.sink.row import Collection, Entity, Place, Row, is_newer

_HEAD = struct.Struct("<II")
CURRENT = "current"
_SPACE = "space.json"


class Files:
    """Implements `Store`."""

    def __init__(self, settings: SinkSettings) -> None:
        if settings.path is None:
            raise ConfigError("sink.path is not set: name the directory of the snapshots")
        self._settings = settings
        self._root = settings.path
        self._lock: BinaryIO | None = None
        self._held: dict[Collection, _Directory] = {}

    def connect(self) -> None:
        self._release()
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / "lock").open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise StoreError(f"{self._root} is in use by another sink") from None
            self._lock = lock
            for path in sorted(self._root.glob(f"*/{_SPACE}")):
                collection = Collection(*read_json(path.read_text()))
                self._held[collection] = _Directory(path.parent, self._settings.keep_deleted_s)
        except (OSError, ValueError, TypeError) as error:
            raise StoreError(f"sink.path: {self._root} cannot be read as snapshots of a sink: {error}") from error

    def prepare(self, collection: Collection) -> None:
        if collection in self._held:
            return
        others = [each for each in self._held if each.name == collection.name]
        if others:
            raise ConfigError(
                f"{self._root / collection.name} holds vectors of {others[0].dim} dimensions, the topic vectors of "
                f"{collection.dim}: remove it, or set sink.path"
            )
        path = self._root / (self._settings.prefix + collection.name)
        try:
            path.mkdir(exist_ok=True)
            _write_whole(path / _SPACE, json.dumps(collection).encode())
            self._held[collection] = _Directory(path, self._settings.keep_deleted_s)
        except OSError as error:
            raise StoreError(f"sink.path: {error}") from error

    def collections(self, entity: Entity) -> Sequence[Collection]:
        return [each for each in self._held if each.entity == entity]

    def write(self, collection: Collection, rows: Sequence[Row]) -> Outcome:
        if self._lock is None:
            raise StoreError(f"{self._root} is not open")
        try:
            outcome = self._held[collection].write(rows)
            self._snapshot()
        except OSError as error:
            raise StoreError(f"sink.path: {error}") from error
        return outcome

    def tick(self, *, is_caught_up: bool) -> bool:
        try:
            self._snapshot()
        except OSError as error:
            raise StoreError(f"sink.path: {error}") from error
        return True

    def _snapshot(self) -> None:
        for collection, held in self._held.items():
            if held.is_due(time.monotonic(), self._settings.snapshot_interval_s):
                held.snapshot(collection.dim)

    def close(self) -> None:
        try:
            if self._lock is not None:
                for collection, held in self._held.items():
                    if held.num_changes:
                        held.snapshot(collection.dim)
        except OSError as error:
            raise StoreError(f"sink.path: {error}") from error
        finally:
            self._release()

    def _release(self) -> None:
        for held in self._held.values():
            held.close()
        self._held.clear()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


class _Directory:
    """One collection: its rows, in memory, and the journal of what has come since the snapshot."""

    def __init__(self, path: Path, keep_deleted_s: float) -> None:
        self._path = path
        self._keep_deleted_ms = round(keep_deleted_s * 1000)
        self.rows: dict[str, Row] = {}
        self._number = 0
        current = path / CURRENT
        if current.exists():
            self._number = int(current.resolve().name.removeprefix("snapshot-"))
            self.rows = _read_snapshot(current)
        journal = path / f"journal-{self._number:08d}"
        self.num_changes, end = 0, 0
        if journal.exists():
            for row, behind in _read_journal(journal):
                self._take(row)
                self.num_changes, end = self.num_changes + 1, behind
        self._journal = journal.open("r+b" if journal.exists() else "w+b")
        self._journal.truncate(end)
        self._journal.seek(end)
        self._snapshot_at = -float("inf")

    def write(self, rows: Sequence[Row]) -> Outcome:
        taken = [row for row in rows if self._is_newer(row)]
        if taken:
            start = self._journal.tell()
            try:
                self._journal.write(b"".join(map(_packed, taken)))
                self._journal.flush()
                os.fsync(self._journal.fileno())
            except OSError:
                self._journal.seek(start)
                self._journal.truncate()
                raise
            for row in taken:
                self._take(row)
            self.num_changes += len(taken)
        num_deleted = sum(row.is_deleted for row in taken)
        return Outcome(len(taken) - num_deleted, num_deleted, len(rows) - len(taken))

    def _is_newer(self, row: Row) -> bool:
        known = self.rows.get(row.id)
        return known is None or is_newer(
            row.place, known.place, is_deleted=row.is_deleted, was_deleted=known.is_deleted
        )

    def _take(self, row: Row) -> None:
        self.rows[row.id] = row

    def is_due(self, now: float, interval_s: float) -> bool:
        return self.num_changes > 0 and now - self._snapshot_at >= interval_s

    def snapshot(self, dim: int) -> None:
        """Write what there is to a directory of its own, and switch to it."""
        before_ms = time.time_ns() // 1_000_000 - self._keep_deleted_ms
        self.rows = {
            name: row for name, row in self.rows.items() if not row.is_deleted or row.place.made_at_ms >= before_ms
        }
        number = self._number + 1
        made = self._path / f"snapshot-{number:08d}"
        shutil.rmtree(made, ignore_errors=True)
        made.mkdir()
        living = [row for row in self.rows.values() if row.vector is not None]
        vectors_ND = np.stack([row.vector for row in living]) if living else np.empty((0, dim), np.float32)  # type: ignore[misc]
        np.save(made / "vectors.npy", vectors_ND)
        (made / "ids.json").write_text(json.dumps([row.id for row in living]))
        pq.write_table(_table(living, vectors_ND), made / "rows.parquet")
        pq.write_table(_table([row for row in self.rows.values() if row.is_deleted], None), made / "deleted.parquet")
        for each in made.iterdir():
            _sync(each)
        _sync(made)
        journal = (self._path / f"journal-{number:08d}").open("w+b")
        link = self._path / "next"
        link.unlink(missing_ok=True)
        link.symlink_to(made.name)
        link.rename(self._path / CURRENT)
        _sync(self._path)
        self._journal.close()
        self._journal, before, self._number = journal, self._number, number
        self.num_changes, self._snapshot_at = 0, time.monotonic()
        (self._path / f"journal-{before:08d}").unlink(missing_ok=True)
        for old in self._path.glob("snapshot-*"):
            if int(old.name.removeprefix("snapshot-")) < number - 1:  # a reader may still be in the one before
                shutil.rmtree(old, ignore_errors=True)

    def close(self) -> None:
        self._journal.close()


def _packed(row: Row) -> bytes:
    fields = (
        row.id, row.place, None if row.vector is None else row.vector.astype("<f4").tobytes(), row.event_time_ms,
        list(row.modalities), row.prior, dict(row.attributes), row.num_events,
    )  # fmt: skip
    body: bytes = msgpack.packb(fields)
    return _HEAD.pack(len(body), zlib.crc32(body)) + body


def _read_journal(path: Path) -> Iterator[tuple[Row, int]]:
    """The rows that are whole, each with where it ends: what a crash has torn was not acknowledged."""
    data, start = path.read_bytes(), 0
    while start + _HEAD.size <= len(data):
        length, checksum = _HEAD.unpack_from(data, start)
        body = data[start + _HEAD.size : start + _HEAD.size + length]
        if len(body) < length or zlib.crc32(body) != checksum:
            return
        start += _HEAD.size + length
        row_id, place, vector, event_time_ms, modalities, prior, attributes, num_events = msgpack.unpackb(body)
        values = None if vector is None else np.frombuffer(vector, "<f4")
        yield Row(row_id, Place(*place), None, values, event_time_ms, modalities, prior, attributes, num_events), start


_PLACE = ("log", "log_partition", "source_offset", "log_offset", "produced_at_ms", "revision")


def _table(rows: Sequence[Row], vectors_ND: Any) -> pa.Table:
    places = [list(values) for values in zip(*(row.place for row in rows), strict=True)] or [[] for _ in _PLACE]
    types = (pa.string(), pa.int32(), pa.int64(), pa.int64(), pa.int64(), pa.int64())
    columns: dict[str, Any] = {"id": pa.array([row.id for row in rows], pa.string())}
    if vectors_ND is not None:
        flat = pa.array(vectors_ND.ravel(), pa.float32())
        columns["vector"] = pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])
        columns |= {
            "attributes": pa.array([json.dumps(row.attributes, ensure_ascii=False) for row in rows], pa.string()),
            "event_time_ms": pa.array([row.event_time_ms for row in rows], pa.int64()),
            "modalities": pa.array([list(row.modalities) for row in rows], pa.list_(pa.string())),
            "prior": pa.array([row.prior for row in rows], pa.float64()),
            "num_events": pa.array([row.num_events for row in rows], pa.int64()),
        }
    for name, values, kind in zip(_PLACE, places, types, strict=True):
        columns[name] = pa.array(values, kind)
    return pa.table(columns)


def _read_snapshot(path: Path) -> dict[str, Row]:
    vectors_ND = np.load(path / "vectors.npy")
    known = pq.read_table(path / "rows.parquet").drop_columns(["vector"]).to_pylist()
    found: dict[str, Row] = {}
    for each, vector in zip(known, vectors_ND, strict=True):
        place = Place(*(each[name] for name in _PLACE))
        found[each["id"]] = Row(
            each["id"], place, None, vector, each["event_time_ms"], each["modalities"], each["prior"],
            read_json(each["attributes"]), each["num_events"],
        )  # fmt: skip
    for each in pq.read_table(path / "deleted.parquet").to_pylist():
        found[each["id"]] = Row(each["id"], Place(*(each[name] for name in _PLACE)), None)
    return found


def _write_whole(path: Path, data: bytes) -> None:
    written = path.with_suffix(".new")
    written.write_bytes(data)
    _sync(written)
    written.rename(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
