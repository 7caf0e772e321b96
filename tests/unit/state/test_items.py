"""Items in parts: the state depends on the messages, not on their order."""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas import Feature, NewItem, as_model, encode
from tests.fakes import FakeRecord, feature
from worker.errors import StateError
from worker.records import Item
from worker.state.items import ItemState, Made, Named, merged
from worker.state.packing import is_marked, unpack

NAMES = ("audio", "image", "text")


def message(revision: int, offset: int = 0, *, partial: bool, neighbors: tuple[str, ...] = (), **fills: float) -> Item:
    features = {name: feature(fill=fill) for name, fill in fills.items()}
    record = FakeRecord(offset=offset)
    return Item(record, "a", revision, 1_000 + revision, features, partial, neighbors=neighbors)


def merge(known: ItemState | None, item: Item) -> ItemState | None:
    return merged(known, item, item.record.offset, item.digests)


def after(*messages: Item) -> ItemState | None:
    state = None
    for each in messages:
        state = merge(state, each) or state
    return state


def content(state: ItemState | None) -> dict[str, float]:
    return {} if state is None else {name: float(each.to_numpy()[0]) for name, each in state.features.items()}


def test_text_now_and_image_later_make_one_item() -> None:
    text, image = message(1, 0, partial=True, text=1.0), message(2, 1, partial=True, image=2.0)
    first, both = after(text), after(text, image)
    assert content(first) == {"text": 1.0}
    assert content(both) == {"image": 2.0, "text": 1.0}
    assert (both.offset, both.revision, both.event_time_ms) == (1, 2, 1_002)


def test_a_stale_part_is_dropped_and_a_late_one_of_another_modality_is_not() -> None:
    state = after(message(5, partial=True, text=5.0))
    assert merge(state, message(4, partial=True, text=4.0)) is None
    late = merge(state, message(3, partial=True, image=3.0))
    assert content(late) == {"image": 3.0, "text": 5.0}
    assert late.revision == 5


def test_a_whole_message_ends_what_it_does_not_bring_unless_that_is_newer() -> None:
    state = after(message(1, partial=False, text=1.0, audio=1.0), message(4, partial=True, image=4.0))
    assert content(merge(state, message(3, partial=False, text=3.0))) == {"image": 4.0, "text": 3.0}
    assert content(merge(state, message(4, partial=False, text=9.0))) == {"text": 9.0}
    assert merge(state, message(0, partial=False, text=0.0)) is None


def test_a_whole_message_older_than_a_part_still_brings_the_rest() -> None:
    state = after(message(5, partial=True, image=5.0), message(3, partial=False, image=3.0, text=3.0))
    assert content(state) == {"image": 5.0, "text": 3.0}


def test_the_same_message_again_changes_nothing() -> None:
    state = after(message(2, 7, partial=True, text=2.0))
    assert merge(state, message(2, 7, partial=True, text=2.0)) == state


def test_neighbours_stay_until_a_message_brings_others_or_a_whole_one_brings_none() -> None:
    state = after(message(2, partial=False, neighbors=("b", "c"), text=2.0))
    assert merge(state, message(3, partial=True, text=3.0)).neighbors == Named(2, ("b", "c"))
    assert merge(state, message(3, partial=True, neighbors=("d",))).neighbors == Named(3, ("d",))
    assert merge(state, message(3, partial=False, text=3.0)).neighbors is None
    later = after(message(2, partial=False, text=2.0), message(4, partial=True, neighbors=("d",)))
    assert merge(later, message(3, partial=False, neighbors=("b",), text=3.0)).neighbors == Named(4, ("d",))
    assert merge(later, message(3, partial=True, neighbors=("b",))) is None


def test_a_state_with_neighbours_is_the_same_after_it_was_written_and_marked_where_some_are_missing() -> None:
    state = after(message(1, 3, partial=False, neighbors=("b", "c"), text=1.0))
    waiting = state._replace(neighbors=Named(1, ("b", "c"), ("c",)))
    assert ItemState.decode(state.encode()) == state
    assert ItemState.decode(waiting.encode()) == waiting
    assert (is_marked(state.encode()), is_marked(waiting.encode())) == (False, True)
    assert ItemState.decode(waiting.without_parts().encode()).neighbors == waiting.neighbors


MESSAGES = st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(NAMES), min_size=1)), min_size=1, max_size=5)


@given(MESSAGES, st.data())
def test_any_order_of_arrival_leads_to_the_same_item(kinds: Any, data: Any) -> None:
    """Revisions are distinct, as those of one producer are."""
    messages = [
        message(
            revision, partial=partial, neighbors=(f"of {revision}",) if data.draw(st.booleans()) else (),
            **dict.fromkeys(sorted(names), float(revision)),
        )
        for revision, (partial, names) in enumerate(kinds)
    ]  # fmt: skip
    states = [after(*order) for order in permutations(messages)]
    assert len({tuple(sorted(content(state).items())) for state in states}) == 1
    assert len({state.neighbors for state in states}) == 1
    start = data.draw(st.integers(0, len(messages) - 1))
    assert content(after(*messages, *messages[start:])) == content(after(*messages)), "a replay changes nothing"


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sets(st.sampled_from(NAMES), min_size=1)), max_size=6))
def test_of_two_messages_with_one_revision_the_later_in_the_log_counts(kinds: Any) -> None:
    """Each message in the order of revisions, and of one revision in that of the log: the rule without the law."""
    messages = [
        message(revision, place, partial=partial, **dict.fromkeys(sorted(names), float(place)))
        for place, (revision, partial, names) in enumerate(kinds)
    ]
    expected: dict[str, float] = {}
    for each in sorted(messages, key=lambda message: message.revision):
        expected = {**(expected if each.partial else {}), **dict.fromkeys(each.features, float(each.record.offset))}
    assert content(after(*messages)) == expected


def test_a_state_is_the_same_after_it_was_written() -> None:
    state = after(message(1, 3, partial=False, text=1.0), message(2, 4, partial=True, image=0.5))
    assert ItemState.decode(state.encode()) == state
    assert len(state.without_parts().encode()) < 32
    whole = state._replace(parts={})
    assert ItemState.decode(whole.encode()) == whole


def test_a_quantised_feature_keeps_its_scale_however_it_is_written() -> None:
    quantised = Feature(encoder="e", dtype="i1", shape=(4,), data=bytes([1, 2, 3, 4]), scale=0.5)
    whole = message(1, 3, partial=False)._replace(features={"text": quantised})
    for state in (merged(None, whole, 3), merged(None, whole, 3, None, encoded(whole))):
        assert state is not None
        assert ItemState.decode(state.encode()).features["text"].scale == 0.5


@pytest.mark.parametrize("value", [b"", b"\x02\x00\x90", b"\x01\x00\xc1", b"\x01"])
def test_what_is_no_state_is_refused(value: bytes) -> None:
    with pytest.raises(StateError):
        ItemState.decode(value)


def test_the_digest_of_content_that_was_encoded_here_is_remembered_beside_its_feature() -> None:
    encoded = message(2, 1, partial=True, text=1.0)._replace(digests={"text": b"d" * 16})
    state = after(message(1, 0, partial=True, image=2.0), encoded)
    assert {name: part.digest for name, part in state.parts.items()} == {"image": None, "text": b"d" * 16}
    assert ItemState.decode(state.encode()) == state
    fields = {name: len(rest) for name, *rest in unpack(state.encode())[-1]}
    assert fields == {"image": 6, "text": 7}  # features that came as such are written as they were before
    made = after(message(1, 0, partial=True, image=2.0), encoded, message(3, 2, partial=True, text=3.0))
    assert made.parts["text"].digest is None


def priced(
    revision: int, offset: int = 0, *, partial: bool = True, features: tuple[str, ...] = (), **values: Any
) -> Item:
    return message(revision, offset, partial=partial, **dict.fromkeys(features, 1.0))._replace(attributes=values)


def values(state: ItemState | None) -> Mapping[str, object]:
    return {} if state is None else state.values


def test_each_attribute_is_that_of_the_newest_message_that_brought_it_and_a_whole_one_ends_the_others() -> None:
    state = after(
        priced(1, partial=False, features=("text",), price=1.0, tags=("a", "b"), stock=3),
        priced(3, price=3.0),
        priced(2, price=2.0, stock=2),
    )
    assert values(state) == {"price": 3.0, "stock": 2, "tags": ("a", "b")}
    assert merge(state, priced(2, price=9.0)) is None, "older than what is known"
    whole = merge(state, priced(2, partial=False, features=("text",), stock=7))
    assert values(whole) == {"price": 3.0, "stock": 7}
    assert values(merge(whole, priced(9, partial=False, features=("text",)))) == {}


def test_attributes_are_the_same_after_they_were_written_with_neighbours_and_without() -> None:
    state = after(priced(1, 3, partial=False, features=("text",), a=1, b=1.5, c="c", d=True, e=("x", "y"), f=()))
    waiting = state._replace(neighbors=Named(1, ("b",), ("b",)))
    assert (is_marked(state.encode()), is_marked(waiting.encode())) == (False, True)
    for each in (
        state,
        waiting,
        state.without_parts(),
        state._replace(made=Made(b"stamp", [b"data", ["text"], None, None, 0, None])),
    ):
        assert ItemState.decode(each.encode()) == each
    assert values(state.without_parts()) == values(state)
    assert list(ItemState.decode(state.encode()).values) == ["a", "b", "c", "d", "e", "f"]
    assert [type(value) for value in ItemState.decode(state.encode()).values.values()][3] is bool


def test_a_state_without_attributes_is_written_as_ever_and_one_with_them_can_be_read_by_who_knows_none() -> None:
    plain = after(message(1, 3, partial=False, text=1.0))
    assert len(unpack(plain.encode())) == 5
    *_, neighbors, _attributes, _made = unpack(after(priced(1, features=("text",), price=1.0)).encode())
    assert neighbors == [-1, [], []]


def test_a_vector_is_known_until_a_feature_or_a_neighbour_changes() -> None:
    made = Made(b"stamp", [b"data", ["text"], None, None, 0, None])
    state = after(priced(1, partial=False, features=("text",), price=1.0))._replace(made=made)
    assert merge(state, priced(2, price=2.0)).made == made
    assert merge(state, priced(2, partial=False, features=("text",), price=2.0)).made == made, "the same text again"
    assert merge(state, message(2, partial=True, text=9.0)).made is None
    assert merge(state, message(2, partial=True, image=1.0)).made is None
    assert merge(state, priced(2, partial=False, features=("image",), price=2.0)).made is None
    assert merge(state, message(2, partial=True, neighbors=("b",))).made is None
    assert state.without_parts().made is None


@given(st.lists(st.tuples(st.booleans(), st.sets(st.sampled_from(("price", "stock", "tags")))), min_size=1, max_size=5))
def test_any_order_of_arrival_leads_to_the_same_attributes(kinds: Any) -> None:
    messages = [
        priced(
            revision, partial=partial, features=() if partial else ("text",), **dict.fromkeys(sorted(names), revision)
        )
        for revision, (partial, names) in enumerate(kinds)
    ]
    assert len({tuple(values(after(*order)).items()) for order in permutations(messages)}) == 1


def encoded(item: Item) -> bytes | None:
    """Its message, where the decoder would hand it over."""
    if item.partial or item.neighbors:
        return None
    features = {name: as_model(each) for name, each in item.features.items()}
    return encode(NewItem(item_id="a", revision=item.revision, event_time_ms=item.event_time_ms, features=features))


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sets(st.sampled_from(NAMES), min_size=1)), max_size=6))
def test_what_came_with_one_message_is_what_it_would_be_packed_anew(kinds: Any) -> None:
    """After each message, whatever has come before it, and after it was written and read."""
    state = reference = None
    for offset, (revision, partial, names) in enumerate(kinds):
        item = message(revision, offset, partial=partial, **dict.fromkeys(names, float(offset + 1)))
        reference = merged(reference, item, offset) or reference
        state = merged(state, item, offset, None, encoded(item)) or state
        assert (state is None) == (reference is None)
        if state is None or reference is None:
            continue
        for each in (state, ItemState.decode(state.encode())):
            assert each._replace(message=None) == reference
            assert content(each) == content(reference)
        state = ItemState.decode(state.encode()) if offset % 2 else state


def test_a_whole_message_is_written_as_it_came_and_anything_more_is_not() -> None:
    whole = message(3, 7, partial=False, text=1.0, image=2.0)
    state = merged(None, whole, 7, None, encoded(whole))
    assert state is not None
    assert state.encode().endswith(encoded(whole) or b"")
    assert not is_marked(state.encode())
    assert ItemState.decode(state.encode()).encode() == state.encode(), "and after a restart, too"
    late = merge(state, message(4, 8, partial=True, audio=3.0))
    assert late is not None
    assert late.message is None
    assert content(ItemState.decode(late.encode())) == {"audio": 3.0, "image": 2.0, "text": 1.0}
    assert (
        ItemState.decode(state.without_parts().encode())
        == state.without_parts()
        == state._replace(parts={}, message=None)
    )


@pytest.mark.parametrize("cut", range(1, 40))
def test_a_message_that_is_cut_short_is_refused(cut: int) -> None:
    whole = message(3, 7, partial=False, text=1.0)
    state = merged(None, whole, 7, None, encoded(whole))
    assert state is not None
    with pytest.raises(StateError, match="remembered state"):
        ItemState.decode(state.encode()[:-cut])
