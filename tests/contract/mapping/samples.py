"""Records as other systems write them, and the mappings that read them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import fastavro

from tests.fakes import FakeRecord

TIME_MS = 1_767_225_600_000

SHOP = """\
items:
  item_id: sku
  revision: {path: updated_at, unit: iso}
  event_time: {path: updated_at, unit: iso}
  content:
    text: "{title}. {desc}"
    image: {uri: img_url}
  attributes: {price: price, category: category, tags: tags}
  delete: deleted
events:
  user_id: session
  item_id: sku
  event_type: {path: type, rename: {cart: save, buy: purchase}}
  event_time: {path: ts, unit: iso}
"""
PRODUCT = {
    "sku": "sku-1",
    "title": "Kettle",
    "desc": "It whistles",
    "img_url": "http://shop.example/kettle.jpg",
    "price": 39.9,
    "category": "kitchen",
    "tags": ["steel", "red"],
    "updated_at": "2026-01-01T00:00:00Z",
}
CLICK = {"session": "s-9", "sku": "sku-1", "type": "buy", "ts": "2026-01-01T02:00:00+02:00"}

DEBEZIUM = """\
envelope: debezium
items:
  item_id: after.sku
  content: {text: "{after.title}. {after.descr}"}
  attributes: {price: {path: after.price, scale: 2}}
"""
ROW = {"sku": "sku-1", "title": "Kettle", "descr": "It whistles", "price": "D5Y="}  # 3990, with a scale of 2
_SOURCE = {
    "version": "3.0.0.Final",
    "connector": "postgresql",
    "name": "shop",
    "ts_ms": TIME_MS - 40,
    "snapshot": "false",
    "db": "shop",
    "sequence": '["23508976","23509128"]',
    "ts_us": (TIME_MS - 40) * 1000,
    "ts_ns": (TIME_MS - 40) * 1_000_000,
    "schema": "public",
    "table": "products",
    "txId": 751,
    "lsn": 23_509_128,
    "xmin": None,
}


def change(op: str, before: Any, after: Any, **source: Any) -> dict[str, Any]:
    """A change event as the PostgreSQL connector writes it."""
    return {
        "before": before,
        "after": after,
        "source": {**_SOURCE, **source},
        "transaction": None,
        "op": op,
        "ts_ms": TIME_MS,
        "ts_us": TIME_MS * 1000,
        "ts_ns": TIME_MS * 1_000_000,
    }


def with_schema(payload: Any, name: str = "shop.public.products.Envelope") -> dict[str, Any]:
    """The same as JsonConverter writes it with `schemas.enable`, which it does by default."""
    return {"schema": {"type": "struct", "fields": [], "optional": False, "name": name}, "payload": payload}


CLOUDEVENTS = """\
envelope: cloudevents
items:
  item_id: subject
  revision: data.version
  event_time: time
  content: {text: data.title}
"""
CLOUDEVENT = {
    "specversion": "1.0",
    "id": "A234-1234-1234",
    "source": "/shop",
    "type": "com.example.product.changed",
    "subject": "sku-1",
    "time": "2026-01-01T00:00:00Z",
    "datacontenttype": "application/json",
    "data": {"title": "Kettle", "version": 7},
}

AVRO_SCHEMA = {
    "type": "record",
    "name": "Product",
    "namespace": "shop",
    "fields": [
        {"name": "sku", "type": "string"},
        {"name": "title", "type": ["null", "string"], "default": None},
        {"name": "desc", "type": ["null", "string"], "default": None},
        {"name": "img_url", "type": ["null", "string"], "default": None},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "updated_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    ],
}


def to_json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def framed(schema_id: int, body: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + body


def to_avro(schema: Any, value: Any, schema_id: int) -> bytes:
    stream = BytesIO()
    fastavro.schemaless_writer(stream, fastavro.parse_schema(schema), value)
    return framed(schema_id, stream.getvalue())


def record(
    value: bytes | None, key: bytes | None = b"sku-1", headers: Mapping[str, str] | Sequence[tuple[str, bytes]] = ()
) -> FakeRecord:
    listed = [(name, text.encode()) for name, text in headers.items()] if isinstance(headers, Mapping) else headers
    return FakeRecord("shop.products", 1, 42, TIME_MS, key, value, tuple(listed))
