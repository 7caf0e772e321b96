from __future__ import annotations

import itertools
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import Content, Feature
from tests.unit.data.builders import WEIGHTS, event, item, rows_of
from tests.verifier.replay import features_of
from worker.data import Dataset, load_dataset
from worker.data.files import write_events, write_items
from worker.data.load import assemble
from worker.errors import ConfigError, DataError

CATALOGUE = [item("a"), item("b"), item("c")]


def dataset(items: Any, events: Any = (), weights: Any = WEIGHTS) -> Dataset:
    return assemble(items, events, weights).dataset


# ---------------------------------------------------------------------- items


def test_vectors_are_laid_out_in_the_order_of_the_ids() -> None:
    loaded = dataset([item("b", text=[[1, 2], [3, 4]]), item("c"), item("a", text=[5, 6], image=[7])])
    assert loaded.item_ids == ["a", "b", "c"]
    assert list(loaded.features) == ["image", "text"]
    text = loaded.features["text"]
    assert (text.encoder, text.dim) == ("text-encoder", 2)
    assert text.vectors_NK.tolist() == [[5, 6], [1, 2], [3, 4]]
    assert text.starts.tolist() == [0, 1, 3, 3]
    assert loaded.features["image"].present_I.tolist() == [True, False, False]


@pytest.mark.parametrize("dtype", ["f2", "f4", "bf2", "i1"])
def test_vectors_have_the_values_that_a_reader_of_the_wire_sees(dtype: str) -> None:
    feature = Feature.from_numpy([[0.1, -3.0], [2.5, 1e-3]], dtype=dtype, encoder="e")
    loaded = dataset([item("a").model_copy(update={"features": {"text": feature}})])
    np.testing.assert_array_equal(loaded.features["text"].vectors_NK, feature.to_numpy().astype(np.float32))


def test_the_newest_revision_of_an_item_counts() -> None:
    items = [item("a", 2, text=[2.0]), item("a", 10, text=[10.0]), item("a", 3, text=[3.0])]
    for order in itertools.permutations(items):
        loaded = assemble(order, (), WEIGHTS)
        assert loaded.dataset.features["text"].vectors_NK.tolist() == [[10.0]]
        assert loaded.left_out.superseded == 2


def test_partial_items_change_only_what_they_hold() -> None:
    items = [
        item("a", 1, text=[1.0], image=[1.0], neighbors=("b",)),
        item("a", 2, text=[2.0], partial=True),
        item("a", 3, image=[3.0], partial=True),
        item("b", 5, text=[5.0]),
        item("b", 4, image=[4.0], partial=True),
    ]
    for order in itertools.permutations(items):
        loaded = assemble(order, (), WEIGHTS)
        assert loaded.dataset.features["text"].vectors_NK.tolist() == [[2.0], [5.0]]
        assert loaded.dataset.features["image"].vectors_NK.tolist() == [[3.0]]
        assert loaded.dataset.neighbors == [(1,), ()]
        assert loaded.left_out.superseded == 1


def test_parts_without_a_whole_make_an_item() -> None:
    items = [item("a", 1, text=[1.0], partial=True), item("a", 2, image=[2.0], partial=True)]
    assert list(dataset(items).features) == ["image", "text"]


def test_raw_content_without_a_vector_is_counted() -> None:
    content = {"text": Content(text="It rains."), "image": Content(data=b"png")}
    loaded = assemble([item("a", text=[1.0], content=content), item("b", content=content)], (), WEIGHTS)
    assert loaded.left_out.unencoded == {"text": 1, "image": 2}
    assert list(loaded.dataset.features) == ["text"]


def test_neighbours_that_the_catalogue_lacks_are_left_out() -> None:
    loaded = dataset([item("a", neighbors=("c", "nowhere", "b")), item("b"), item("c", neighbors=("nowhere",))])
    assert loaded.neighbors == [(2, 1), (), ()]


def test_two_encoders_of_one_modality_are_both_named() -> None:
    other = Feature.from_numpy([1.0], encoder="other")
    items = [item("a", text=[1.0]), item("b").model_copy(update={"features": {"text": other}})]
    with pytest.raises(DataError, match=r"features\.text: item 'a' .*'text-encoder', item 'b' .*'other'"):
        dataset(items)


def test_two_sizes_of_one_modality_are_both_named() -> None:
    with pytest.raises(DataError, match=r"features\.image: item 'a' has vectors of 1 .* 'b' has vectors of 2 "):
        dataset([item("a", image=[1.0]), item("b", image=[1.0, 2.0])])


def test_no_items_is_an_error() -> None:
    with pytest.raises(DataError, match="no items"):
        dataset([])


# ---------------------------------------------------------------------- events


def test_events_are_in_order_of_time_and_of_equal_times_of_their_ids() -> None:
    events = [event("3", "u", "a", 7), event("2", "v", "b", 7), event("10", "u", "b", 7), event("0", "v", "c", 9)]
    for order in itertools.permutations(events):
        loaded = dataset(CATALOGUE, order)
        assert loaded.user_ids == ["u", "v"]
        assert rows_of(loaded.events) == [(0, 1, 7, 1.0), (1, 1, 7, 1.0), (0, 0, 7, 1.0), (1, 2, 9, 1.0)]


def test_an_event_that_came_twice_counts_once() -> None:
    events = [event("1", "u", "a", 1), event("2", "u", "a", 2), event("1", "u", "a", 1)]
    loaded = assemble(CATALOGUE, events, WEIGHTS)
    assert rows_of(loaded.dataset.events) == [(0, 0, 1, 1.0), (0, 0, 2, 1.0)]
    assert loaded.left_out.duplicates == 1


def test_of_different_events_with_one_id_the_latest_counts_in_any_order() -> None:
    events = [event("1", "u", "b", 3), event("1", "u", "b", 4), event("1", "v", "b", 4)]
    for order in itertools.permutations(events):
        loaded = assemble(CATALOGUE, order, WEIGHTS)
        assert rows_of(loaded.dataset.events) == [(1, 1, 4, 1.0)]
        assert loaded.left_out.duplicates == 2


def test_events_of_unknown_items_and_without_a_weight_are_left_out_and_counted() -> None:
    events = [
        event("1", "u", "a", 1),
        event("2", "u", "nowhere", 2),
        event("3", "nobody", "a", 3, "view"),
        event("4", "nobody", "a", 4, "scroll"),
        event("5", "u", "b", 5, "dislike"),
    ]
    loaded = assemble(CATALOGUE, events, WEIGHTS)
    assert loaded.dataset.user_ids == ["u"]
    assert rows_of(loaded.dataset.events) == [(0, 0, 1, 1.0), (0, 1, 5, -0.5)]
    assert loaded.left_out.unknown_items == 1
    assert loaded.left_out.unweighted == {"view": 1, "scroll": 1}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1e9])
def test_an_impossible_weight_is_named(weight: float) -> None:
    with pytest.raises(ConfigError, match="event weights: like="):
        dataset(CATALOGUE, (), {"like": weight})


# ---------------------------------------------------------------------- the whole

ids = st.sampled_from("abcde")
small_vectors = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=2, unique=True)
some_items = st.lists(
    st.builds(
        lambda item_id, revision, time_ms, features, partial: item(
            item_id, revision, time_ms, **features, partial=partial
        ),
        ids,
        st.integers(0, 3),
        st.integers(0, 3),
        st.dictionaries(st.sampled_from(["text", "image"]), small_vectors, min_size=1),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)
some_events = st.lists(
    st.builds(event, ids, ids, ids, st.integers(0, 3), st.sampled_from(["like", "dislike", "view"])), max_size=20
)


@given(items=some_items, events=some_events, seed=st.integers(0, 99))
@settings(deadline=None)
def test_the_order_of_the_messages_does_not_matter_but_where_items_claim_one_revision(
    items: Any, events: Any, seed: Any
) -> None:
    """Nor does that of events whose ids are used twice."""
    first = assemble(items, events, WEIGHTS)
    shuffled = random.Random(seed).sample(items, len(items))
    random.Random(seed).shuffle(events)
    places: dict[Any, Any] = {(each.item_id, each.revision): iter([]) for each in items}
    for key in places:
        places[key] = iter([each for each in items if (each.item_id, each.revision) == key])
    second = assemble([next(places[each.item_id, each.revision]) for each in shuffled], events, WEIGHTS)
    assert second.left_out == first.left_out
    assert second.dataset.fingerprint == first.dataset.fingerprint
    assert rows_of(second.dataset.events) == rows_of(first.dataset.events)


@given(items=some_items)
@settings(deadline=None)
def test_training_learns_from_the_items_that_the_stream_serves(items: Any) -> None:
    """Messages with equal revisions included. The stream is held to the same reference by the integration tests."""
    found = assemble(items, (), WEIGHTS).dataset
    of_items = {item_id: [each for each in items if each.item_id == item_id] for item_id in found.item_ids}
    served = {item_id: features_of(messages, {"text", "image"}) for item_id, messages in of_items.items()}
    for name, features in found.features.items():
        rows = iter(features.vectors_NK.tolist())
        learnt = [next(rows) if is_present else None for is_present in features.present_I]
        assert learnt == [each[name].to_numpy().tolist() if name in each else None for each in served.values()]


@given(items=some_items, events=some_events)
@settings(deadline=None)
def test_an_input_that_was_read_twice_changes_nothing(items: Any, events: Any) -> None:
    once, twice = assemble(items, events, WEIGHTS).dataset, assemble(items * 2, events * 2, WEIGHTS).dataset
    assert once.fingerprint == twice.fingerprint


@given(items=some_items, events=some_events)
@settings(deadline=None)
def test_every_event_read_is_in_the_dataset_or_counted(items: Any, events: Any) -> None:
    loaded = assemble(items, events, WEIGHTS)
    left_out = loaded.left_out
    num_left_out = left_out.duplicates + left_out.unknown_items + left_out.unweighted.total()
    assert len(loaded.dataset.events) + num_left_out == len(events)


def test_files_are_read_in_any_order_with_the_same_result(tmp_path: Path) -> None:
    items = [tmp_path / "items-1", tmp_path / "items-2.gz"]
    events = [tmp_path / "events-1.zst", tmp_path / "events-2"]
    write_items(items[0], [item("a", 1, text=[1.0]), item("b", 1)])
    write_items(items[1], [item("a", 2, text=[2.0])])
    write_events(events[0], [event("1", "u", "a", 1), event("2", "u", "b", 1)])
    write_events(events[1], [event("2", "u", "b", 1), event("3", "u", "a", 0)])
    forwards, backwards = load_dataset(items, events, WEIGHTS), load_dataset(items[::-1], events[::-1], WEIGHTS)
    assert forwards.dataset.fingerprint == backwards.dataset.fingerprint
    assert rows_of(forwards.dataset.events) == [(0, 0, 0, 1.0), (0, 0, 1, 1.0), (0, 1, 1, 1.0)]


BASE = ([item("a", text=[1.0]), item("b")], [event("1", "u", "a", 1), event("2", "v", "b", 2)])


@pytest.mark.parametrize(
    ("items", "events", "weights"),
    [
        ([item("a", text=[1.5]), item("b")], BASE[1], WEIGHTS),
        ([item("a"), item("b", text=[1.0])], BASE[1], WEIGHTS),
        ([item("a", image=[1.0]), item("b")], BASE[1], WEIGHTS),
        ([item("a", text=[1.0], neighbors=("b",)), item("b")], BASE[1], WEIGHTS),
        ([*BASE[0], item("c")], BASE[1], WEIGHTS),
        (BASE[0], BASE[1][:1], WEIGHTS),
        (BASE[0], [event("1", "u", "a", 1), event("2", "v", "b", 3)], WEIGHTS),
        (BASE[0], [event("1", "u", "a", 1), event("2", "w", "b", 2)], WEIGHTS),
        (BASE[0], BASE[1], {"like": 2.0}),
    ],
)
def test_another_content_has_another_fingerprint(items: list[Any], events: list[Any], weights: dict[str, Any]) -> None:
    assert dataset(items, events, weights).fingerprint != dataset(*BASE).fingerprint


def test_events_of_the_future_are_left_out_and_counted() -> None:
    now_ms = time.time_ns() // 1_000_000
    times = {"past": now_ms - 1_000, "soon": now_ms + 60_000, "later": now_ms + 365 * 86_400_000}
    loaded = assemble([item("a")], [event(name, "u", "a", time_ms) for name, time_ms in times.items()], {"like": 1.0})
    assert len(loaded.dataset.events) == 2
    assert loaded.left_out.future == 1


@pytest.mark.parametrize("others", [[], [1_767_225_600_000]])
def test_events_whose_times_are_seconds_are_refused(others: list[Any]) -> None:
    times = [0, 1_767_225_600, 1_767_225_700, *others]
    events = [event(f"e{number}", "u", "a", time_ms) for number, time_ms in enumerate(times)]
    with pytest.raises(DataError, match="event_time_ms of 2 events looks like seconds"):
        assemble([item("a")], events, {"like": 1.0})


def test_times_that_count_from_zero_are_times() -> None:
    events = [event(f"e{day}", "u", "a", day * 86_400_000) for day in range(100)]
    assert len(assemble([item("a")], events, {"like": 1.0}).dataset.events) == 100


def test_features_that_say_nothing_are_left_out_and_counted() -> None:
    loaded = assemble([item("a", text=[1, 2], image=[0, 0]), item("b", text=[[0, 0], [3, 4]])], [], {"like": 1.0})
    assert list(loaded.dataset.features) == ["text"]
    assert loaded.dataset.features["text"].vectors_NK.tolist() == [[1, 2], [3, 4]]
    assert loaded.left_out.uninformative == {"image": 1, "text": 1}
    kept = assemble([item("a", text=[1, 2]), item("a", 2, text=[0, 0], partial=True)], [], {"like": 1.0})
    assert kept.dataset.features["text"].vectors_NK.tolist() == [[1, 2]]


def test_a_feature_too_large_to_compute_with_names_its_item() -> None:
    with pytest.raises(DataError, match=r"item 'a': features\.text\.data: holds values beyond"):
        assemble([item("a", text=[3e38, 1])], [], {"like": 1.0})


def test_vectors_of_a_large_catalogue_lie_in_a_file_and_say_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    messages = [item(f"i{number}", text=[[float(number), 1.0]]) for number in range(5)]
    in_memory = assemble(messages, [], WEIGHTS).dataset
    monkeypatch.setattr("worker.data.load.MAPPED_FROM", 1)
    mapped = assemble(messages, [], WEIGHTS).dataset
    assert isinstance(mapped.features["text"].vectors_NK.base, np.memmap)
    assert mapped.fingerprint == in_memory.fingerprint

    def no_room(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", no_room)
    without = assemble(messages, [], WEIGHTS).dataset
    assert not isinstance(without.features["text"].vectors_NK.base, np.memmap)
    assert without.fingerprint == in_memory.fingerprint
