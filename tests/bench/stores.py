"""Which embedded store is the cheapest for what the worker remembers?

    python -m tests.bench.stores [--records 300000] [--bytes 500]

CPU time per record of four things: batches of new keys at random, batches of known ones, gets, a scan. Each batch
carries its changelog offset in the same transaction. A store whose library is not installed is left out
(`pip install rocksdict` for RocksDB).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.bench.host import host_line
from worker.state.disk import DiskStore

BATCH = 512
NUM_BATCHES = 200


class Candidate(Protocol):
    def get(self, key: str) -> bytes | None: ...
    def apply(self, changes: Mapping[str, bytes | None], applied: int) -> None: ...
    def items(self) -> Iterator[Any]: ...


class Sqlite:
    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path / "store", isolation_level=None)
        self._connection.execute("pragma journal_mode=wal")
        self._connection.execute("pragma synchronous=off")
        self._connection.execute("create table store (key text primary key, value blob)")

    def get(self, key: str) -> bytes | None:
        row = self._connection.execute("select value from store where key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def apply(self, changes: Mapping[str, bytes | None], applied: int) -> None:
        self._connection.execute("begin")
        rows = [*changes.items(), ("\x00applied", b"%d" % applied)]
        self._connection.executemany("insert or replace into store values (?, ?)", rows)
        self._connection.execute("commit")

    def items(self) -> Iterator[Any]:
        return self._connection.execute("select key, value from store")


class RocksDb:
    def __init__(self, path: Path) -> None:
        import rocksdict  # type: ignore[import-not-found]

        options = rocksdict.Options(raw_mode=True)
        options.set_write_buffer_size(16 << 20)
        self._batch: Callable[[], Any] = lambda: rocksdict.WriteBatch(raw_mode=True)
        self._store = rocksdict.Rdict(str(path), options)

    def get(self, key: str) -> bytes | None:
        value: bytes | None = self._store.get(key.encode())
        return value

    def apply(self, changes: Mapping[str, bytes | None], applied: int) -> None:
        batch = self._batch()
        for key, value in changes.items():
            batch.put(key.encode(), value)
        batch.put(b"\x00applied", b"%d" % applied)
        self._store.write(batch)

    def items(self) -> Iterator[Any]:
        return iter(self._store.items())


CANDIDATES: Mapping[str, Callable[[Path], Candidate]] = {
    "LMDB": lambda path: DiskStore(path / "store", {}, time.time()),
    "RocksDB": RocksDb,
    "SQLite": Sqlite,
}


def measure(store: Candidate, keys: list[str], num_bytes: int) -> list[float]:
    """Microseconds of CPU per record: insert, update, get, scan."""
    dice, value = random.Random(0), os.urandom(num_bytes)
    batches = [[dice.choice(keys) for _ in range(BATCH)] for _ in range(NUM_BATCHES)]
    inserts = [keys[start : start + BATCH] for start in range(0, len(keys), BATCH)]
    work: list[tuple[Callable[[], object], int]] = [
        (lambda: [store.apply(dict.fromkeys(batch, value), 1) for batch in inserts], len(keys)),
        (lambda: [store.apply(dict.fromkeys(batch, value), 2) for batch in batches], BATCH * NUM_BATCHES),
        (lambda: [store.get(key) for batch in batches for key in batch], BATCH * NUM_BATCHES),
        (lambda: sum(1 for _ in store.items()), len(keys)),
    ]
    figures = []
    for step, count in work:
        started = time.process_time()
        step()
        figures.append((time.process_time() - started) / count * 1e6)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=300_000)
    parser.add_argument("--bytes", type=int, default=500)
    arguments = parser.parse_args()
    print(host_line())
    keys = [f"user-{number:08d}" for number in range(arguments.records)]
    random.Random(1).shuffle(keys)
    print(f"{'CPU us/record':>14}  {'insert':>7} {'update':>7} {'get':>7} {'scan':>7}")
    for name, make in CANDIDATES.items():
        with tempfile.TemporaryDirectory(prefix="align-stores-") as directory, contextlib.suppress(ImportError):
            figures = measure(make(Path(directory)), keys, arguments.bytes)
            print(f"{name:>14}  " + " ".join(f"{figure:7.2f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
