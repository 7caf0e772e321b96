"""Vectors as JSON: the shapes that sinks of others take, and that our own readers read back."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import ItemVector, Reason, SchemaError, Tensor, UserVector, as_json, decode_vector, encode
from tests.unit.schemas import strategies


def tensor(*values: float, dtype: Any = "f2") -> Tensor:
    return Tensor(dtype=dtype, shape=(len(values),), data=np.array(values, f"<{dtype}").tobytes())


ITEM = ItemVector(
    item_id="sku-1", revision=7, event_time_ms=5, space_id="5f2c", vector=tensor(0.6, -0.8), modalities=("text",),
    prior=-0.25, modality_vectors={"text": tensor(1, 0)}, produced_at_ms=9, source_offset=42, base_vector=tensor(0, 1),
    attributes={"price": 9.5, "tags": ["a"], "sold_out": False, "stock": 3, "brand": "Grüße"},
)  # fmt: skip
USER = UserVector(user_id="u", event_time_ms=5, num_events=2, space_id="5f2c", vector=tensor(1, 0), produced_at_ms=9)


def test_a_document_has_the_fields_of_the_message_and_a_vector_is_an_array_of_numbers() -> None:
    assert json.loads(as_json(encode(ITEM))) == {
        "schema_version": 1, "item_id": "sku-1", "revision": 7, "event_time_ms": 5, "space_id": "5f2c",
        "vector": pytest.approx([0.6, -0.8], abs=1e-3), "modalities": ["text"], "prior": -0.25,
        "modality_vectors": {"text": [1.0, 0.0]}, "produced_at_ms": 9, "source_offset": 42, "base_vector": [0.0, 1.0],
        "attributes": {"price": 9.5, "tags": ["a"], "sold_out": False, "stock": 3, "brand": "Grüße"},
    }  # fmt: skip


def test_base64_holds_float32_elements_little_endian() -> None:
    vector = json.loads(as_json(encode(ITEM), elements="base64"))["vector"]
    assert np.frombuffer(base64.b64decode(vector), "<f4").tolist() == ITEM.vector.to_numpy().astype("f4").tolist()


CONNECT_TYPES = {
    "int32": int, "int64": int, "float": float, "double": float, "string": str, "bytes": str, "array": list,
    "map": dict, "struct": dict,
}  # fmt: skip


def check_connect(schema: dict[str, Any], value: Any) -> None:
    """As Connect's JsonConverter with `schemas.enable=true` does: every field of the payload is in the schema, has
    its type, and is there unless it is optional."""
    if value is None:
        assert schema.get("optional", False)
        return
    kind: Any = CONNECT_TYPES[schema["type"]]
    assert isinstance(value, kind), (schema, value)
    if schema["type"] == "array":
        for each in value:
            check_connect(schema["items"], each)
    elif schema["type"] == "map":
        for key, each in value.items():
            check_connect(schema["keys"], key)
            check_connect(schema["values"], each)
    elif schema["type"] == "bytes":
        base64.b64decode(value, validate=True)
    elif schema["type"] == "struct":
        fields = {field["field"]: field for field in schema["fields"]}
        assert value.keys() <= fields.keys()
        for name, field in fields.items():
            check_connect(field, value.get(name))


@pytest.mark.parametrize("elements", ["numbers", "base64"])
@pytest.mark.parametrize("message", [ITEM, USER], ids=["item", "user"])
def test_the_envelope_of_connect_says_what_is_in_it(message: ItemVector | UserVector, elements: str) -> None:
    document = json.loads(as_json(encode(message), "connect_json", elements))
    assert document.keys() == {"schema", "payload"}
    check_connect(document["schema"], document["payload"])
    assert document["payload"]["space_id"] == "5f2c"


def test_attributes_are_text_in_the_envelope_because_values_of_several_types_have_no_schema() -> None:
    payload = json.loads(as_json(encode(ITEM), "connect_json"))["payload"]
    assert json.loads(payload["attributes"])["price"] == 9.5


@pytest.mark.parametrize("elements", ["numbers", "base64"])
@pytest.mark.parametrize("envelope", ["json", "connect_json"])
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_written_is_read_back_to_the_same_values(envelope: str, elements: str, data: Any) -> None:
    message = data.draw(strategies.BY_NAME[data.draw(st.sampled_from(["ItemVector", "UserVector"]))])
    found = decode_vector(type(message), as_json(encode(message), envelope, elements))
    for name in type(message).model_fields:
        before, after = getattr(message, name), getattr(found, name)
        if isinstance(before, Tensor):
            assert after.to_numpy().astype("f4").tolist() == before.to_numpy().astype("f4").tolist()
        elif name == "modality_vectors" and before is not None:
            assert after.keys() == before.keys()
        else:
            assert after == before


def test_msgpack_is_read_as_ever() -> None:
    assert decode_vector(ItemVector, encode(ITEM)) == ITEM


@pytest.mark.parametrize(
    "value",
    [
        b"{", b"{}", b'{"schema": 1, "payload": 2}', b'{"item_id": "a", "vector": "no base64!"}',
        b'{"vector": [1, "x"]}', b'{"vector": [[1], [2, 3]]}', b'{"vector": {"a": 1}}', b'{"modality_vectors": [1]}',
        b'{"schema_version": 1, "revision": 99999999999999999999999}', b"{" * 100_000, b'{"a": NaN}', b"{\xff}",
        b'{"schema": {}, "payload": {"attributes": "{"}}',
    ],
)  # fmt: skip
def test_json_that_is_no_vector_is_refused_and_nothing_else_is_raised(value: bytes) -> None:
    with pytest.raises(SchemaError) as caught:
        decode_vector(ItemVector, value)
    assert caught.value.reason in set(Reason)
