"""Which log an offset belongs to. A topic that is deleted and made again has its name and other offsets.

The cluster tells logs apart by the topic's id. Offsets are compared in many places and by readers in any language, so
what is compared is one number: the offset, with the era before it. Whatever comes from a later log is newer then.
"""

from __future__ import annotations

from typing import NamedTuple

from worker.errors import StateError
from worker.state.packing import pack, unpack

OFFSET_BITS = 44  # 17 million million records in a partition, and 512 eras in what JSON holds exactly
KEY = b"\xfe log"
"""Key of the changelog record that says which log the states come from. No UTF-8 begins like this: it meets no id."""


class InputLog(NamedTuple):
    """One of the logs that an input partition has had, as this group has counted them."""

    topic_id: str = ""
    """Topic id as Kafka's own tools write it. Empty: the cluster does not say, or an earlier version has not asked."""
    era: int = 0
    """How many logs of this name were taken up before it."""

    def at(self, offset: int) -> int:
        """A number for a place in the log that is greater than that of any place before, in this log or an earlier
        one."""
        return self.era << OFFSET_BITS | offset

    def encode(self) -> bytes:
        return pack(self)

    @classmethod
    def decode(cls, value: bytes) -> InputLog:
        """Raises `StateError` for what `encode` has not made."""
        topic_id, era, *_ = unpack(value)
        if not isinstance(topic_id, str) or not isinstance(era, int) or era < 0:
            raise StateError(f"remembered log cannot be read: {value!r}")
        return cls(topic_id, era)


UNKNOWN = InputLog()


def era_of(at: int) -> int:
    return at >> OFFSET_BITS
