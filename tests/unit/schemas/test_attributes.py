"""What an item may be filtered by: four kinds of values, bounded, and each mistake named."""

from __future__ import annotations

import math
from typing import Any

import msgpack
import pytest

from schemas import ItemVector, NewItem, Reason, SchemaError, decode, encode


def packed(**attributes: object) -> bytes:
    return msgpack.packb(
        {"schema_version": 1, "item_id": "i", "revision": 1, "event_time_ms": 0, "attributes": attributes}
    )


def test_each_kind_of_value_comes_back_as_it_was_sent() -> None:
    values = {
        "price": 9.5, "stock": 3, "sold_out": False, "brand": "Grüße", "tags": ("a", ""), "none": (), "min": -(2**63)
    }  # fmt: skip
    item = NewItem(item_id="i", revision=1, event_time_ms=0, attributes=values)
    found = decode(NewItem, encode(item)).attributes
    assert found == values
    assert [type(each) for each in found.values()] == [type(each) for each in values.values()]


def test_an_item_without_attributes_has_the_bytes_it_always_had() -> None:
    fields = {"schema_version": 1, "item_id": "i", "revision": 1, "event_time_ms": 5}
    assert encode(NewItem(item_id="i", revision=1, event_time_ms=5, attributes={})) == msgpack.packb(fields)
    assert decode(NewItem, msgpack.packb({**fields, "attributes": None})).attributes == {}


def test_an_attribute_that_is_nil_is_not_there() -> None:
    assert decode(NewItem, packed(price=None, stock=1)).attributes == {"stock": 1}


@pytest.mark.parametrize(
    ("value", "reason", "text"),
    [
        ({"a": 1}, Reason.INVALID_FIELD, "attributes.x: should be a str, a number, a bool or an array of str, got map"),
        (b"raw", Reason.INVALID_FIELD, "got bin"),
        ([1, 2], Reason.INVALID_FIELD, "attributes.x: should be an array of str alone"),
        ([["a"]], Reason.INVALID_FIELD, "attributes.x: should be an array of str alone"),
        (["a", None], Reason.INVALID_FIELD, "attributes.x: should be an array of str alone"),
        (2**64 - 1, Reason.INVALID_FIELD, "attributes.x: should be an int of 64 bits"),
        (math.nan, Reason.NON_FINITE, "attributes.x: is NaN or infinite"),
        (-math.inf, Reason.NON_FINITE, "attributes.x: is NaN or infinite"),
        ("y" * 1025, Reason.TOO_LARGE, "attributes.x: is longer than the limit of 1024 characters"),
        (["y" * 1025], Reason.TOO_LARGE, "attributes.x: is longer than the limit of 1024 characters"),
        (["y"] * 65, Reason.TOO_LARGE, "attributes.x: has more than 64 entries"),
    ],
)
def test_a_value_of_no_kind_or_over_a_bound_is_refused_by_its_name(value: Any, reason: Reason, text: str) -> None:
    with pytest.raises(SchemaError, match=text) as caught:
        decode(NewItem, packed(x=value))
    assert caught.value.reason is reason


@pytest.mark.parametrize("name", ["", "n" * 129, "shape"])
def test_a_name_is_bounded_like_others_and_any_name_may_have_any_value(name: str) -> None:
    if name == "shape":
        with pytest.raises(SchemaError) as caught:
            decode(NewItem, packed(shape=["y"] * 65))
        assert caught.value.reason is Reason.TOO_LARGE
    else:
        with pytest.raises(SchemaError):
            decode(NewItem, packed(**{name: 1}))


def test_no_more_than_the_limit_of_attributes() -> None:
    with pytest.raises(SchemaError) as caught:
        decode(NewItem, packed(**{str(number): number for number in range(65)}))
    assert caught.value.reason is Reason.TOO_LARGE


def test_an_item_vector_has_them_too() -> None:
    assert "attributes" in ItemVector.optional
    assert "attributes" in ItemVector.maps
