"""What the vectors of a space promise, from feature bytes to published bytes."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import schemas
from tests.unit.align.builders import (
    Item,
    feature,
    make_items,
    make_space,
    normalised,
    plain_alone,
    plain_vector,
    spec,
    values_of,
    with_gaps,
)
from worker.align.collated import Collated
from worker.align.command import BATCH_TOLERANCE
from worker.align.contract import Contract
from worker.align.errors import OutOfMemoryError
from worker.align.features import ElementType
from worker.align.graph import GraphedModel
from worker.align.result import UNIT_TOLERANCE
from worker.align.runtime import AlignRuntime
from worker.align.space import Space, create_space
from worker.align.spec import ModalitySpec
from worker.align.warm_up import MIN_COSINE

SPEC = spec({"text": 24, "image": 17, "frames": ModalitySpec(dim=9, max_vectors=5)}, layers=2)
DTYPES = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return make_space(tmp_path_factory.mktemp("space"), SPEC)


@pytest.fixture(scope="module")
def runtimes(space: Space) -> dict[str, AlignRuntime]:
    return {dtype: runtime(space, dtype=dtype) for dtype in DTYPES}


@pytest.fixture(scope="module")
def exact(runtimes: dict[str, AlignRuntime]) -> AlignRuntime:
    return runtimes["float32"]


def runtime(of: Space, **options: object) -> AlignRuntime:
    return AlignRuntime(of, **{"device": "cpu", "dtype": "float32", "threads": 1, "max_batch": 64, **options})  # type: ignore[arg-type]


def varied(count: int, seed: int = 0) -> list[Item]:
    """Items with gaps, several vectors and every element type."""
    random = np.random.default_rng(seed)
    dtypes = itertools.cycle(("f2", "f4", "bf2", "i1"))
    items = with_gaps(make_items(SPEC, count, seed), seed)
    for item, dtype in zip(items, dtypes, strict=False):
        if "frames" in item:
            item["frames"] = feature(random.standard_normal((random.integers(1, 6), 9)), dtype)
    return items


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_vectors_are_those_of_the_plain_model(tmp_path: Path, layers: int) -> None:
    space = make_space(tmp_path, spec(SPEC.modalities, layers=layers))
    items = varied(40)
    vectors = runtime(space).embed(items).vectors
    expected = np.stack([plain_vector(space, item) for item in items])
    np.testing.assert_allclose(vectors, expected, rtol=0, atol=2e-6)


def test_bfloat16_vectors_agree_with_the_plain_model(space: Space, runtimes: dict[str, AlignRuntime]) -> None:
    items = varied(40)
    expected = np.stack([plain_vector(space, item) for item in items])
    cosines = (runtimes["bfloat16"].embed(items).vectors * expected).sum(1)
    assert cosines.min() >= MIN_COSINE


@pytest.mark.parametrize("dtype", ["f2", "f4", "bf2", "i1"])
def test_every_element_type_is_read_for_what_it_stands_for(
    space: Space, exact: AlignRuntime, dtype: ElementType
) -> None:
    items = make_items(SPEC, 9, dtype=dtype)
    expected = np.stack([plain_vector(space, item) for item in items])
    np.testing.assert_allclose(exact.embed(items).vectors, expected, rtol=0, atol=2e-6)


def test_the_scale_of_integers_counts_between_vectors_of_one_item(space: Space, exact: AlignRuntime) -> None:
    item = {"frames": feature(np.random.default_rng(0).standard_normal((3, 9)), "i1")}
    np.testing.assert_allclose(exact.embed([item]).vectors[0], plain_vector(space, item), rtol=0, atol=2e-6)


@pytest.mark.parametrize("dtype", ["f2", "f4", "bf2", "i1"])
def test_features_of_the_wire_schema_are_features(exact: AlignRuntime, dtype: ElementType) -> None:
    values = np.random.default_rng(0).standard_normal((3, 9)).astype(np.float32)
    ours = feature(values, dtype)
    wire = schemas.Feature(encoder="any", dtype=dtype, shape=(3, 9), data=ours.data, scale=ours.scale)
    items = [{"frames": wire}, {"frames": ours}]
    assert Contract(SPEC).check(items[0]) is items[0]
    one, other = exact.embed(items).rows("f4")
    assert one == other


def test_one_vector_as_a_matrix_is_the_same_as_flat(exact: AlignRuntime) -> None:
    values = np.random.default_rng(0).standard_normal(9)
    flat, matrix = exact.embed([{"frames": feature(values)}]), exact.embed([{"frames": feature(values[None])}])
    assert np.allclose(flat.vectors, matrix.vectors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_set_of_modalities_gives_a_unit_vector(runtimes: dict[str, AlignRuntime], dtype: str) -> None:
    (full,) = make_items(SPEC, 1)
    sets = [names for size in range(1, 4) for names in itertools.combinations(full, size)]
    items = [{name: full[name] for name in names} for names in sets]
    embedded = runtimes[dtype].embed(items)
    assert embedded.bad_rows == {}
    assert embedded.modalities == [tuple(sorted(names)) for names in sets]
    assert np.abs(np.linalg.norm(embedded.vectors.astype(np.float64), axis=1) - 1).max() <= UNIT_TOLERANCE["f4"]
    assert len({row.tobytes() for row in embedded.vectors}) == len(sets)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_order_of_modalities_in_an_item_does_not_matter(runtimes: dict[str, AlignRuntime], dtype: str) -> None:
    items = varied(12)
    backwards = [dict(reversed(item.items())) for item in items]
    one, other = (runtimes[dtype].embed(order) for order in (items, backwards))
    assert one.rows("f4") == other.rows("f4")
    assert one.modalities == other.modalities


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_gives_what_its_items_give_one_by_one(runtimes: dict[str, AlignRuntime], dtype: str) -> None:
    items = varied(50)
    together = runtimes[dtype].embed(items).vectors
    alone = np.concatenate([runtimes[dtype].embed([item]).vectors for item in items])
    assert np.abs(together - alone).max() <= BATCH_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [13, 16, 64])
def test_with_one_padded_size_vectors_are_bit_identical_whatever_the_batch(space: Space, dtype: str, size: int) -> None:
    fixed = runtime(space, dtype=dtype, max_batch=size, padded_sizes=[size])
    items = [*varied(30), *make_items(SPEC, 10, seed=4)]
    together = fixed.embed(items).rows("f4")
    assert [fixed.embed([item]).rows("f4")[0] for item in items] == together
    order = np.random.default_rng(0).permutation(len(items))
    assert fixed.embed([items[index] for index in order]).rows("f4") == [together[index] for index in order]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_input_gives_the_same_bytes_in_another_runtime(space: Space, dtype: str) -> None:
    items = varied(20)
    one, other = (runtime(space, dtype=dtype).embed(items).rows("f2") for _ in range(2))
    assert one == other


def test_calls_larger_than_a_batch_are_split(space: Space, exact: AlignRuntime) -> None:
    small = runtime(space, max_batch=7)
    items = varied(23)
    split, whole = small.embed(items), exact.embed(items)
    assert np.abs(split.vectors - whole.vectors).max() <= BATCH_TOLERANCE["float32"]
    assert split.modalities == whole.modalities


def test_no_items_give_no_vectors(exact: AlignRuntime) -> None:
    assert exact.embed([]).vectors.shape == (0, SPEC.dim)
    assert exact.embed([]).rows("f2") == []


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("arrange", [lambda items: items, with_gaps])
def test_a_poisonous_item_is_reported_and_touches_no_other(
    runtimes: dict[str, AlignRuntime], dtype: str, poison: float, arrange: Callable[[list[Item]], list[Item]]
) -> None:
    items = arrange(make_items(SPEC, 20))
    clean = runtimes[dtype].embed(items)
    for row in (0, 7, 19):
        poisoned = list(items)
        values = np.random.default_rng(0).standard_normal(17)
        values[3] = poison
        poisoned[row] = {**items[row], "image": feature(values)}
        if poison == 3e38:
            poisoned[row]["image"] = feature(values * 2.0 ** np.arange(17))
        embedded = runtimes[dtype].embed(poisoned)
        assert list(embedded.bad_rows) == [row]
        assert "image" in embedded.bad_rows[row]
        assert not embedded.vectors[row].any()
        others = [index for index in range(20) if index != row]
        assert np.abs(embedded.vectors[others] - clean.vectors[others]).max() <= BATCH_TOLERANCE[dtype]


@pytest.mark.parametrize("modality_vectors", [False, True])
@pytest.mark.parametrize("arrange", [lambda items: items, with_gaps])
def test_a_row_that_its_neighbour_spoils_on_its_way_through_the_processor_is_computed_again_alone(
    space: Space,
    monkeypatch: pytest.MonkeyPatch,
    arrange: Callable[[list[Item]], list[Item]],
    modality_vectors: bool,
) -> None:
    """As tiles of AMX do it in bfloat16, on any processor: what is not finite reaches the rows beside it."""
    fixed = runtime(space, max_batch=32, padded_sizes=[32], modality_vectors=modality_vectors)
    items = arrange(make_items(SPEC, 20))
    clean = fixed.embed(items)
    compute = GraphedModel.__call__

    def spoiling(model: GraphedModel, batch: Collated) -> list[np.ndarray]:
        outputs = compute(model, batch)
        bad = np.flatnonzero(~np.isfinite(outputs[1]))
        for output in outputs:
            output[[row for bad_row in bad for row in (bad_row - 1, bad_row + 1) if 0 <= row < len(output)]] = np.nan
        return outputs

    monkeypatch.setattr(GraphedModel, "__call__", spoiling)
    poisoned = list(items)
    for row in (0, 7, 8, 19):
        poisoned[row] = {**items[row], "image": feature(np.full(17, np.inf))}
    embedded = fixed.embed([*poisoned, {}])
    assert list(embedded.bad_rows) == [0, 7, 8, 19, 20]
    assert "image" in embedded.bad_rows[7]
    assert embedded.modalities[:20] == [tuple(sorted(item)) for item in poisoned]
    others = [row for row in range(20) if row not in (0, 7, 8, 19)]
    assert np.array_equal(embedded.vectors[others], clean.vectors[others])
    assert not embedded.vectors[[0, 7, 8, 19, 20]].any()
    if modality_vectors:
        assert embedded.modality_vectors is not None
        assert clean.modality_vectors is not None
        for name, vectors in embedded.modality_vectors.items():
            assert np.array_equal(vectors[others], clean.modality_vectors[name][others])
            assert not vectors[[0, 7, 8, 19, 20]].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_finite_neighbour_however_large_adds_nothing(space: Space, dtype: str) -> None:
    """What a processor reads beyond the end of a row is multiplied with exactly 0."""
    fixed = runtime(space, dtype=dtype, max_batch=32, padded_sizes=[32])
    items = make_items(SPEC, 20)
    clean = fixed.embed(items).rows("f4")
    for factor in (1e-30, 1e15, 1e18):
        scaled = [
            {name: feature(values_of(part)[0] * factor, "f4") for name, part in item.items()} if row % 2 else item
            for row, item in enumerate(items)
        ]
        assert fixed.embed(scaled).rows("f4")[::2] == clean[::2]


def test_an_item_without_a_modality_is_a_bad_row(exact: AlignRuntime) -> None:
    items = make_items(SPEC, 2)
    embedded = exact.embed([items[0], {}, items[1], {"smell": items[0]["text"]}])
    assert embedded.bad_rows == dict.fromkeys((1, 3), "features: the item has no modality of the space")
    assert embedded.modalities[1] == embedded.modalities[3] == ()
    assert not embedded.vectors[[1, 3]].any()
    assert list(exact.embed([{}]).bad_rows) == [0]


@pytest.mark.parametrize("values", [np.zeros(24), np.full(24, 3.25), np.full(24, 1e-30)])
def test_constant_features_still_give_a_unit_vector(exact: AlignRuntime, values: np.ndarray) -> None:
    embedded = exact.embed([{"text": feature(values)}])
    assert embedded.bad_rows == {}
    assert np.linalg.norm(embedded.vectors[0]) == pytest.approx(1, abs=UNIT_TOLERANCE["f4"])


@pytest.mark.parametrize("options", [{}, {"padded_sizes": [16], "max_batch": 16}])
def test_a_modality_vector_is_the_vector_of_that_modality_alone(space: Space, options: dict[str, object]) -> None:
    items = varied(20)
    embedded = runtime(space, modality_vectors=True, **options).embed(items)
    plain = runtime(space, **options)
    assert embedded.modality_vectors is not None
    for name, vectors in embedded.modality_vectors.items():
        assert vectors.any(1).tolist() == [name in item for item in items]
    assert np.abs(embedded.vectors - plain.embed(items).vectors).max() <= BATCH_TOLERANCE["float32"]
    for item, rows in zip(items, embedded.modality_rows("f4"), strict=True):
        assert list(rows) == sorted(item)
        for name, row in rows.items():
            expected = plain_alone(space, name, item[name])
            assert np.abs(np.frombuffer(row, "<f4") - expected).max() <= BATCH_TOLERANCE["float32"]


def test_modality_vectors_of_items_without_any_are_empty(space: Space) -> None:
    embedded = runtime(space, modality_vectors=True).embed([{}, make_items(SPEC, 1)[0], {}])
    assert [list(rows) for rows in embedded.modality_rows("f2")] == [[], ["frames", "image", "text"], []]
    assert runtime(space, modality_vectors=True).embed([{}]).modality_rows("f2") == [{}]


def test_features_that_do_not_fit_their_shape_are_an_error(exact: AlignRuntime) -> None:
    (item,) = make_items(SPEC, 1)
    text = item["text"]
    item["text"] = type(text)(text.encoder, text.dtype, text.shape, text.data[:-1])
    with pytest.raises(ValueError, match=r"features\.text\.data"):
        exact.embed([item])


def test_running_out_of_memory_is_typed_and_the_next_batch_works(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    small = runtime(space)
    items = make_items(SPEC, 4)
    expected = small.embed(items).vectors
    compute = GraphedModel.__call__

    def without_memory_for_more_than_two(model: GraphedModel, batch: object) -> object:
        if len(batch.modalities) > 2:  # type: ignore[attr-defined]
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return compute(model, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(GraphedModel, "__call__", without_memory_for_more_than_two)
    with pytest.raises(OutOfMemoryError, match="no memory for this batch"):
        small.embed(items)
    halves = np.concatenate([small.embed(half).vectors for half in (items[:2], items[2:])])
    assert np.abs(halves - expected).max() <= BATCH_TOLERANCE["float32"]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_thread_that_embeds_has_the_threads_that_were_set(space: Space, threads: int) -> None:
    """The number of threads belongs to the thread that sets it, and warming up may be another's work."""
    before = torch.get_num_threads()
    busy = runtime(space, threads=threads)
    busy.warm_up()
    seen: list[int] = []

    def compute() -> None:
        torch.set_num_threads(3)
        torch.ones(4) + 1
        busy.embed(make_items(SPEC, 2))
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    torch.set_num_threads(before)
    assert seen == [threads]


def test_threads_default_to_one_less_than_the_cores(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, threads in ((1, 1), (2, 1), (8, 7)):
        monkeypatch.setattr("worker.align.runtime.available_cores", lambda cores=cores: cores)
        assert runtime(space, threads=0).threads == threads


def test_the_probe_passes_on_a_good_space(exact: AlignRuntime) -> None:
    exact.probe()


def test_gradients_and_random_state_are_left_alone(exact: AlignRuntime) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    exact.embed(make_items(SPEC, 3))
    assert torch.equal(torch.rand(1), expected)
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_untrained_space_keeps_the_neighbourhoods_of_its_features(tmp_path: Path, seed: int) -> None:
    """A planted structure: each modality shows the item's topic through noise as large as the differences."""
    of = spec({"text": 48, "image": 32, "audio": 24}, dim=64)
    random = np.random.default_rng(seed)
    centres = {name: random.standard_normal((6, part.dim)) for name, part in of.modalities.items()}
    topic_of_item = np.repeat(np.arange(6), 20)
    items: list[Item] = [
        {name: feature(centre[topic] + random.standard_normal(centre.shape[1])) for name, centre in centres.items()}
        for topic in topic_of_item
    ]
    vectors = runtime(create_space(tmp_path, of, seed), max_batch=128).embed(items).vectors
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -1)
    assert (topic_of_item[similarity.argmax(1)] == topic_of_item).mean() > 0.95  # by chance 0.16
    np.fill_diagonal(similarity, np.nan)
    same = topic_of_item[:, None] == topic_of_item
    assert np.nanmean(similarity[same]) > np.nanmean(similarity[~same]) + 0.3


def test_an_untrained_space_averages_random_projections_of_what_an_item_has(tmp_path: Path) -> None:
    space = create_space(tmp_path, spec(SPEC.modalities), seed=3)
    weights = {name: tensor.double().numpy() for name, tensor in space.weights.items()}
    items = varied(20)
    for item, vector in zip(items, runtime(space).embed(items).vectors, strict=True):
        tokens = [
            normalised(weights[f"head_{name}.weight"] @ normalised(row, 1e-6) + weights[f"head_{name}.bias"])
            for name, source in item.items()
            for row in values_of(source)
        ]
        average = normalised(np.mean(tokens, axis=0))
        np.testing.assert_allclose(vector, average / np.linalg.norm(average), rtol=0, atol=1e-5)
