from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from schemas import (
    MESSAGES,
    Content,
    DeadLetter,
    ItemVector,
    NewItem,
    Reason,
    Tensor,
    UserEvent,
    UserVector,
    decode,
    encode,
)
from schemas.limits import DEFAULT_LIMITS
from schemas.message import Message
from schemas.times import MAX_TIME_MS

ITEM = {"item_id": "i", "revision": 1, "event_time_ms": 2}
VECTOR = Tensor.from_numpy([1.0, 0.0])
ITEM_VECTOR = {
    **ITEM, "space_id": "s", "vector": VECTOR, "modalities": ["text"], "produced_at_ms": 3,
}  # fmt: skip
LETTER = {
    "topic": "items", "partition": 0, "offset": 1, "timestamp": -1, "reason": "not_msgpack", "stage": "decode",
    "worker_version": "1", "failed_at_ms": 4,
}  # fmt: skip


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_every_field_says_what_it_is(message: type[Message]) -> None:
    assert message.__doc__
    assert [name for name, field in message.model_fields.items() if not field.description] == []


def test_messages_are_frozen() -> None:
    item = NewItem(**ITEM)
    with pytest.raises(ValidationError, match="frozen"):
        item.revision = 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("item_id", ""), ("item_id", 7), ("item_id", b"i"), ("item_id", None), ("item_id", "i" * 513),
        ("revision", "1"), ("revision", 1.0), ("revision", True), ("revision", -1), ("revision", 2**63),
        ("event_time_ms", -1), ("event_time_ms", MAX_TIME_MS + 1),
        ("partial", 1), ("neighbors", "abc"), ("neighbors", [1]), ("features", []), ("content", {"text": "raw"}),
        ("schema_version", 2), ("schema_version", "1"),
    ],
)  # fmt: skip
def test_values_of_another_type_or_range_are_refused(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        NewItem(**{**ITEM, field: value})


@pytest.mark.parametrize("field", ITEM)
def test_fields_without_a_default_are_required(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        NewItem(**{name: value for name, value in ITEM.items() if name != field})


def test_whole_numbers_are_floats_too() -> None:
    event = UserEvent(event_id="e", user_id="u", item_id="i", event_type="rate", event_time_ms=0, value=5)
    assert isinstance(event.value, float)


def test_content_is_exactly_one_of_three() -> None:
    kinds = {"text": "", "data": b"", "uri": "s3://b/k"}
    for kind, value in kinds.items():
        content = Content(**{kind: value})
        assert content.kind == kind
        assert getattr(content, kind) == value
    for several in ({}, {"text": "a", "uri": "b"}, kinds):
        with pytest.raises(ValidationError, match="exactly one"):
            Content(**several)


@pytest.mark.parametrize("several", [{"vector": Tensor.from_numpy([[1.0], [2.0]])},
                                     {"modality_vectors": {"text": Tensor.from_numpy([[1.0], [2.0]])}}])  # fmt: skip
def test_an_item_vector_is_one_vector(several: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="one vector"):
        ItemVector(**{**ITEM_VECTOR, **several})


def test_a_vector_comes_from_some_modality() -> None:
    with pytest.raises(ValidationError, match="modalities"):
        ItemVector(**{**ITEM_VECTOR, "modalities": []})


def test_keys_are_ids_in_utf8() -> None:
    event = UserEvent(event_id="e", user_id="ü", item_id="i", event_type="view", event_time_ms=0)
    user = UserVector(user_id="ü", event_time_ms=0, num_events=1, space_id="s", vector=VECTOR, produced_at_ms=0)
    assert event.key == user.key == "ü".encode()
    assert NewItem(**ITEM).key == ItemVector(**ITEM_VECTOR).key == b"i"


def test_tensors_are_named_by_their_path() -> None:
    vector = ItemVector(**ITEM_VECTOR, modality_vectors={"text": VECTOR, "image": VECTOR})
    assert [path for path, _ in vector.tensors()] == ["vector", "modality_vectors.text", "modality_vectors.image"]
    assert [path for path, _ in ItemVector(**ITEM_VECTOR, base_vector=VECTOR).tensors()] == ["vector", "base_vector"]
    assert list(DeadLetter(**LETTER).tensors()) == []


def test_a_vector_that_graph_fusion_has_not_moved_is_its_own_base() -> None:
    moved = Tensor.from_numpy([0.0, 1.0])
    assert ItemVector(**ITEM_VECTOR).base == VECTOR
    assert ItemVector(**{**ITEM_VECTOR, "vector": moved}, base_vector=VECTOR).base == VECTOR


def test_a_known_reason_becomes_one_and_an_unknown_one_stays_readable() -> None:
    assert DeadLetter(**LETTER).reason is Reason.NOT_MSGPACK
    assert DeadLetter(**{**LETTER, "reason": "from_the_future"}).reason == "from_the_future"
    with pytest.raises(ValidationError, match="reason"):
        DeadLetter(**{**LETTER, "reason": 7})


def test_no_record_is_too_odd_for_a_dead_letter() -> None:
    name = "n" * (DEFAULT_LIMITS.text_chars + 1)
    headers = [(name, b"v"), ("null", None), ("broken \udcff", b"")] * DEFAULT_LIMITS.headers
    letter = DeadLetter(**LETTER, headers=headers, detail="x\ud800" * DEFAULT_LIMITS.detail_chars)
    assert len(letter.headers) == DEFAULT_LIMITS.headers
    assert letter.headers[:3] == ((name[:-1], b"v"), ("null", None), ("broken ?", b""))
    assert letter.detail == ("x?" * DEFAULT_LIMITS.detail_chars)[: DEFAULT_LIMITS.detail_chars]


def test_a_dead_letter_keeps_the_bytes_of_names_that_are_not_utf8() -> None:
    headers = (("caf\udce9", b"1"), ("fine \u00e9", None), ("\udcff", b""))
    letter = DeadLetter(**LETTER, headers=headers)
    assert [name for name, _ in letter.headers] == ["caf?", "fine \u00e9", "?"]
    assert letter.header_names == (b"caf\xe9", None, b"\xff")
    read = decode(DeadLetter, encode(letter))
    assert read == letter
    assert read.original_headers == headers
    assert DeadLetter(**LETTER, headers=(("h", b"1"),)).header_names is None
