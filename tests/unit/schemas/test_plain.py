"""Items and events that are read without models are those that models would make of them, and so are refusals."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import numpy as np
import pytest

from schemas import (
    DEFAULT_LIMITS,
    Feature,
    Limits,
    NewItem,
    PlainEvent,
    PlainFeature,
    PlainItem,
    SchemaError,
    UserEvent,
    as_model,
    decode,
    decode_event,
    decode_item,
    encode,
    suspects,
)
from tests.contract.schemas.golden import EXAMPLES
from tests.contract.schemas.mutations import broken

FEATURE = {"dtype": "f2", "shape": [2], "data": b"\0\x3c\0\x40", "encoder": "clip"}
BYTES = {**FEATURE, "dtype": "i1", "data": b"\1\2", "scale": 0.5}
ITEM = {"schema_version": 1, "item_id": "i", "revision": 1, "event_time_ms": 2, "features": {"image": FEATURE}}
EVENT = {
    "schema_version": 1, "event_id": "e", "user_id": "u", "item_id": "i", "event_type": "like", "event_time_ms": 2,
}  # fmt: skip
ODD: list[Any] = [
    None, True, False, 0, 1, -1, 1.0, 2.0, float("nan"), float("inf"), 2**63, 2**64 - 1, "", "x", "x" * 513, "2",
    b"", b"x", [], [1], [2], [2.0], [True], [1, 2], [2, 1], [1.0, 2], [0, 2], [1025, 1], [1, 1, 2], [16_385], ["x"],
    [""], ["x", 1], {}, {"a": 1}, {"a": None}, {"x": "y"}, {"x": ["y"]}, {"": 1}, {"x": float("inf")},
    253_402_300_800_000,
]  # fmt: skip


def outcome(read: Any, *arguments: Any) -> Any:
    try:
        return read(*arguments)
    except SchemaError as error:
        return error.reason, error.field, str(error)


def assert_same_item(data: bytes) -> Any:
    """Returns what `decode_item` gives."""
    usual = outcome(lambda: decode(NewItem, data, check_values=False))
    found = outcome(decode_item, data)
    if not isinstance(found, PlainItem):
        assert found == usual
        return found
    assert isinstance(usual, NewItem), f"{found} should have been refused: {usual}"
    assert {name: as_model(feature) for name, feature in found.features.items()} == usual.features
    for name in ("item_id", "revision", "event_time_ms", "partial", "neighbors", "attributes", "content"):
        assert (mine := getattr(found, name)) == (theirs := getattr(usual, name))
        assert type(mine) is type(theirs)
    for feature in found.features.values():
        assert [type(number) for number in feature.shape] == [int] * len(feature.shape)
    return found


def assert_same_event(data: bytes) -> Any:
    usual, found = outcome(decode, UserEvent, data), outcome(decode_event, data)
    if not isinstance(found, PlainEvent):
        assert found == usual
        return found
    assert isinstance(usual, UserEvent)
    assert UserEvent(**found._asdict()) == usual
    return found


@pytest.mark.parametrize("where", [*ITEM, "partial", "neighbors", "attributes", "content", "unknown"])
def test_an_item_with_any_value_anywhere_is_what_the_model_makes_of_it(where: str) -> None:
    assert_same_item(msgpack.packb(ITEM))  # the form of a good one is known
    for value in ODD:
        assert_same_item(msgpack.packb({**ITEM, where: value}))
    assert_same_item(msgpack.packb({name: given for name, given in ITEM.items() if name != where}))


@pytest.mark.parametrize("where", [*BYTES, "unknown"])
def test_a_feature_with_any_value_anywhere_is_what_the_model_makes_of_it(where: str) -> None:
    for feature in (FEATURE, BYTES):
        assert isinstance(assert_same_item(msgpack.packb({**ITEM, "features": {"image": feature}})), PlainItem)
        for value in ODD:
            assert_same_item(msgpack.packb({**ITEM, "features": {"image": {**feature, where: value}}}))
        without = {name: given for name, given in feature.items() if name != where}
        assert_same_item(msgpack.packb({**ITEM, "features": {"image": without}}))


@pytest.mark.parametrize("where", [*EVENT, "value", "unknown"])
def test_an_event_with_any_value_anywhere_is_what_the_model_makes_of_it(where: str) -> None:
    for value in ODD:
        assert_same_event(msgpack.packb({**EVENT, where: value}))
    assert_same_event(msgpack.packb({name: given for name, given in EVENT.items() if name != where}))


def test_broken_messages_are_refused_word_for_word_alike() -> None:
    seeds = [encode(EXAMPLES["NewItem"]), encode(EXAMPLES["UserEvent"]), msgpack.packb(ITEM), msgpack.packb(EVENT)]
    for case in range(3_000):
        data = broken(random.Random(case), [seeds[case % 4]])
        assert_same_item(data)
        assert_same_event(data)


@pytest.mark.parametrize("dtype", ["f2", "f4", "bf2", "i1"])
@pytest.mark.parametrize("shape", [4, (3, 4)])
@pytest.mark.parametrize(
    "more", [{}, {"partial": True}, {"neighbors": ("n", "m")}, {"attributes": {"price": 3, "tags": ("a",)}}]
)
def test_usual_items_come_without_models(dtype: str, shape: int | tuple[Any, ...], more: dict[str, Any]) -> None:
    feature = Feature.from_numpy(np.ones(shape), dtype=dtype, encoder="e")
    item = NewItem(item_id="ä", revision=2**63 - 1, event_time_ms=3, features={"text": feature, "b": feature}, **more)
    assert isinstance(assert_same_item(encode(item)), PlainItem)


@pytest.mark.parametrize("value", [None, 2.5])
def test_usual_events_come_without_models(value: float | None) -> None:
    assert isinstance(assert_same_event(encode(UserEvent(**{**EVENT, "value": value}))), PlainEvent)


def test_a_stricter_reader_s_limits_hold_as_well() -> None:
    limits = Limits(dims=1)
    with pytest.raises(SchemaError, match=r"limits\.dims"):
        decode_item(msgpack.packb(ITEM), limits)
    assert isinstance(decode_item(msgpack.packb(ITEM), DEFAULT_LIMITS), PlainItem)


def test_forms_that_were_seen_once_do_not_fill_the_memory() -> None:
    from schemas import plain

    for number in range(plain._MAX_FORMS + 10):
        decode_item(msgpack.packb({**ITEM, "features": {"image": {**FEATURE, "encoder": f"e{number}"}}}))
    assert len(plain._forms) <= plain._MAX_FORMS


def test_a_plain_feature_is_equal_to_the_model_with_its_fields() -> None:
    plain = PlainFeature("clip", "f2", (2,), b"\0\x3c\0\x40")
    model = as_model(plain)
    assert isinstance(model, Feature)
    assert plain == model == plain
    assert plain != Feature(encoder="clip", dtype="f2", shape=(2,), data=b"\0\x3c\0\0")
    assert plain.to_numpy().tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", ["f2", "f4", "bf2"])
@pytest.mark.parametrize("shape", [(8,), (3, 8)])
def test_suspects_are_the_items_with_something_wrong_in_whatever_company(dtype: str, shape: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(0)

    def made(values: Any) -> Feature:
        return Feature.from_numpy(values, dtype=dtype, encoder="e")

    good = made(rng.standard_normal(shape))
    nan = {"f2": b"\0\x7e", "f4": b"\0\0\xc0\x7f", "bf2": b"\xc0\x7f"}[dtype]
    not_finite = Feature.model_construct(**{**dict(good), "data": good.data[: -len(nan)] + nan})
    zeros, other = made(np.zeros(shape)), made(rng.standard_normal(5))
    items = [
        {"a": good, "b": other}, {"a": zeros}, {"b": other}, {}, {"a": not_finite, "b": other}, {"a": other, "b": good},
        {"b": made(np.full(shape, 3.0))}, {"a": good},
    ]  # fmt: skip
    assert suspects(items) == [1, 4, 6]
    assert suspects(items[:1]) == suspects([]) == suspects([{}]) == []


def test_integers_are_suspects_for_their_scale() -> None:
    def made(scale: float) -> Feature:
        return Feature(encoder="e", dtype="i1", shape=(3,), data=b"\1\2\3", scale=scale)

    assert suspects([{"a": made(0.5)}, {"a": made(1e-9)}, {"a": made(1e30)}]) == [1, 2]
