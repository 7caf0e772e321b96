"""Envelopes around the data of a record: Debezium's change events, CloudEvents, and the schema of Kafka Connect.

The shapes are those of Debezium 2 and 3 (the connector's own, not flattened), of CloudEvents 1.0 with its Kafka
binding, and of Kafka Connect's JsonConverter.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from worker.mapping.problem import MisfitError, shown
from worker.records import Record

EnvelopeName = Literal["none", "debezium", "cloudevents"]
ENVELOPES: tuple[EnvelopeName, ...] = ("none", "debezium", "cloudevents")

Parse = Callable[[bytes], Any]


class Opened(NamedTuple):
    """The document that a mapping's paths begin in."""

    root: dict[str, Any] | None
    """None: the record says no more than its key."""
    is_deleted: bool = False
    is_skipped: bool = False
    """It is no change of a row."""


Open = Callable[[bytes, Record | None, Parse], Opened]
"""The value of a record, the record, and the reader of its format. Raises `MisfitError`."""


def without_schema(value: Any) -> Any:
    """Unwrap the payload that Kafka Connect's JsonConverter writes beside its schema."""
    if type(value) is dict and len(value) == 2 and "payload" in value and "schema" in value:
        return value["payload"]
    return value


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise MisfitError(f"the value should be an object, got {shown(value)}")
    return value


def open_plain(data: bytes, record: Record | None, parse: Parse) -> Opened:
    value = without_schema(parse(data))
    return Opened(None, is_deleted=True) if value is None else Opened(_object(value))


def open_debezium(data: bytes, record: Record | None, parse: Parse) -> Opened:
    """Open a change event. For a delete, `after` is what was before: its id has to come from somewhere."""
    value = without_schema(parse(data))
    if value is None:
        return Opened(None, is_deleted=True)
    change = _object(value)
    op = change.get("op")
    if op in ("c", "u", "r"):
        if type(change.get("after")) is not dict:
            raise MisfitError(f"after should be an object with op {op}, got {shown(change.get('after'))}")
        return Opened(change)
    if op == "d":
        before = change.get("before")
        if before is None:
            return Opened(None, is_deleted=True)
        return Opened({**change, "after": _object_named("before", before)}, is_deleted=True)
    if op == "m":  # what somebody wrote into the log of the database
        return Opened(None, is_skipped=True)
    if op == "t":
        raise MisfitError(
            "op t empties the whole table, which no record of an item can say: delete the items one by one"
        )
    if op is None:
        raise MisfitError("op is missing: the value is no change event of Debezium (envelope: debezium)")
    raise MisfitError("op should be one of c, u, r, d, t, m (envelope: debezium)")


def _object_named(name: str, value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise MisfitError(f"{name} should be an object, got {shown(value)}")
    return value


_STRUCTURED = "application/cloudevents"
_BINARY_PREFIX = "ce_"
_REQUIRED = ("specversion", "id", "source", "type")


def open_cloudevent(data: bytes, record: Record | None, parse: Parse) -> Opened:
    """Both modes: the attributes stand beside `data`, whichever headers or object they came in."""
    headers = {} if record is None else _texts(record)
    content_type = headers.get("content-type", "").strip().lower()
    if content_type.startswith(f"{_STRUCTURED}-batch"):
        raise MisfitError("the value is a batch of CloudEvents: send one in a record")
    if not content_type.startswith(_STRUCTURED) and f"{_BINARY_PREFIX}specversion" in headers:
        event: dict[str, Any] = {
            name.removeprefix(_BINARY_PREFIX): value
            for name, value in headers.items()
            if name.startswith(_BINARY_PREFIX)
        }
        event["data"] = without_schema(parse(data))
        if content_type:
            event["datacontenttype"] = content_type
    else:
        event = dict(_object(parse(data)))
        if "data_base64" in event:
            if event.get("data") is not None:
                raise MisfitError("a CloudEvent has data or data_base64, and this one has both")
            event["data"] = without_schema(parse(_from_base64(event.pop("data_base64"))))
    _require_cloudevent(event)
    return Opened(event)


def _from_base64(value: Any) -> bytes:
    if not isinstance(value, str):
        raise MisfitError(f"data_base64 should be base64, got {shown(value)}")
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise MisfitError("data_base64 should be base64, and is not") from None


def _require_cloudevent(event: dict[str, Any]) -> None:
    for name in _REQUIRED:
        if not isinstance(event.get(name), str) or not event[name]:
            raise MisfitError(f"{name} is missing: the value is no CloudEvent (envelope: cloudevents)")
    if not event["specversion"].startswith("1."):
        raise MisfitError("specversion should be 1.0 (envelope: cloudevents)")


def _texts(record: Record) -> dict[str, str]:
    """The headers that are text, by name in small letters."""
    found = {}
    for name, value in record.headers:
        if value is not None:
            try:
                found[name.lower()] = value.decode()
            except UnicodeDecodeError:
                continue
    return found


OPENERS: dict[EnvelopeName, Open] = {"none": open_plain, "debezium": open_debezium, "cloudevents": open_cloudevent}


def around_key(envelope: EnvelopeName, key: dict[str, Any]) -> dict[str, Any]:
    """The object that paths begin in where there is nothing but a key."""
    if envelope == "debezium":
        return {"before": key, "after": key}
    return {"data": key} if envelope == "cloudevents" else key
