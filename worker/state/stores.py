"""The stores that a role has open. They outlive rebalances: a partition that comes back is known."""

from __future__ import annotations

import fcntl
import re
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

from worker.errors import ConfigError
from worker.state.store import MemoryStore, Store


class Stores:
    """The stores of the partitions, opened and let go of by the restore thread; a lock guards which are open.

    The poll thread asks for `size` while a store is filled: it reads counts, each of which is a single step.
    """

    def __init__(self, directory: Path | None, topic: str, group_id: str) -> None:
        self._directory = directory
        self._topic = topic
        self._identity = {"group": group_id, "topic": topic}
        self._prefix = f"{re.sub(r'[^A-Za-z0-9._-]', '_', group_id)}-{topic}"
        self._lock_file = None if directory is None else _claimed(directory, f"{self._prefix}.lock")
        self._open: dict[int, Store] = {}
        self._topic_ids: dict[int, str] = {}
        self._lock = threading.Lock()

    def open(self, partition: int, topic_id: str = "") -> Store:
        """The store of a partition, made if need be. `topic_id` is that of the changelog, where it is known: what was
        made of another one is forgotten. Raises `StateError` if the disk refuses."""
        with self._lock:
            if partition in self._open and self._topic_ids[partition] != topic_id:
                self._open.pop(partition).close()
            if partition not in self._open:
                self._open[partition] = self._made(partition, topic_id)
                self._topic_ids[partition] = topic_id
            return self._open[partition]

    def keep_only(self, partitions: Collection[int]) -> None:
        """Close the stores of partitions that have gone to others."""
        with self._lock:
            for partition in self._open.keys() - set(partitions):
                self._open.pop(partition).close()

    def close(self) -> None:
        self.keep_only(())
        if self._lock_file is not None:
            self._lock_file.close()

    def size(self) -> tuple[int, int]:
        """Values and bytes of all open stores."""
        with self._lock:
            stores = list(self._open.values())
            return sum(map(len, stores)), sum(store.num_bytes() for store in stores)

    def _made(self, partition: int, topic_id: str) -> Store:
        if self._directory is None:
            return MemoryStore()
        from worker.state.disk import DiskStore  # here, because LMDB is only for who has a `state.dir`

        identity = {**self._identity, "partition": str(partition), **({"topic_id": topic_id} if topic_id else {})}
        return DiskStore(self._directory / f"{self._prefix}-{partition}", identity, time.time())


def _claimed(directory: Path, name: str) -> IO[bytes]:
    """An open file that no other process can claim while this one lives."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / name).open("wb")
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"state.dir: another process uses {directory} for the same group and topic") from None
    except OSError as error:
        raise ConfigError(f"state.dir: cannot use {directory}: {error.strerror}") from error
    return file
