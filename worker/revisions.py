"""Which input of an item is the newest that this worker has accepted.

The order of one item's inputs is decided here and nowhere else:

- An input before the newest accepted one in the log was overtaken when that one was accepted.
- After it in the log, an upsert wins with an equal or higher revision.
- A delete ends the item's life: what follows it in the log is a new life, whatever its revision.
"""

from __future__ import annotations

from typing import NamedTuple


class Newest(NamedTuple):
    """The newest accepted input of one item."""

    offset: int
    revision: int | None
    """None: a delete."""


class Revisions:
    """The newest accepted inputs of one partition's items. Used by one thread at a time.

    Holds at most `max_items`, in two generations: when the young one is half of that, it becomes the old one and the
    former old one is forgotten. An item is therefore remembered for at least `max_items / 2` changes of other items.
    """

    def __init__(self, max_items: int) -> None:
        self._max_young = max(1, max_items // 2)
        self._young: dict[str, Newest] = {}
        self._old: dict[str, Newest] = {}
        self.known_until = 0
        """Offset in the output partition before which every output is known here; kept for `worker.restore`."""

    def __len__(self) -> int:
        return len(self._young) + sum(item_id not in self._young for item_id in self._old)

    def accept_upsert(self, item_id: str, revision: int, offset: int) -> bool:
        """Whether this input is the item's newest; if so, remember it."""
        newest = self._young.get(item_id) or self._old.get(item_id)
        if newest is not None and (
            offset < newest.offset
            or (offset > newest.offset and newest.revision is not None and revision < newest.revision)
        ):
            return False
        self._remember(item_id, Newest(offset, revision))
        return True

    def accept_delete(self, item_id: str, offset: int) -> bool:
        """Whether this delete is the item's newest input; if so, remember it."""
        newest = self._young.get(item_id) or self._old.get(item_id)
        if newest is not None and offset < newest.offset:
            return False
        self._remember(item_id, Newest(offset, None))
        return True

    def restore(self, item_id: str, newest: Newest) -> None:
        """Take over what an earlier owner of the partition has published. Call in the order of the output log."""
        known = self._young.get(item_id) or self._old.get(item_id)
        if known is None or newest.offset >= known.offset:
            self._remember(item_id, newest)

    def _remember(self, item_id: str, newest: Newest) -> None:
        self._young[item_id] = newest
        if len(self._young) >= self._max_young:
            self._young, self._old = {}, self._young
