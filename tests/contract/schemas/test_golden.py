"""Bytes written by each version stay readable, and this version goes on writing the same ones."""

from __future__ import annotations

import pytest

from schemas import MESSAGES, SCHEMA_VERSION, decode, encode
from tests.contract.schemas.golden import EXAMPLES, FOLDER, LATER, bytes_file


@pytest.mark.parametrize("name", MESSAGES)
def test_an_example_sets_every_field_that_its_version_began_with(name: str) -> None:
    fields, later = MESSAGES[name].model_fields, LATER.get(name, set())
    assert set(EXAMPLES[name].model_fields_set) | {"schema_version"} == set(fields) - later
    assert not any(fields[field].is_required() for field in later)


@pytest.mark.parametrize("name", MESSAGES)
def test_the_same_object_gives_the_same_bytes(name: str) -> None:
    assert encode(EXAMPLES[name]) == bytes_file(name, SCHEMA_VERSION).read_bytes()


@pytest.mark.parametrize("name", MESSAGES)
@pytest.mark.parametrize("version", range(max(1, SCHEMA_VERSION - 1), SCHEMA_VERSION + 1))
def test_the_bytes_of_every_version_still_read_give_the_object(name: str, version: int) -> None:
    assert decode(MESSAGES[name], bytes_file(name, version).read_bytes()) == EXAMPLES[name]


def test_there_is_one_file_for_each_message_and_version() -> None:
    expected = {bytes_file(name, version) for name in MESSAGES for version in range(1, SCHEMA_VERSION + 1)}
    assert set(FOLDER.glob("*.msgpack")) == expected
