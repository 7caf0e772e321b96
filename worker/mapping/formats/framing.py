"""The header that the serializers of a schema registry write: a zero, and the id of the schema in four bytes."""

from __future__ import annotations

from schemas import Reason
from worker.mapping.problem import MisfitError

HEADER_BYTES = 5


def unframed(data: bytes) -> tuple[int, bytes]:
    """The id of the schema, and what lies behind the header. Raises `MisfitError`."""
    if len(data) < HEADER_BYTES or data[0] != 0:
        raise MisfitError(
            "does not begin with the header of a schema registry (a zero byte and the id of a schema)",
            Reason.WRONG_FORMAT,
        )
    return int.from_bytes(data[1:HEADER_BYTES], "big"), data[HEADER_BYTES:]
