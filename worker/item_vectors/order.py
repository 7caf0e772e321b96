"""Which of two outputs of an item is the newer, whatever the order in which they are read.

Within a partition the source offset says it. A key in two partitions is a producer's fault, but a reader has to take
one of the two: offsets of different partitions say nothing of each other, so the greater revision counts, then the
later production; a deletion has no revision, so the time alone says it.
"""

from __future__ import annotations

from typing import NamedTuple

NO_REVISION = -1


class Version(NamedTuple):
    """Version of one output of an item."""

    source_offset: int | None = None
    """None: another writer made it. It counts as it lies in the log."""
    partition: int = 0
    revision: int = NO_REVISION
    """`NO_REVISION` of a deletion."""
    made_at_ms: int = 0
    """When it was computed; of a deletion, when it was written."""


def is_newer(found: Version, known: Version) -> bool:
    """Whether what is found counts, of an item of which `known` has counted before. Of equal ones the later does."""
    if found.partition == known.partition:
        before = -1 if known.source_offset is None else known.source_offset
        return found.source_offset is None or found.source_offset >= before
    if NO_REVISION in (found.revision, known.revision):
        return found.made_at_ms >= known.made_at_ms
    return (found.revision, found.made_at_ms) >= (known.revision, known.made_at_ms)
