"""The trace context of an input (W3C Trace Context), which its output carries on: what is not one is left out.

A header costs its item nothing: whatever a producer or a proxy puts there, the item is worked on. What is carried is
bounded, so that no output is too large for its topic because of it.
"""

from __future__ import annotations

import re

from worker.records import Headers, Record

MAX_BYTES = 1_024
"""Bytes of both headers together. The standard asks for 512 characters of `tracestate` to be passed on."""

_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[\x20-\x7e]*)?")
_STATE = re.compile(rb"[\x20-\x7e\t]*")


def carried_headers(record: Record) -> Headers:
    """`traceparent` and the `tracestate` with it. Nothing where the first is missing, malformed or there twice, and no
    state that is malformed or too long."""
    if not record.headers:
        return ()
    parents = [value or b"" for name, value in record.headers if name == "traceparent"]
    if len(parents) != 1 or not _is_parent(parents[0]):
        return ()
    states = [value for name, value in record.headers if name == "tracestate" and value is not None]
    carried: list[tuple[str, bytes | None]] = [("traceparent", parents[0])]
    if sum(map(len, [*parents, *states])) <= MAX_BYTES and all(map(_STATE.fullmatch, states)):
        carried += [("tracestate", state) for state in states]
    return carried


def _is_parent(value: bytes) -> bool:
    # Version 00 has nothing after its flags; a later one may have more, which is passed on.
    found = _PARENT.fullmatch(value) if len(value) <= MAX_BYTES else None
    return found is not None and (found[1] is None or not value.startswith(b"00"))
