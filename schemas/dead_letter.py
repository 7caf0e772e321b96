"""Dead letters: records that could not be processed, and why."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, FailFast, Field, Strict, model_validator

from schemas.limits import DEFAULT_LIMITS, UTF8_BYTES, AtMost
from schemas.message import MAX_INT, Count, Id, Message, Name
from schemas.reason import Reason
from schemas.times import TimeMs

_MAX_NAME_BYTES = UTF8_BYTES * DEFAULT_LIMITS.text_chars


def _cut(limit: str) -> BeforeValidator:
    """Cuts a string to a limit and replaces what UTF-8 cannot hold: no text may hold up a dead letter."""

    def cut(text: Any) -> Any:
        if not isinstance(text, str):
            return text
        return text[: getattr(DEFAULT_LIMITS, limit)].encode(errors="replace").decode()

    return BeforeValidator(cut)


def _odd_names(headers: Any) -> list[bytes | None] | None:
    """The bytes of each name that is not UTF-8; None where there is no such name."""
    names: list[bytes | None] = []
    for header in headers[: DEFAULT_LIMITS.headers] if isinstance(headers, (list, tuple)) else ():
        name = header[0] if isinstance(header, (list, tuple)) and header else None
        try:
            odd = isinstance(name, str) and not name.isascii() and name.encode(errors="surrogateescape")
            names.append(odd if odd and len(odd) <= _MAX_NAME_BYTES and not _is_utf8(odd) else None)
        except UnicodeEncodeError:  # no bytes of a record decode to it
            names.append(None)
    return names if any(names) else None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _first_headers(headers: Any) -> Any:
    return headers[: DEFAULT_LIMITS.headers] if isinstance(headers, (list, tuple)) else headers


Header = Annotated[tuple[Annotated[str, AtMost("text_chars"), _cut("text_chars")], bytes | None], Strict(False)]


class DeadLetter(Message):
    """A record that could not be processed, complete, to be replayed. Topic `dead-letters`, original key."""

    byte_limit: ClassVar[str] = "dead_letter_bytes"

    key: bytes | None = None
    """Key of the original record."""
    value: bytes | None = None
    """Value of the original record, unchanged; absent when it had none or was too large to be kept: `original_bytes`
    is there then."""
    headers: Annotated[
        tuple[Header, ...], AtMost("headers"), Strict(False), FailFast(), BeforeValidator(_first_headers)
    ] = ()
    """Headers of the original record, in order, as [name, value] pairs; at most the first 1,024. In a name that is not
    UTF-8 each odd byte is replaced, and `header_names` has it as it was."""
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
    """Explanation for a person."""
    worker_version: Name
    """Version of the worker that wrote this."""
    space_id: Name | None = None
    """The space in use, where there was one."""
    failed_at_ms: TimeMs
    """When it failed, milliseconds since 1970, UTC."""
    header_names: Annotated[
        tuple[Annotated[bytes, Field(max_length=_MAX_NAME_BYTES)] | None, ...] | None,
        AtMost("headers"),
        Strict(False),
    ] = None
    """The bytes of the names of `headers` that are not UTF-8, each in its place, and nil for the others; absent where
    all are."""
    original_bytes: Count | None = None
    """Size of the original record where it was too large to be kept whole. Its value is left out then, and its key and
    headers where they are large, too: only the log has them."""
    value_sha256: Annotated[bytes, Field(min_length=32, max_length=32)] | None = None
    """SHA-256 of the value that is left out."""

    @model_validator(mode="before")
    @classmethod
    def _keep_odd_names(cls, fields: Any) -> Any:
        if isinstance(fields, dict) and "header_names" not in fields:
            names = _odd_names(fields.get("headers"))
            return fields if names is None else {**fields, "header_names": names}
        return fields

    @property
    def original_headers(self) -> tuple[tuple[str, bytes | None], ...]:
        """The headers as the record had them. A name that is not UTF-8 has its odd bytes as `surrogateescape` writes
        them."""
        names = self.header_names or ()
        odd = {number: name.decode(errors="surrogateescape") for number, name in enumerate(names) if name is not None}
        return tuple((odd.get(number, name), value) for number, (name, value) in enumerate(self.headers))

    @property
    def is_whole(self) -> bool:
        """Whether it has all of the original record."""
        return self.original_bytes is None
