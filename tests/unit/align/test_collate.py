"""Bytes to tensors: what each vector becomes and where it goes, for every way that items can look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.align.builders import Item, feature, make_items, spec, values_of, with_gaps
from worker.align.collate import Collator
from worker.align.collated import Collated
from worker.align.features import ElementType
from worker.align.padding import PaddedSizes, rising_sizes
from worker.align.spec import ModalitySpec, SpaceSpec
from worker.errors import ConfigError

SEVERAL = spec({"text": 5, "frames": ModalitySpec(dim=3, max_vectors=4)})
DTYPES: list[ElementType] = ["f2", "f4", "bf2", "i1"]


def collate(of: SpaceSpec, items: list[Item], sizes: PaddedSizes | None = None) -> Collated:
    batch = Collator(of, sizes or rising_sizes(64)).collate(items)
    assert batch is not None
    return batch


def vectors_by_slot(of: SpaceSpec, batch: Collated) -> dict[tuple[int, str, int], NDArray[np.float64]]:
    """What a batch holds, read back by its documented layout: (item, modality, number) to vector."""
    remaining = iter(batch.tensors)
    rows: list[NDArray[np.float64]] = []
    for part in batch.layout.parts:
        for dtype in part.dtypes:
            vectors = next(remaining).double().view(-1, of.modalities[part.name].dim)
            rows += list((vectors * next(remaining)[:, None] if dtype == "i1" else vectors).numpy())
    slots = [(part.name, number) for part in batch.layout.parts for number in range(part.num_slots)]
    if batch.layout.dense:
        positions = 1 + np.arange(batch.size)[:, None] + batch.size * np.arange(len(slots))
    else:
        positions = next(remaining).numpy()
    assert positions.shape == (batch.size, len(slots))
    return {
        (item, *slots[slot]): rows[position - 1]
        for item, of_item in enumerate(positions[: len(batch.modalities)])
        for slot, position in enumerate(of_item)
        if position
    }


def expected_vectors(items: list[Item]) -> dict[tuple[int, str, int], NDArray[np.float64]]:
    return {
        (index, name, number): vector
        for index, item in enumerate(items)
        for name, source in item.items()
        for number, vector in enumerate(values_of(source))
    }


def assert_holds(of: SpaceSpec, batch: Collated, items: list[Item]) -> None:
    found, expected = vectors_by_slot(of, batch), expected_vectors(items)
    assert found.keys() == expected.keys()
    for place, vector in expected.items():
        np.testing.assert_allclose(found[place], vector, rtol=1e-6)
    assert batch.modalities == [tuple(sorted(item)) for item in items]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_items_with_everything(dtype: ElementType, count: int) -> None:
    items = make_items(spec(), count, dtype=dtype)
    batch = collate(spec(), items)
    assert batch.layout.dense
    assert batch.size == rising_sizes(64).at_least(count)
    assert_holds(spec(), batch, items)


@pytest.mark.parametrize("dtype", DTYPES)
def test_items_with_gaps(dtype: ElementType) -> None:
    items = with_gaps(make_items(spec(), 21, dtype=dtype))
    batch = collate(spec(), items)
    assert not batch.layout.dense
    assert_holds(spec(), batch, items)


def test_element_types_mixed_within_a_modality() -> None:
    items = [make_items(spec(), 1, seed=n, dtype=DTYPES[n % 4])[0] for n in range(11)]
    batch = collate(spec(), items)
    assert [part.dtypes for part in batch.layout.parts] == [("bf2", "f2", "f4", "i1")] * 3
    assert_holds(spec(), batch, items)


def test_several_vectors_of_a_modality() -> None:
    random = np.random.default_rng(0)
    shapes: list[tuple[int, ...]] = [(3,), (1, 3), (4, 3), (2, 3)]
    items: list[Item] = [
        {"text": feature(random.standard_normal(5)), "frames": feature(random.standard_normal(shape), dtype)}
        for shape in shapes
        for dtype in DTYPES
    ]
    items.append({"text": feature(random.standard_normal(5))})
    assert_holds(SEVERAL, collate(SEVERAL, items), items)


def test_room_is_made_for_the_most_vectors_in_the_batch() -> None:
    items: list[Item] = [{"frames": feature(np.ones((count, 3)))} for count in (1, 2, 1)]
    (part,) = collate(SEVERAL, items).layout.parts
    assert part.num_slots == 2


def test_a_modality_that_no_item_has_is_left_out() -> None:
    items: list[Item] = [{"text": feature(np.ones(24))}, {"text": feature(np.ones(24))}]
    batch = collate(spec(), items)
    assert [part.name for part in batch.layout.parts] == ["text"]
    assert batch.layout.dense


def test_an_item_without_features_takes_no_vector_from_others() -> None:
    items: list[Item] = [make_items(spec(), 1)[0], {}, make_items(spec(), 1, seed=1)[0]]
    assert_holds(spec(), collate(spec(), items), items)


def test_no_features_at_all_is_no_batch() -> None:
    assert Collator(spec(), rising_sizes(4)).collate([{}, {}]) is None
    assert Collator(spec(), rising_sizes(4)).collate([]) is None
    assert Collator(spec(), rising_sizes(4, [4])).collate([{}, {}]) is None


@pytest.mark.parametrize("of", [spec(), SEVERAL])
def test_with_one_size_every_batch_has_the_same_shapes(of: SpaceSpec) -> None:
    sizes = rising_sizes(8, [8])
    everything = make_items(of, 8)
    batches = [everything, everything[:1], with_gaps(everything), [{"text": everything[0]["text"]}]]
    for items in batches:
        batch = collate(of, items, sizes)
        assert_holds(of, batch, items)
        assert batch.size == 8
        assert {part.name: part.num_slots for part in batch.layout.parts} == {
            name: part.max_vectors for name, part in of.modalities.items()
        }
        for part, vectors in zip([part for part in batch.layout.parts if part.dtypes], batch.tensors, strict=False):
            assert vectors.numel() == 8 * part.num_slots * of.modalities[part.name].dim


def test_the_order_of_modalities_in_an_item_does_not_matter() -> None:
    items = make_items(spec(), 3)
    backwards = [dict(reversed(item.items())) for item in items]
    one, other = collate(spec(), items), collate(spec(), backwards)
    assert one.layout == other.layout
    assert all(torch.equal(a, b) for a, b in zip(one.tensors, other.tensors, strict=True))


@pytest.mark.parametrize("others", [0, 3])
@pytest.mark.parametrize("size", [0, 95, 97, 192])
def test_bytes_that_do_not_fit_are_an_error_and_never_shift_another_item(others: int, size: int) -> None:
    items = make_items(spec(), others)
    items.append({"text": feature(np.ones(24))})
    source = items[-1]["text"]
    items[-1]["text"] = type(source)(source.encoder, source.dtype, source.shape, bytes(size))
    with pytest.raises(ValueError, match=r"features\.text\.data: not the bytes"):
        collate(spec(), items)


def test_two_wrong_sizes_that_add_up_are_still_an_error() -> None:
    frames = [feature(np.ones((count, 3))) for count in (1, 2)]
    swapped: list[Item] = [
        {"frames": type(frames[0])("any", "f4", (1, 3), frames[1].data)},
        {"frames": type(frames[0])("any", "f4", (2, 3), frames[0].data)},
    ]
    with pytest.raises(ValueError, match=r"features\.frames\.data: not the bytes"):
        collate(SEVERAL, swapped)


@pytest.mark.parametrize("count", [0, 5])
def test_more_vectors_than_the_space_takes_are_an_error(count: int) -> None:
    items: list[Item] = [{"frames": feature(np.ones((count, 3)))}]
    with pytest.raises(ValueError, match=f"features.frames: an item has {count} vectors"):
        collate(SEVERAL, items)


@pytest.mark.parametrize(("count", "padded"), [(0, 1), (1, 1), (3, 4), (64, 64), (65, 100), (100, 100), (101, 200)])
def test_sizes_rise_by_powers_of_two_to_the_largest_batch(count: int, padded: int) -> None:
    assert rising_sizes(100).at_least(count) == padded


@pytest.mark.parametrize("sizes", [[], [0, 8], [8, 4], [4, 4, 8], [4], [-1, 8]])
def test_sizes_that_cannot_be_used_name_the_setting(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"batch\.padded_sizes"):
        rising_sizes(8, sizes)
