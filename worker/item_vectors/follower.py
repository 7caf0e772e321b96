"""Follows the item vectors, from the beginning of their topic, into a table on the device.

Every worker that needs them reads all partitions, outside any group: any user may act on any item, and any item be a
neighbour of any other. The table is ready once it has been read up to where the topic ended at the start.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Collection, Sequence

from schemas import ItemVector, SchemaError, decode_vector
from worker.errors import ClientError, UnreadableError
from worker.item_vectors.source_offset import of_deletion
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.kafka.port import ClientPort, TopicFollower
from worker.records import Notice, Record

log = logging.getLogger(__name__)

POLL_TIMEOUT_MS = 200
RETRY_S = 1.0
SHOWN_CHARS = 80


class ItemVectorFollower:
    """`step` runs on a thread of its own."""

    def __init__(
        self,
        client: ClientPort,
        topic: str,
        space_id: str,
        dim: int,
        table: ItemTable,
        *,
        is_base: bool = False,
        compatible_ids: Collection[str] = (),
    ) -> None:
        """`is_base`: the table is to hold the vectors before graph fusion. `compatible_ids`: of spaces whose vectors
        count like those of this one."""
        self.table = table
        self._is_base = is_base
        self._is_asked = self._looks_again = self._is_read_again = False
        self._client = client
        self._topic = topic
        self._space_ids, self._dim = {space_id, *compatible_ids}, dim
        self._reader: TopicFollower | None = None
        self._news: queue.SimpleQueue[tuple[list[str], list[str]]] = queue.SimpleQueue()
        self.is_ready = False
        self.num_foreign = 0
        """Vectors of another space, and records that are no vectors."""
        self.num_behind = 0
        """Records still to be read before the table is ready."""
        self.unreadable: Sequence[UnreadableError] = ()
        """Partitions that cannot be read on. The table lacks what lies behind, as though it had not been published yet:
        who is made of it waits."""

    def count_too(self, space_ids: Collection[str]) -> None:
        """Vectors of these spaces count like those of this one from now on. Any thread."""
        self._space_ids = {*self._space_ids, *space_ids}

    def step(self) -> None:
        """Read on; returns after a moment when there is nothing."""
        try:
            if self._reader is None:
                self._reader = self._client.reader(self._topic)
            if self._is_asked and not self._looks_again:
                self._reader.look_again()
                self._looks_again = True
            records = self._reader.poll(POLL_TIMEOUT_MS)
            self._note_unreadable(self._reader.unreadable())
            if not self.is_ready or self._looks_again:
                self.num_behind = self._reader.num_behind()
        except ClientError as error:
            log.warning("%s", error.one_line(), extra={"action": "catalogue_failed"})
            time.sleep(RETRY_S)
            return
        if records:
            news = self.table.apply(self._updates(records))
            if any(news):
                self._news.put(news)
        if not self.is_ready and self.num_behind == 0:
            log.info("%d item vectors read", self.table.num_items, extra={"action": "catalogue_ready"})
            self.is_ready = True
        self._is_read_again = self._looks_again and self.num_behind == 0

    def _note_unreadable(self, found: Sequence[UnreadableError]) -> None:
        for error in found:
            if error not in self.unreadable:
                log.error("%s", error.one_line(), extra={"action": "unreadable"})
        self.unreadable = found

    def is_up_to_date(self) -> bool:
        """Whether everything has been read, and is in the news, that lay in the topic when this was first asked."""
        self._is_asked = True
        return self._is_read_again and not self.unreadable

    def news(self) -> tuple[list[str], list[str]]:
        """Items that have appeared, and that have changed, since the last call. Never waits."""
        appeared: list[str] = []
        changed: list[str] = []
        while not self._news.empty():
            new, renewed = self._news.get()
            appeared += new
            changed += renewed
        return appeared, changed

    def notices(self) -> list[Notice]:
        """Notices about keys that have come in two partitions since the last call. Poll thread."""
        astray = self.table.astray
        found = [astray.popleft() for _ in range(len(astray))]
        if not found:
            return []
        item_id, before, now = found[-1]
        return [
            Notice(
                "key_in_two_partitions",
                f"{self._topic}: a key lies in two partitions, as {item_id[:SHOWN_CHARS]!r} in {before} and {now}: "
                f"producers of the items disagree about partitions ({self.table.num_astray} times so far; "
                f"schemas/README.md, Partitions)",
            )
        ]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()

    def _updates(self, records: Sequence[Record]) -> list[ItemUpdate]:
        return [update for record in records if (update := self._update(record)) is not None]

    def _update(self, record: Record) -> ItemUpdate | None:
        try:
            item_id = (record.key or b"").decode()
            if record.value is None:
                at = of_deletion(record)
                return ItemUpdate(item_id, at, None, record.partition, made_at_ms=record.timestamp)
            vector = decode_vector(ItemVector, record.value)
        except (SchemaError, ValueError):
            self.num_foreign += 1
            return None
        taken = vector.base if self._is_base else vector.vector
        if vector.space_id not in self._space_ids or taken.shape != (self._dim,):
            self.num_foreign += 1
            return None
        source = vector.source_offset
        if self._is_base and source is not None and source == self.table.source_offset(item_id):
            return None  # what the item is before graph fusion depends on its messages alone
        return ItemUpdate(
            item_id,
            source,
            taken.to_numpy().astype("f4"),
            record.partition,
            vector.revision,
            vector.produced_at_ms,
        )
