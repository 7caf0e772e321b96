"""What could not be processed, and why."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, FailFast, Field, Strict

from schemas.limits import DEFAULT_LIMITS, AtMost
from schemas.message import MAX_INT, Count, Id, Message, Name
from schemas.reason import Reason
from schemas.times import TimeMs


def _cut(limit: str) -> BeforeValidator:
    """Cuts a string to a limit and replaces what UTF-8 cannot hold: no text may hold up a dead letter."""

    def cut(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        return text[: getattr(DEFAULT_LIMITS, limit)].encode(errors="replace").decode()

    return BeforeValidator(cut)


def _first_headers(headers: Any) -> Any:
    return headers[: DEFAULT_LIMITS.headers] if isinstance(headers, (list, tuple)) else headers


Header = Annotated[tuple[Annotated[str, AtMost("text_chars"), _cut("text_chars")], bytes | None], Strict(False)]


class DeadLetter(Message):
    """A record that could not be processed, complete, to be replayed. Topic `dead-letters`, original key."""

    byte_limit: ClassVar[str] = "dead_letter_bytes"

    key: bytes | None = None
    """Key of the original record."""
    value: bytes | None = None
    """Value of the original record, unchanged; absent when it had none or was too large to be kept."""
    headers: Annotated[
        tuple[Header, ...], AtMost("headers"), Strict(False), FailFast(), BeforeValidator(_first_headers)
    ] = ()
    """Headers of the original record, in order, as [name, value] pairs; at most the first 1,024."""
    topic: Id
    """Topic of the original record."""
    partition: Annotated[int, Field(ge=0, le=2**31 - 1)]
    """Partition of the original record."""
    offset: Count
    """Offset of the original record."""
    timestamp: Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT)]
    """Kafka timestamp of the original record as it was, in milliseconds; -1 for none."""
    reason: Annotated[Annotated[Reason, Strict(False)] | Name, Field(union_mode="left_to_right")]
    """Why. A closed set; a reader keeps a reason that only a newer writer knows as a plain string."""
    stage: Name
    """Where in the worker it failed."""
    detail: Annotated[str, AtMost("detail_chars"), _cut("detail_chars")] = ""
    """What was wrong, for a person."""
    worker_version: Name
    """Version of the worker that wrote this."""
    space_id: Name | None = None
    """The space in use, where there was one."""
    failed_at_ms: TimeMs
    """When it failed, milliseconds since 1970, UTC."""
