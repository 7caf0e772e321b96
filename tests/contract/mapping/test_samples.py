"""What other systems write, and the message that becomes of it."""

from __future__ import annotations

import base64
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import pytest
from google.protobuf import descriptor_pb2

from schemas import Content, NewItem, Reason, SchemaError, UserEvent, decode, encode
from tests.contract.mapping.conftest import MakeEvents, MakeItems
from tests.contract.mapping.samples import (
    AVRO_SCHEMA,
    CLICK,
    CLOUDEVENT,
    CLOUDEVENTS,
    DEBEZIUM,
    PRODUCT,
    ROW,
    SHOP,
    TIME_MS,
    change,
    framed,
    record,
    to_avro,
    to_json,
    with_schema,
)
from tests.registry import SchemaRegistry
from worker.errors import AccessError, ConfigError, UnreachableError
from worker.mapping.items import SKIPPED, Deletion
from worker.records import KeyedRecord


def refused(read: Any, *arguments: Any) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        read(*arguments)
    return caught.value


# ---------------------------------------------------------------------- JSON


def test_a_product_in_json_becomes_an_item_and_its_bytes_are_those_of_the_contract(items: MakeItems) -> None:
    source = items(SHOP)
    where, item = source.read_in_place(record(to_json(PRODUCT)))
    assert isinstance(item, NewItem)
    assert item == NewItem(
        item_id="sku-1",
        revision=TIME_MS,
        event_time_ms=TIME_MS,
        content={
            "text": Content(text="Kettle. It whistles"),
            "image": Content(uri="http://shop.example/kettle.jpg"),
        },
        attributes={"price": 39.9, "category": "kitchen", "tags": ("steel", "red")},
    )
    assert where.key == b"sku-1"
    assert decode(NewItem, encode(item)) == item


def test_a_click_in_json_becomes_an_event_with_the_same_id_each_time(events: MakeEvents) -> None:
    source = events(SHOP)
    _, first = source.read_in_place(record(to_json(CLICK), key=b"s-9"))
    _, again = source.read_in_place(record(to_json(CLICK), key=b"s-9"))
    assert isinstance(first, UserEvent)
    assert (first.user_id, first.item_id, first.event_type, first.event_time_ms) == (
        "s-9",
        "sku-1",
        "purchase",
        TIME_MS,
    )
    assert first == again
    _, other = source.read_in_place(record(to_json({**CLICK, "type": "view"}), key=b"s-9"))
    assert isinstance(other, UserEvent)
    assert (other.event_type, other.event_id == first.event_id) == ("view", False)


def test_a_condition_deletes_and_what_is_missing_is_left_out(items: MakeItems) -> None:
    source = items(SHOP)
    assert source.read(record(to_json({**PRODUCT, "deleted": True}))) == Deletion("sku-1")
    bare = source.read(record(to_json({"sku": "sku-1", "updated_at": "2026-01-01", "title": "Kettle", "price": None})))
    assert bare == {
        "schema_version": 1,
        "item_id": "sku-1",
        "revision": TIME_MS,
        "event_time_ms": TIME_MS,
        "content": {"text": {"text": "Kettle."}},
    }


def test_a_byte_order_mark_before_json_is_passed_over(items: MakeItems) -> None:
    assert items(SHOP).read(record(b"\xef\xbb\xbf" + to_json(PRODUCT)))


@pytest.mark.parametrize(
    ("field", "value", "reason", "told"),
    [
        ("sku", None, Reason.INVALID_FIELD, "item_id: is missing (shop.yaml, line 2: sku)"),
        ("sku", True, Reason.INVALID_FIELD, "item_id: should be an id, got true or false (shop.yaml, line 2: sku)"),
        ("sku", 1.5, Reason.INVALID_FIELD, "item_id: should be an id, got a number with a fraction"),
        ("sku", "x" * 513, Reason.TOO_LARGE, "item_id: is longer than the limit of 512 characters (shop.yaml, line 2"),
        ("updated_at", "soon", Reason.INVALID_FIELD, "revision: should be a time in ISO 8601, such as"),
        (
            "updated_at",
            1_767_225_600,
            Reason.INVALID_FIELD,
            "got a number: say unit: s, ms, us or ns (shop.yaml, line 3",
        ),
        ("updated_at", "1e999999999", Reason.INVALID_FIELD, "revision: should be a time in ISO 8601"),
        (
            "title",
            {"en": "Kettle"},
            Reason.INVALID_FIELD,
            "content.text: should be text, got an object (shop.yaml, line",
        ),
        ("img_url", 7, Reason.INVALID_FIELD, "content.image: should be text, got a whole number (shop.yaml, line 7"),
        (
            "price",
            {"eur": 1},
            Reason.INVALID_FIELD,
            "attributes.price: should be text, a number, true, false or a list",
        ),
        ("sku", 1 << 70, Reason.INVALID_FIELD, "item_id: should be an id, got a number too large to be exact"),
        ("tags", [["a"]], Reason.INVALID_FIELD, "attributes.tags: should be a list of texts, got a list in it"),
        ("tags", ["a"] * 65, Reason.TOO_LARGE, "attributes.tags: has more than 64 entries (shop.yaml, line 8: tags)"),
        ("deleted", "yes", Reason.INVALID_FIELD, "delete: should be true or false, got text: is: […] says which"),
    ],
)
def test_what_is_wrong_is_told_with_the_field_and_the_line_of_the_mapping(
    field: str, value: Any, reason: Reason, told: str, items: MakeItems
) -> None:
    source = items(SHOP)
    error = refused(source.read_in_place, record(to_json({**PRODUCT, field: value})))
    assert told in str(error)
    assert "shop.yaml, line" in str(error)
    assert error.reason == reason


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "value: is not JSON: "),
        (b"\x80\x01", "value: is not JSON: "),
        (b'{"sku": NaN}', "value: is not JSON: "),
        (b"[" * 5_000, "value: is not JSON: "),
        (b"[1]", "value: the value should be an object, got a list"),
        (b'"text"', "value: the value should be an object, got text"),
        (b"7", "value: the value should be an object, got a whole number"),
    ],
)
def test_what_is_no_json_object_is_told_with_the_mapping_and_the_setting(
    data: bytes, told: str, items: MakeItems
) -> None:
    error = refused(items(SHOP).read, record(data))
    assert told in str(error)
    assert "(shop.yaml; input.items.format=json)" in str(error)


# ---------------------------------------------------------------------- keys


def test_a_record_under_another_key_is_told_of_relay(items: MakeItems, events: MakeEvents) -> None:
    error = refused(items(SHOP).read_in_place, record(to_json(PRODUCT), key=b"other"))
    assert error.reason == Reason.KEY_MISMATCH
    assert "key: should be the item_id 'sku-1' in UTF-8 (shop.yaml, line 2)" in str(error)
    assert "align-worker relay" in str(error)
    error = refused(events(SHOP).read_in_place, record(to_json(CLICK), key=None))
    assert (error.reason, "align-worker relay" in str(error)) == (Reason.KEY_MISMATCH, True)


@pytest.mark.parametrize("key", [to_json("sku-1"), to_json({"sku": "sku-1"}), to_json(with_schema({"sku": "sku-1"}))])
def test_a_key_in_json_that_holds_the_id_is_taken_for_it(key: bytes, items: MakeItems) -> None:
    source = items("key: json\n" + SHOP)
    where, item = source.read_in_place(record(to_json(PRODUCT), key=key))
    assert isinstance(where, KeyedRecord)
    assert (where.key, where.original.key) == (b"sku-1", key)
    assert isinstance(item, NewItem)
    where, gone = source.deleted_by(record(None, key=key))
    assert (where.key, gone) == (b"sku-1", Deletion("sku-1"))


@pytest.mark.parametrize("key", [to_json("sku-2"), to_json({"id": "sku-1"}), b"{", to_json(["sku-1"]), b"\xff"])
def test_a_key_in_json_that_does_not_hold_the_id_is_refused(key: bytes, items: MakeItems) -> None:
    error = refused(items("key: json\n" + SHOP).read_in_place, record(to_json(PRODUCT), key=key))
    assert error.reason == Reason.KEY_MISMATCH
    assert str(error).startswith("key: ")


# ---------------------------------------------------------------------- Debezium


@pytest.mark.parametrize("wrap", [lambda payload: payload, with_schema], ids=["payload", "with schema"])
@pytest.mark.parametrize("op", ["c", "u", "r"])
def test_a_row_of_debezium_becomes_an_item_whose_revision_is_its_place_in_the_log(
    op: str, wrap: Any, items: MakeItems
) -> None:
    source = items(DEBEZIUM)
    before = None if op != "u" else {**ROW, "title": "Pot"}
    key = to_json(wrap({"sku": "sku-1"}))
    where, item = source.read_in_place(record(to_json(wrap(change(op, before, ROW))), key=key))
    assert where.key == b"sku-1"
    assert isinstance(item, NewItem)
    assert (item.item_id, item.revision, item.event_time_ms) == ("sku-1", 23_509_128, TIME_MS - 40)
    assert item.content["text"].text == "Kettle. It whistles"
    assert item.attributes == {"price": 39.9}


@pytest.mark.parametrize("wrap", [lambda payload: payload, with_schema], ids=["payload", "with schema"])
def test_deletes_and_tombstones_of_debezium_delete(wrap: Any, items: MakeItems) -> None:
    source = items(DEBEZIUM)
    key = to_json(wrap({"sku": "sku-1"}))
    primary_key_only = {"sku": "sku-1", "title": None, "descr": None, "price": None}
    for value in (
        to_json(wrap(change("d", ROW, None))),
        to_json(wrap(change("d", primary_key_only, None))),
        to_json(wrap(change("d", None, None))),  # where the database does not say what was before
        to_json(wrap(None)),
    ):
        where, found = source.read_in_place(record(value, key=key))
        assert (where.key, found) == (b"sku-1", Deletion("sku-1"))
    where, found = source.deleted_by(record(None, key=key))
    assert (where.key, found) == (b"sku-1", Deletion("sku-1"))


def test_what_is_no_change_of_a_row_is_skipped_or_refused(items: MakeItems) -> None:
    source = items(DEBEZIUM)
    message = {"op": "m", "ts_ms": TIME_MS, "source": {}, "message": {"prefix": "p", "content": ""}}
    assert source.read(record(to_json(message))) == SKIPPED
    for value, told in (
        (change("t", None, None), "op t empties the whole table"),
        (change("x", None, ROW), "op should be one of c, u, r, d, t, m"),
        (change("c", None, None), "after should be an object with op c, got nothing"),
        (ROW, "op is missing: the value is no change event of Debezium (envelope: debezium)"),
    ):
        assert told in str(refused(source.read, record(to_json(value))))


@pytest.mark.parametrize(
    ("source", "position"),
    [
        ({"connector": "mysql", "file": "mysql-bin.000003", "pos": 154}, 3 << 32 | 154),
        ({"connector": "mariadb", "file": "bin.000004", "pos": 4}, 4 << 32 | 4),
        ({"connector": "sqlserver", "change_lsn": "00000027:00000ac0:0002"}, 0x27 << 48 | 0xAC0 << 16 | 2),
        ({"connector": "oracle", "scn": "2868546"}, 2_868_546),
        ({"connector": "mongodb", "ts_ms": 1_767_225_600_000, "ord": 3}, 1_767_225_600 << 32 | 3),
        ({"connector": "postgresql", "lsn": None}, None),
        ({"connector": "mysql", "file": "mysql-bin", "pos": 1}, None),
        ({"connector": "db2"}, None),
    ],
    ids=lambda each: each.get("connector") if isinstance(each, dict) else "",
)
def test_the_position_of_each_connector_is_a_number_that_grows(
    source: dict[str, Any], position: int | None, items: MakeItems
) -> None:
    value = record(to_json({**change("c", None, ROW), "source": source}), key=to_json({"sku": "sku-1"}))
    text = DEBEZIUM.replace("  content", "  event_time: ts_ms\n  content")
    if position is None:
        assert "revision: " in str(refused(items(text).read, value))
    else:
        fields = items(text).read(value)
        assert isinstance(fields, dict)
        assert fields["revision"] == position


def test_events_of_a_table_leave_deletes_out(events: MakeEvents) -> None:
    text = """\
envelope: debezium
events:
  user_id: after.session
  item_id: after.sku
  event_type: after.type
  event_time: {path: after.at, unit: us}
"""
    row = {"session": "s-9", "sku": "sku-1", "type": "view", "at": TIME_MS * 1000}
    source = events(text)
    fields = source.read(record(to_json(change("c", None, row)), key=to_json({"id": 5})))
    assert isinstance(fields, dict)
    assert fields["event_time_ms"] == TIME_MS
    assert source.read(record(to_json(change("d", row, None)))) == SKIPPED
    assert source.read(record(None)) == SKIPPED
    assert "deletes: skip leaves" in str(refused(events(text + "  deletes: refuse\n").read, record(None)))


# ---------------------------------------------------------------------- CloudEvents


def test_a_cloudevent_is_the_same_item_in_either_mode(items: MakeItems) -> None:
    source = items(CLOUDEVENTS)
    structured = record(to_json(CLOUDEVENT), headers={"content-type": "application/cloudevents+json; charset=UTF-8"})
    without_header = record(to_json(CLOUDEVENT))
    data = base64.b64encode(to_json(CLOUDEVENT["data"])).decode()
    in_base64 = record(to_json({**{k: v for k, v in CLOUDEVENT.items() if k != "data"}, "data_base64": data}))
    attributes = {f"ce_{name}": text for name, text in CLOUDEVENT.items() if isinstance(text, str)}
    binary = record(to_json(CLOUDEVENT["data"]), headers={**attributes, "content-type": "application/json"})
    expected = NewItem(item_id="sku-1", revision=7, event_time_ms=TIME_MS, content={"text": Content(text="Kettle")})
    for each in (structured, without_header, in_base64, binary):
        assert source.read_in_place(each)[1] == expected


def test_what_is_no_cloudevent_is_told(items: MakeItems) -> None:
    source = items(CLOUDEVENTS)
    batch = {"content-type": "application/cloudevents-batch+json"}
    assert "a batch of CloudEvents" in str(refused(source.read, record(b"[]", headers=batch)))
    for name in ("specversion", "id", "source", "type"):
        lacking = {key: value for key, value in CLOUDEVENT.items() if key != name}
        assert f"{name} is missing: the value is no CloudEvent" in str(refused(source.read, record(to_json(lacking))))
    both = {**CLOUDEVENT, "data_base64": "e30="}
    assert "has both" in str(refused(source.read, record(to_json(both))))
    assert "specversion should be 1.0" in str(refused(source.read, record(to_json({**CLOUDEVENT, "specversion": "2"}))))


# ---------------------------------------------------------------------- Avro, Protobuf, JSON Schema


AVRO_SHOP = """\
items:
  item_id: sku
  revision: updated_at
  event_time: updated_at
  content: {text: "{title}. {desc}"}
  attributes: {price: price, color: color}
""".replace("revision: updated_at", "revision: {path: updated_at, unit: ms}")
AVRO_PRODUCT = {
    "sku": "sku-1",
    "title": "Kettle",
    "desc": None,
    "img_url": None,
    "price": Decimal("39.90"),
    "updated_at": TIME_MS,
}


def test_avro_is_read_with_the_schema_that_it_was_written_with_and_each_is_asked_for_once(
    items: MakeItems, registry: SchemaRegistry
) -> None:
    import json

    source = items(AVRO_SHOP, "avro", registry)
    first = registry.register("shop.products-value", json.dumps(AVRO_SCHEMA))
    evolved = {**AVRO_SCHEMA, "fields": [{"name": "color", "type": "string"}, *AVRO_SCHEMA["fields"]]}
    second = registry.register("shop.products-value", json.dumps(evolved))
    num_before = len(registry.requests)
    for _ in range(3):
        _, item = source.read_in_place(record(to_avro(AVRO_SCHEMA, AVRO_PRODUCT, first)))
        assert isinstance(item, NewItem)
        assert (item.revision, item.content["text"].text, item.attributes) == (TIME_MS, "Kettle.", {"price": 39.9})
        _, item = source.read_in_place(record(to_avro(evolved, {**AVRO_PRODUCT, "color": "red"}, second)))
        assert isinstance(item, NewItem)
        assert item.attributes == {"price": 39.9, "color": "red"}
    assert len(registry.requests) - num_before == 2


def test_avro_schemas_may_name_one_another(items: MakeItems, registry: SchemaRegistry) -> None:
    import json

    price = {"type": "record", "name": "Price", "namespace": "shop", "fields": [{"name": "eur", "type": "double"}]}
    registry.register("shop.Price", json.dumps(price))
    product = {
        "type": "record",
        "name": "Offer",
        "namespace": "shop",
        "fields": [{"name": "sku", "type": "string"}, {"name": "title", "type": "string"},
                   {"name": "price", "type": "shop.Price"}],
    }  # fmt: skip
    references = [{"name": "shop.Price", "subject": "shop.Price", "version": 1}]
    schema_id = registry.register("shop.offers-value", json.dumps(product), references=references)
    inline = json.loads(json.dumps(product).replace('"shop.Price"', json.dumps(price)))
    source = items("items: {item_id: sku, content: {text: title}, attributes: {price: price.eur}}", "avro", registry)
    value = {"sku": "sku-1", "title": "Kettle", "price": {"eur": 4.5}}
    fields = source.read(record(to_avro(inline, value, schema_id)))
    assert isinstance(fields, dict)
    assert fields["attributes"] == {"price": 4.5}


def test_debezium_in_avro_with_keys_in_avro(items: MakeItems, registry: SchemaRegistry) -> None:
    import json

    row = {"type": "record", "name": "Value", "namespace": "shop.products",
           "fields": [{"name": "sku", "type": "string"}, {"name": "title", "type": ["null", "string"]}]}  # fmt: skip
    block = {"type": "record", "name": "Source", "namespace": "io.debezium.connector.postgresql",
             "fields": [{"name": "connector", "type": "string"}, {"name": "ts_ms", "type": "long"},
                        {"name": "lsn", "type": ["null", "long"]}]}  # fmt: skip
    envelope = {"type": "record", "name": "Envelope", "namespace": "shop.products",
                "fields": [{"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Value"]},
                           {"name": "source", "type": block}, {"name": "op", "type": "string"}]}  # fmt: skip
    key = {"type": "record", "name": "Key", "namespace": "shop.products", "fields": [{"name": "sku", "type": "string"}]}
    value_id = registry.register("products-value", json.dumps(envelope))
    key_id = registry.register("products-key", json.dumps(key))
    source = items(DEBEZIUM.replace("{after.title}. {after.descr}", "{after.title}"), "avro", registry)
    at = {"connector": "postgresql", "ts_ms": TIME_MS, "lsn": 77}
    own_key = to_avro(key, {"sku": "sku-1"}, key_id)
    upsert = {"before": None, "after": {"sku": "sku-1", "title": "Kettle"}, "source": at, "op": "c"}
    where, item = source.read_in_place(record(to_avro(envelope, upsert, value_id), key=own_key))
    assert (where.key, item.revision, item.content["text"].text) == (b"sku-1", 77, "Kettle")  # type: ignore[union-attr]
    delete = {"before": upsert["after"], "after": None, "source": at, "op": "d"}
    assert source.read_in_place(record(to_avro(envelope, delete, value_id), key=own_key))[1] == Deletion("sku-1")
    assert source.deleted_by(record(None, key=own_key))[1] == Deletion("sku-1")


def test_what_is_no_avro_is_refused_and_the_registry_is_not_asked_again_for_what_it_lacks(
    items: MakeItems, registry: SchemaRegistry
) -> None:
    import json

    source = items(AVRO_SHOP, "avro", registry)
    schema_id = registry.register("shop.products-value", json.dumps(AVRO_SCHEMA))
    good = to_avro(AVRO_SCHEMA, AVRO_PRODUCT, schema_id)
    for data, told in (
        (b"", "does not begin with the header of a schema registry"),
        (to_json(PRODUCT), "does not begin with the header of a schema registry"),
        (good[:-1], f"is not Avro of schema {schema_id}"),
        (good + b"\x00", f"has bytes after what schema {schema_id} describes"),
        (framed(schema_id, b"\xff" * 9), f"is not Avro of schema {schema_id}"),
    ):
        error = refused(source.read, record(data))
        assert (error.reason, told in str(error)) == (Reason.WRONG_FORMAT, True)
    num_before = len(registry.requests)
    for _ in range(3):
        assert "which the registry does not know" in str(refused(source.read, record(framed(9_999, b"\x00"))))
    assert len(registry.requests) - num_before == 1


@pytest.mark.parametrize(
    "schema",
    ['{"type": "array", "items": "null"}', "not a schema", '{"type": "record", "name": "A"}', '"unknown.Type"', "7"],
)
def test_a_schema_that_cannot_be_used_is_a_refusal(schema: str, items: MakeItems, registry: SchemaRegistry) -> None:
    schema_id = registry.register("odd", schema)
    error = refused(items(AVRO_SHOP, "avro", registry).read, record(framed(schema_id, b"\x02" * 9)))
    assert error.reason == Reason.WRONG_FORMAT


def product_descriptor() -> descriptor_pb2.FileDescriptorProto:
    """`message Shop { message Product { … } }` in a file that imports a time."""
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    file.dependency.append("google/protobuf/timestamp.proto")
    file.message_type.add(name="Other")
    outer = file.message_type.add(name="Shop")
    product = outer.nested_type.add(name="Product")
    kinds = descriptor_pb2.FieldDescriptorProto
    for number, (name, kind) in enumerate(
        (("sku", kinds.TYPE_STRING), ("title", kinds.TYPE_STRING), ("version", kinds.TYPE_INT64),
         ("price", kinds.TYPE_DOUBLE), ("updated_at", kinds.TYPE_MESSAGE)), 1,
    ):  # fmt: skip
        field = product.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
        if kind == kinds.TYPE_MESSAGE:
            field.type_name = ".google.protobuf.Timestamp"
    return file


def test_protobuf_is_read_with_the_registry_s_descriptor(items: MakeItems, registry: SchemaRegistry) -> None:
    from google.protobuf import descriptor_pool, message_factory, timestamp_pb2

    file = product_descriptor()
    schema_id = registry.register("protobuf-value", "syntax = …", "PROTOBUF", serialized=file.SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    stamp = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(stamp)
    pool.Add(stamp)
    pool.Add(file)
    product = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Shop.Product"))
    value = product(sku="sku-1", title="Kettle", version=2**60, price=4.5)
    value.updated_at.FromMilliseconds(TIME_MS)
    indexes = b"\x04\x02\x00"  # two: the second of the file, the first in it
    source = items(
        "items: {item_id: sku, revision: version, event_time: {path: updated_at, unit: iso}, "
        "content: {text: title}, attributes: {price: price}}",
        "protobuf",
        registry,
    )
    data = framed(schema_id, indexes + value.SerializeToString())
    _, item = source.read_in_place(record(data))
    assert isinstance(item, NewItem)
    assert (item.revision, item.event_time_ms, item.attributes) == (2**60, TIME_MS, {"price": 4.5})
    for body, told in (
        (b"", "does not say which message"),
        (b"\x04\x02\x08", "names a message that schema"),
        (b"\x06", "does not say which message"),
        (indexes + b"\x0a\xff", "is not Protobuf of schema"),
    ):
        assert told in str(refused(source.read, record(framed(schema_id, body))))


def test_a_registry_that_hands_out_protobuf_as_text_is_told_of(items: MakeItems, registry: SchemaRegistry) -> None:
    schema_id = registry.register("as-text", 'syntax = "proto3"; message A {}', "PROTOBUF")
    source = items("items: {item_id: sku, content: {text: t}}", "protobuf", registry)
    assert "hands out as text only" in str(refused(source.read, record(framed(schema_id, b"\x00"))))


def test_json_schema_needs_no_registry(items: MakeItems) -> None:
    source = items(SHOP, "json-schema")
    assert source.read(record(framed(3, to_json(PRODUCT)))) == items(SHOP).read(record(to_json(PRODUCT)))
    assert "does not begin with the header" in str(refused(source.read, record(to_json(PRODUCT))))


def test_maps_in_msgpack_that_are_no_messages_are_read_with_a_mapping(items: MakeItems) -> None:
    source = items(SHOP, "msgpack")
    assert source.read(record(msgpack.packb(PRODUCT))) == items(SHOP).read(record(to_json(PRODUCT)))
    assert "is not msgpack" in str(refused(source.read, record(b"\xc1")))


# ---------------------------------------------------------------------- the registry


def test_a_registry_that_does_not_answer_refuses_no_record(items: MakeItems) -> None:
    with SchemaRegistry() as registry:
        source = items(AVRO_SHOP, "avro", registry)
        registry.status = 503
        with pytest.raises(UnreachableError, match=r"input\.registry\.url: the schema registry at .* answers 503"):
            source.read(record(framed(1, b"")))
    with pytest.raises(UnreachableError, match=r"cannot be reached"):
        source.read(record(framed(2, b"")))


def test_a_registry_that_refuses_us_names_the_settings(items: MakeItems) -> None:
    with SchemaRegistry("me:secret") as registry:
        source = items(AVRO_SHOP, "avro", registry)
        with pytest.raises(AccessError, match=r"input\.registry\.username"):
            source.read(record(framed(1, b"")))


def test_a_format_that_needs_a_registry_names_the_setting(items: MakeItems) -> None:
    with pytest.raises(ConfigError, match=r"input\.items\.format=avro needs input\.registry\.url"):
        items(AVRO_SHOP, "avro")


# ---------------------------------------------------------------------- features


def test_features_come_as_numbers_or_as_bytes(items: MakeItems) -> None:
    text = """\
items:
  item_id: sku
  features:
    text: {path: v, encoder: my-model}
    image: {path: w, encoder: clip, stored: f4, dim: 2}
"""
    data = base64.b64encode(np.array([1, 2, 3, 4], "<f4").tobytes()).decode()
    _, item = items(text).read_in_place(record(to_json({"sku": "sku-1", "v": [0.5, 1, -2], "w": data})))
    assert isinstance(item, NewItem)
    assert item.features["text"].to_numpy().tolist() == [0.5, 1, -2]
    assert (item.features["text"].encoder, item.features["text"].dtype) == ("my-model", "f2")
    assert item.features["image"].to_numpy().tolist() == [[1, 2], [3, 4]]
    for value, told in (
        ({"v": "0.5"}, "should be a vector of numbers, got text: stored: f4 or f2 says"),
        ({"v": [1, "a"]}, "should be a vector of numbers, or several of one length"),
        ({"v": [[1], [1, 2]]}, "should be a vector of numbers, or several of one length"),
        ({"v": [1e300, 1]}, "not finite"),
        ({"w": "AAAA"}, "has 3 bytes, which are no vectors of f4"),
        ({"w": "%%%"}, "should be base64, and is not"),
        ({"w": [1, 2, 3]}, "should have 2 dimensions, got 3"),
        ({"v": [1] * 16_385}, "features.text"),
    ):
        error = refused(items(text).read_in_place, record(to_json({"sku": "sku-1", **value})))
        assert told in str(error)
        assert "shop.yaml, line" in str(error)
