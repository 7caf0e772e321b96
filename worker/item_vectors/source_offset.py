"""Where an output comes from: the offset of its input, which says which of two outputs of an item is the newer."""

from __future__ import annotations

from worker.records import Record

HEADER = "align-source-offset"
"""Header of a deletion, which has no value to hold the offset (ASCII decimal). A vector has a field for it."""


def header(offset: int) -> tuple[str, bytes]:
    return HEADER, b"%d" % offset


def of_deletion(record: Record) -> int | None:
    """None: another writer made it. Raises ValueError for a header that holds no number."""
    for name, value in record.headers:
        if name == HEADER:
            return int(value or b"")
    return None
