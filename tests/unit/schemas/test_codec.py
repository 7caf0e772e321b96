from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from typing import Any, get_args

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from schemas import (
    MESSAGES,
    Content,
    DeadLetter,
    Feature,
    ItemVector,
    NewItem,
    Reason,
    SchemaError,
    Tensor,
    UserEvent,
    UserVector,
    decode,
    encode,
    encode_item_vector,
    encode_user_vector,
)
from schemas.times import MAX_TIME_MS
from tests.contract.schemas.golden import EXAMPLES
from tests.unit.schemas import strategies

FEATURE = {"dtype": "f2", "shape": [2], "data": b"\0\x3c\0\x40", "encoder": "clip"}
ITEM = {"schema_version": 1, "item_id": "i", "revision": 1, "event_time_ms": 2, "features": {"image": FEATURE}}
unknown_values = st.integers(-(2**63), 2**64 - 1) | st.text() | st.none() | st.lists(st.floats())
unknown_fields = st.dictionaries(st.text("xyz", min_size=1), unknown_values, max_size=3)
NAN = b"\x00\x7e\x00\x00"
LETTER = DeadLetter(
    topic="items", partition=0, offset=1, timestamp=2, reason="not_msgpack", stage="decode", worker_version="1",
    failed_at_ms=4,
)  # fmt: skip


def refusal(data: bytes, message: Any = NewItem, **options: Any) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        decode(message, data, **options)
    return caught.value


def item_with(**fields: Any) -> bytes:
    return msgpack.packb({**ITEM, **fields})


def feature_with(**fields: Any) -> bytes:
    return item_with(features={"image": {**FEATURE, **fields}})


@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data())
def test_any_message_comes_back(name: str, data: Any) -> None:
    message = data.draw(strategies.BY_NAME[name])
    encoded = encode(message)
    decoded = decode(MESSAGES[name], encoded)
    assert decoded == message
    assert encode(decoded) == encoded


@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data(), more=unknown_fields)
def test_unknown_fields_are_ignored(name: str, data: Any, more: Any) -> None:
    message = data.draw(strategies.BY_NAME[name])
    assert decode(MESSAGES[name], msgpack.packb({**msgpack.unpackb(encode(message)), **more})) == message


def test_fields_at_their_default_stay_off_the_wire() -> None:
    fields = msgpack.unpackb(encode(NewItem(item_id="i", revision=1, event_time_ms=2)))
    assert list(fields) == ["schema_version", "item_id", "revision", "event_time_ms"]


@pytest.mark.parametrize("name", MESSAGES)
@given(data=st.data())
def test_nil_stands_for_the_default_of_every_field_that_has_one(name: str, data: Any) -> None:
    message = data.draw(strategies.BY_NAME[name])
    fields = msgpack.unpackb(encode(message))
    assert decode(MESSAGES[name], msgpack.packb(with_nils(MESSAGES[name], fields))) == message


def with_nils(model: type[BaseModel], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with nil for every one that is left out, at every depth, and for one more entry of every map."""
    nils = {name: None for name, field in model.model_fields.items() if not field.is_required()}
    filled = {**nils, **fields}
    for name, value in fields.items():
        inner = models_in(model.model_fields[name].annotation) if name in model.model_fields else []
        if inner and isinstance(value, dict) and "dict[" in str(model.model_fields[name].annotation):
            filled[name] = {key: with_nils(inner[0], entry) for key, entry in value.items()} | {"\0absent": None}
        elif inner and isinstance(value, dict):
            filled[name] = with_nils(inner[0], value)
    filled["schema_version"] = fields.get("schema_version")
    return {key: value for key, value in filled.items() if key != "schema_version" or value is not None}


def models_in(declared: object) -> list[type[BaseModel]]:
    if isinstance(declared, type) and issubclass(declared, BaseModel):
        return [declared]
    return [model for part in get_args(declared) for model in models_in(part)]


@pytest.mark.parametrize("name", MESSAGES)
def test_nil_for_a_required_field_names_it(name: str) -> None:
    message = MESSAGES[name]
    fields = msgpack.unpackb(encode(EXAMPLES[name]))
    for field in message.model_fields:
        if message.model_fields[field].is_required():
            error = refusal(msgpack.packb({**fields, field: None}), message)
            assert (error.reason, error.field.partition(".")[0]) == (Reason.INVALID_FIELD, field)
            assert "nil" in str(error) or field == "reason"  # which is one of two things


def test_an_item_of_nothing_but_nils_beside_its_ids_is_whole_and_empty() -> None:
    nils = dict.fromkeys(("features", "content", "neighbors", "partial"))
    item = decode(NewItem, item_with(**nils))
    assert item == NewItem(item_id="i", revision=1, event_time_ms=2)
    item = decode(NewItem, item_with(features={"image": None}, content={"image": None, "text": {"text": "a"}}))
    assert (item.features, list(item.content)) == ({}, ["text"])


@pytest.mark.parametrize("message", [NewItem, UserEvent])
@pytest.mark.parametrize(
    ("time", "words"),
    [
        (1_767_225_600_000_000, "looks like microseconds"),
        (1_767_225_600_000_000_000, "looks like nanoseconds"),
        (2**63 - 1, "should be milliseconds since 1970, from 0"),
        (2**64 - 1, "should be milliseconds since 1970, from 0"),
        (-(2**63), "should be milliseconds since 1970, from 0"),
        (-1, "should be milliseconds since 1970, from 0"),
        (MAX_TIME_MS + 1, "looks like microseconds"),  # of 1978
        (10**16 * 9, "should be milliseconds since 1970, from 0"),
        (1_767_225_600.0, "should be an int, got float"),
        ("1767225600000", "should be an int, got str"),
        (None, "should be an int, got nil"),
        (True, "should be an int, got bool"),
    ],
)
def test_a_time_that_is_none_is_refused_and_its_unit_named(message: Callable[..., Any], time: Any, words: str) -> None:
    fields = {
        "schema_version": 1,
        **dict.fromkeys(("event_id", "user_id", "item_id", "event_type"), "a"),
        "revision": 1,
    }
    error = refusal(msgpack.packb({**fields, "event_time_ms": time}), message)
    assert (error.reason, error.field) == (Reason.INVALID_FIELD, "event_time_ms")
    assert words in str(error)


@pytest.mark.parametrize("time", [0, 1, 1_767_225_600, 1_767_225_600_000, MAX_TIME_MS])
def test_a_time_in_milliseconds_is_taken(time: int) -> None:
    assert decode(NewItem, item_with(event_time_ms=time)).event_time_ms == time


def test_a_time_that_is_missing_is_missing() -> None:
    fields = {key: value for key, value in ITEM.items() if key != "event_time_ms"}
    assert str(refusal(msgpack.packb(fields))) == "event_time_ms: is missing"


@pytest.mark.parametrize(
    ("data", "reason", "field", "words"),
    [
        (b"", Reason.NOT_MSGPACK, "", "not a complete"),
        (b"\xc1", Reason.NOT_MSGPACK, "", "not a complete"),
        (item_with()[:-1], Reason.NOT_MSGPACK, "", "not a complete"),
        (item_with() + b"\xc0", Reason.NOT_MSGPACK, "", "after the end"),
        (b"\x81\xa1\xff\xc0", Reason.NOT_MSGPACK, "", "not UTF-8"),
        (b"\xdd\xff\xff\xff\xff", Reason.TOO_LARGE, "", "max_array_len"),
        (b"\xdf\xff\xff\xff\xff", Reason.TOO_LARGE, "", "max_map_len"),
        (b"\x91" * 2000 + b"\xc0", Reason.TOO_LARGE, "", "too deeply"),
        (b"\x81\xa1x\xd4\x05\x00", Reason.INVALID_FIELD, "", "extension type"),
        (b"\x81\x01\x01", Reason.INVALID_FIELD, "", "map key"),
        (b"\x81\xc0\x01", Reason.INVALID_FIELD, "", "map key"),
        (b"\x81\x90\x01", Reason.INVALID_FIELD, "", "map key"),
        (b"\x93\x01\x02\x03", Reason.INVALID_FIELD, "", "should be a map, got array"),
        (b"\xc0", Reason.INVALID_FIELD, "", "should be a map, got nil"),
        (b"\x80", Reason.UNSUPPORTED_VERSION, "schema_version", "is missing"),
        (item_with(schema_version=None), Reason.UNSUPPORTED_VERSION, "schema_version", "is missing"),
        (item_with(schema_version=True), Reason.UNSUPPORTED_VERSION, "schema_version", "got bool"),
        (item_with(schema_version=1.0), Reason.UNSUPPORTED_VERSION, "schema_version", "got float"),
        (item_with(schema_version="1"), Reason.UNSUPPORTED_VERSION, "schema_version", "got str"),
        (item_with(schema_version=2), Reason.UNSUPPORTED_VERSION, "schema_version", "newer"),
        (b"\x81\xaeschema_version\x01", Reason.INVALID_FIELD, "item_id", "is missing (and 2 more)"),
        (item_with(item_id=""), Reason.INVALID_FIELD, "item_id", "should not be empty"),
        (item_with(item_id=b"i"), Reason.INVALID_FIELD, "item_id", "should be a str, got bin"),
        (item_with(item_id="i" * 513), Reason.TOO_LARGE, "item_id", "limit of 512"),
        (item_with(revision="7"), Reason.INVALID_FIELD, "revision", "should be an int, got str"),
        (item_with(revision=2**64 - 1), Reason.INVALID_FIELD, "revision", "less than or equal"),
        (item_with(partial=1), Reason.INVALID_FIELD, "partial", "should be a bool, got int"),
        (item_with(neighbors=["a", 7]), Reason.INVALID_FIELD, "neighbors.1", "should be a str, got int"),
        (item_with(neighbors={"a": 1}), Reason.INVALID_FIELD, "neighbors", "should be an array, got map"),
        (item_with(neighbors=["a"] * 257), Reason.TOO_LARGE, "neighbors", "more than 256"),
        (item_with(features=[]), Reason.INVALID_FIELD, "features", "should be a map, got array"),
        (item_with(features={"a": 7}), Reason.INVALID_FIELD, "features.a", "should be a map, got int"),
        (item_with(features={"": FEATURE}), Reason.INVALID_FIELD, "features.", "should not be empty"),
        (item_with(features={b"a": FEATURE}), Reason.INVALID_FIELD, "features.b'a'", "should be a str, got bin"),
        (feature_with(encoder=None), Reason.INVALID_FIELD, "features.image.encoder", "should be a str, got nil"),
        (feature_with(dtype="f8"), Reason.INVALID_FIELD, "features.image.dtype", "should be 'f2', 'f4'"),
        (feature_with(shape=[1, 2, 3]), Reason.INVALID_FIELD, "features.image.shape", "more than 2 entries"),
        (feature_with(shape=[-1]), Reason.INVALID_FIELD, "features.image.shape.0", "greater than"),
        (feature_with(shape=[16_385]), Reason.TOO_LARGE, "features.image.shape.0", "less than or equal to 16384"),
        (feature_with(shape=[1_025, 2]), Reason.TOO_LARGE, "features.image.shape", "at most 1024 vectors"),
        (feature_with(shape=[3]), Reason.INVALID_FIELD, "features.image.data", "should be 6 bytes"),
        (feature_with(data="text"), Reason.INVALID_FIELD, "features.image.data", "should be a bin, got str"),
        (feature_with(data=[1, 2]), Reason.INVALID_FIELD, "features.image.data", "should be a bin, got array"),
        (feature_with(scale=1.0), Reason.INVALID_FIELD, "features.image.scale", "belongs to dtype i1"),
        (feature_with(dtype="i1", shape=[4]), Reason.INVALID_FIELD, "features.image.scale", "required with dtype i1"),
        (feature_with(scale=math.nan), Reason.NON_FINITE, "features.image.scale", "NaN or infinite"),
        (feature_with(data=NAN), Reason.NON_FINITE, "features.image.data", "NaN or infinite"),
        (item_with(content={"text": {}}), Reason.INVALID_FIELD, "content.text", "exactly one of"),
        (item_with(content={"text": {"text": "", "uri": "u"}}), Reason.INVALID_FIELD, "content.text", "exactly one"),
    ],
)  # fmt: skip
def test_a_refusal_names_the_field_and_what_is_wrong(data: bytes, reason: Reason, field: str, words: str) -> None:
    error = refusal(data)
    assert (error.reason, error.field) == (reason, field)
    assert words in str(error)
    assert str(error).startswith(field)


def test_errors_quote_no_payload() -> None:
    secret = "hunter2" * 50
    for data in (
        item_with(revision=secret),
        item_with(item_id=secret * 2),
        item_with(schema_version=secret),
        feature_with(dtype=secret),
        feature_with(encoder=secret),
        item_with(features={"image": secret}),
        msgpack.packb(secret),
        item_with() + secret.encode(),
        item_with(x="hunter2")[:-1] + b"\xff",
    ):
        error = refusal(data)
        assert "hunter2" not in str(error)
        assert "hunter2" not in "".join(traceback.format_exception(error))


@pytest.mark.parametrize("modality", ["m" * 128, "two\nlines", "\x1b[31m", "\u202e", "b" * 1000])
def test_names_from_the_payload_fit_a_log_line(modality: str) -> None:
    error = refusal(item_with(features={modality: 7}))
    assert str(error).isprintable()
    assert len(str(error)) < 200


def test_an_error_of_a_modality_called_shape_is_not_taken_for_one_of_a_shape() -> None:
    assert refusal(item_with(features={"shape": {**FEATURE, "encoder": "e" * 129}})).reason is Reason.TOO_LARGE
    huge = {**FEATURE, "dtype": "i1", "shape": [4], "scale": 1e40}
    assert refusal(item_with(features={"shape": huge})).reason is Reason.INVALID_FIELD


def test_check_values_false_leaves_out_the_finite_check_alone() -> None:
    data = feature_with(data=NAN)
    assert refusal(data).reason is Reason.NON_FINITE
    assert not decode(NewItem, data, check_values=False).features["image"].is_finite()
    assert refusal(feature_with(data=NAN[:2]), check_values=False).field == "features.image.data"
    assert refusal(feature_with(scale=math.inf), check_values=False).reason is Reason.NON_FINITE


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_of_bytes_can_be_decoded(buffer: Callable[..., Any]) -> None:
    item = decode(NewItem, buffer(item_with()))
    assert isinstance(item.features["image"].data, bytes)


def test_encode_refuses_what_decode_would() -> None:
    bad = Feature(dtype="f2", shape=(2,), data=NAN, encoder="e")
    with pytest.raises(SchemaError, match=r"features\.image\.data: has elements that are NaN") as caught:
        encode(NewItem(item_id="i", revision=1, event_time_ms=2, features={"image": bad}))
    assert caught.value.reason is Reason.NON_FINITE

    film = Content(data=bytes(16 * 2**20))
    with pytest.raises(SchemaError, match="the limit is 16777216") as caught:
        encode(NewItem(item_id="i", revision=1, event_time_ms=2, content={"video": film}))
    assert caught.value.reason is Reason.TOO_LARGE

    with pytest.raises(SchemaError, match="reason: is not one of"):
        encode(LETTER.model_copy(update={"reason": "from_the_future"}))


def test_a_string_that_utf8_cannot_hold_is_refused() -> None:
    for build in (
        lambda: encode(NewItem(item_id="\ud800", revision=1, event_time_ms=2)),
        lambda: encode(NewItem(item_id="i", revision=1, event_time_ms=2, content={"text": Content(text="\ud800")})),
        lambda: encode(LETTER.model_copy(update={"stage": "\ud800"})),
    ):
        with pytest.raises(ValueError, match=r"UTF-8|unicode") as caught:
            build()
        assert not isinstance(caught.value, UnicodeError)


def test_a_dead_letter_holds_a_whole_record() -> None:
    letter = LETTER.model_copy(update={"value": bytes(17 * 2**20), "headers": (("traceparent", b"00"), ("null", None))})
    assert decode(DeadLetter, encode(letter)) == letter


def test_a_reason_of_a_newer_writer_can_be_read() -> None:
    fields = msgpack.unpackb(encode(LETTER))
    letter = decode(DeadLetter, msgpack.packb({**fields, "reason": "from_the_future"}))
    assert letter.reason == "from_the_future"
    assert letter.topic == "items"


@given(
    vector=strategies.tensor_fields(strategies.vector_shapes).filter(lambda fields: fields["dtype"] != "i1"),
    item_id=strategies.ids,
    revision=strategies.counts,
    times=st.tuples(strategies.times, strategies.times),
    space_id=strategies.names,
    modalities=st.lists(strategies.names, min_size=1, max_size=4),
    source_offset=st.none() | strategies.counts,
    prior=st.none() | strategies.finite | st.integers(-5, 5),
    named=st.none() | st.lists(strategies.names, max_size=3),
    moved=st.booleans(),
    attributes=strategies.attributes,
)
def test_encode_item_vector_gives_the_bytes_of_encode(
    vector: Any,
    item_id: Any,
    revision: Any,
    times: Any,
    space_id: Any,
    modalities: Any,
    source_offset: Any,
    prior: Any,
    named: Any,
    moved: Any,
    attributes: Any,
) -> None:
    fast = encode_item_vector(
        item_id, revision, times[0], space_id, vector["dtype"], vector["shape"], vector["data"], modalities, times[1],
        source_offset, prior, None if named is None else dict.fromkeys(named, vector["data"]),
        vector["data"] if moved else None, attributes,
    )  # fmt: skip
    message = ItemVector(
        item_id=item_id, revision=revision, event_time_ms=times[0], space_id=space_id, vector=Tensor(**vector),
        modalities=modalities, produced_at_ms=times[1], source_offset=source_offset, prior=prior,
        modality_vectors=None if named is None else {name: Tensor(**vector) for name in named},
        base_vector=Tensor(**vector) if moved else None, attributes=attributes,
    )  # fmt: skip
    assert fast == encode(message)
    assert decode(ItemVector, fast) == message


@given(
    vector=strategies.tensor_fields(strategies.vector_shapes).filter(lambda fields: fields["dtype"] != "i1"),
    user_id=strategies.ids,
    num_events=strategies.counts,
    times=st.tuples(strategies.times, strategies.times),
    space_id=strategies.names,
)
def test_encode_user_vector_gives_the_bytes_of_encode(
    vector: Any, user_id: Any, num_events: Any, times: Any, space_id: Any
) -> None:
    fast = encode_user_vector(
        user_id, times[0], num_events, space_id, vector["dtype"], vector["shape"], vector["data"], times[1]
    )
    message = UserVector(
        user_id=user_id, event_time_ms=times[0], num_events=num_events, space_id=space_id, vector=Tensor(**vector),
        produced_at_ms=times[1],
    )  # fmt: skip
    assert fast == encode(message)
    assert decode(UserVector, fast) == message
