"""The reader's rule for versions, shown on a message that has a second one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar, Literal

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import DEFAULT_LIMITS, MESSAGES, SCHEMA_VERSION, Reason, SchemaError, decode, encode
from schemas.message import Fields, Message, Name


def one_list_from_two_fields(fields: Fields) -> Fields:
    fields["tags"] = [fields.pop("tag"), *fields["more_tags"].split(",")]
    return fields


class Label(Message):
    """Version 2 of a message whose version 1 had `tag` and `more_tags`."""

    upgrades: ClassVar[dict[int, Any]] = {1: one_list_from_two_fields}
    schema_version: Literal[2] = 2  # type: ignore[assignment]
    """Version of the contract the message was written in."""
    tags: list[Name]
    """What it is called."""


class LabelV3(Label):
    """Version 3 of the same: version 2 with nothing to change."""

    upgrades: ClassVar[dict[int, Any]] = {2: dict}
    schema_version: Literal[3] = 3  # type: ignore[assignment]
    """Version of the contract the message was written in."""


def refusal(fields: Fields, message: Any = Label) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        decode(message, msgpack.packb(fields))
    return caught.value


def test_writers_send_their_own_version() -> None:
    assert msgpack.unpackb(encode(Label(tags=["a"]))) == {"schema_version": 2, "tags": ["a"]}


def test_the_version_before_is_upgraded() -> None:
    first = msgpack.packb({"schema_version": 1, "tag": "a", "more_tags": "b,c"})
    assert decode(Label, first) == Label(tags=["a", "b", "c"])


def test_an_upgraded_message_is_validated_like_any_other() -> None:
    assert refusal({"schema_version": 1, "tag": 7, "more_tags": "b"}).field == "tags.0"


def test_older_versions_are_refused() -> None:
    error = refusal({"schema_version": 0, "tags": ["a"]})
    assert error.reason is Reason.UNSUPPORTED_VERSION
    assert str(error) == "schema_version: is 0, which is no longer read; this reader knows 1 and 2"
    assert refusal({"schema_version": 1, "tag": "a", "more_tags": "b"}, LabelV3).reason is Reason.UNSUPPORTED_VERSION
    assert decode(LabelV3, msgpack.packb({"schema_version": 2, "tags": ["a"]})).schema_version == 3


@pytest.mark.parametrize("version", [3, 2**63, 2**64 - 1])
def test_a_newer_version_is_refused_and_the_message_says_so(version: int) -> None:
    error = refusal({"schema_version": version, "tags": ["a"]})
    assert error.reason is Reason.UNSUPPORTED_VERSION
    assert f"is {version}: the writer is newer than this reader, which knows 1 and 2" in str(error)


@given(fields=st.dictionaries(st.sampled_from(["tag", "more_tags", "tags"]), st.none() | st.integers(0, 9) | st.text()))
def test_fields_that_are_not_those_of_the_older_version_are_refused(fields: Any) -> None:
    names = [fields.get("tag"), *str(fields.get("more_tags")).split(",")]
    short = range(1, DEFAULT_LIMITS.name_chars + 1)
    readable = isinstance(fields.get("more_tags"), str) and all(
        isinstance(name, str) and len(name) in short for name in names
    )
    with nullcontext() if readable else pytest.raises(SchemaError):
        decode(Label, msgpack.packb({**fields, "schema_version": 1}))


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_messages_have_the_version_of_the_contract_and_know_at_most_the_one_before(message: type[Message]) -> None:
    assert message.version == SCHEMA_VERSION
    assert set(message.upgrades) <= {SCHEMA_VERSION - 1}
