"""What holds for a space with all there is: every kind of fusion, beside it a content block, a prior and places."""

from __future__ import annotations

from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.align.builders import Item, feature, make_space, values_of
from worker.align.command import BATCH_TOLERANCE
from worker.align.model import NeighborAttention
from worker.align.result import UNIT_TOLERANCE
from worker.align.runtime import AlignRuntime
from worker.align.space import Space
from worker.align.spec import SpaceSpec

MODALITIES: dict[str, dict[str, Any]] = {
    "audio": {"dim": 7},
    "behavior": {"dim": 5},
    "frames": {"dim": 9, "max_vectors": 4, "ordered": True},
    "image": {"dim": 11, "max_vectors": 3, "content_dim": 4},
    "text": {"dim": 13, "content_dim": 5},
}
FUSIONS: list[dict[str, Any]] = [
    {"kind": "self_attention", "layers": 2, "heads": 4, "hidden": 24},
    {"kind": "cross_attention", "heads": 4, "hidden": 24, "query": "text"},
    {"kind": "gated", "hidden": 24},
    {"kind": "concat_mlp", "hidden": 24},
]
MAPPED = ("self_attention", "concat_mlp")
"""Kinds whose spaces here have vectors of single modalities that are maps of features, and another weight of content in
new items: it makes no difference to the fusion."""
LEARNED, CONTENT = 15, 9
PATTERNS = list(chain.from_iterable(combinations(MODALITIES, size) for size in range(1, len(MODALITIES) + 1)))

patterns = st.sampled_from(PATTERNS)


def _modalities(kind: str) -> dict[str, Any]:
    """Ordered frames, where the fusion knows an order."""
    return MODALITIES | {"frames": MODALITIES["frames"] | {"ordered": kind != "concat_mlp"}}


@pytest.fixture(scope="module", params=FUSIONS, ids=lambda fusion: fusion["kind"])
def space(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Space:
    spec = SpaceSpec.model_validate(
        {
            "dim": LEARNED + CONTENT,
            "width": 16,
            "modalities": _modalities(request.param["kind"]),
            "fusion": request.param,
            "content_weight": 0.7,
            "new": {"lacking": "behavior", "content_weight": 5.0} if request.param["kind"] in MAPPED else None,
            "mapped": request.param["kind"] in MAPPED,
            "prior": "behavior",
        }
    )
    return make_space(tmp_path_factory.mktemp("space"), spec)


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def runtime(request: pytest.FixtureRequest, space: Space) -> AlignRuntime:
    return AlignRuntime(space, device="cpu", dtype=request.param, threads=1, max_batch=32, modality_vectors=True)


@pytest.fixture(scope="module")
def exact(space: Space) -> AlignRuntime:
    return AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=32)


def item(pattern: tuple[str, ...], seed: int) -> Item:
    """An item with these modalities, of as many vectors as its seed says."""
    random = np.random.default_rng(seed)
    made = {}
    for name in pattern:
        dim, most = MODALITIES[name]["dim"], MODALITIES[name].get("max_vectors", 1)
        made[name] = feature(random.standard_normal((random.integers(1, most + 1), dim)))
    return made


quick = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_every_set_of_modalities_gives_finite_unit_vectors(runtime: AlignRuntime) -> None:
    embedded = runtime.embed([item(pattern, seed) for seed, pattern in enumerate(PATTERNS)])
    assert not embedded.bad_rows
    assert np.abs(np.linalg.norm(embedded.vectors, axis=1) - 1).max() < UNIT_TOLERANCE["f4"]
    assert np.isfinite(embedded.priors).all()
    assert embedded.modality_vectors is not None
    for name, alone in embedded.modality_vectors.items():
        has = np.array([name in pattern for pattern in PATTERNS])
        assert np.abs(np.linalg.norm(alone[has], axis=1) - 1).max() < UNIT_TOLERANCE["f4"]
        assert not alone[~has].any()


@quick
@given(st.lists(patterns, min_size=2, max_size=24), st.integers(0, 2**20))
def test_a_vector_does_not_depend_on_its_batch(runtime: AlignRuntime, chosen: list[tuple[str, ...]], seed: int) -> None:
    items = [item(pattern, seed + row) for row, pattern in enumerate(chosen)]
    together = runtime.embed(items)
    tolerance = BATCH_TOLERANCE[runtime.report.dtype]
    for row in (0, len(items) - 1):
        alone = runtime.embed([items[row]])
        np.testing.assert_allclose(alone.vectors[0], together.vectors[row], rtol=0, atol=tolerance)
        np.testing.assert_allclose(alone.priors[0], together.priors[row], rtol=tolerance, atol=4 * tolerance)


@quick
@given(patterns, patterns, st.integers(0, 2**20))
def test_what_other_items_hold_of_a_missing_modality_changes_nothing(
    exact: AlignRuntime, own: tuple[str, ...], others: tuple[str, ...], seed: int
) -> None:
    """The batch has room for the modality, and what is not there is masked: to the bit."""
    ours, theirs = item(own, seed), item(others, seed + 1)
    wild = {
        name: feature(1e6 * values_of(each).astype(np.float64)) if name not in own else each
        for name, each in theirs.items()
    }
    np.testing.assert_array_equal(exact.embed([ours, theirs]).vectors[0], exact.embed([ours, wild]).vectors[0])


@quick
@given(st.permutations(list(MODALITIES)), st.integers(0, 2**20))
def test_the_order_of_modalities_changes_nothing(exact: AlignRuntime, order: list[str], seed: int) -> None:
    whole = item(tuple(MODALITIES), seed)
    shuffled = {name: whole[name] for name in order}
    np.testing.assert_array_equal(exact.embed([shuffled]).vectors, exact.embed([whole]).vectors)


def test_more_of_a_new_item_is_content_and_of_others_nothing_changes(space: Space, exact: AlignRuntime) -> None:
    new, known = (exact.embed([item(pattern, 3)]).vectors[0] for pattern in (("text",), ("behavior", "text")))
    content = slice(LEARNED, None)
    share = {name: float((each[content] ** 2).sum()) for name, each in (("new", new), ("known", known))}
    of_content = 0.5  # one of the two modalities that have a part in the block
    expected = 5.0 if space.spec.new is not None else 0.7
    assert share["new"] == pytest.approx(of_content * expected / (1 + of_content * expected), abs=1e-5)
    assert share["known"] == pytest.approx(of_content * 0.7 / (1 + of_content * 0.7), abs=1e-5)


def test_a_mapped_modality_alone_is_a_map_of_its_feature(space: Space) -> None:
    if not space.spec.mapped:
        pytest.skip("made of the tokens")
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=32, modality_vectors=True)
    whole = item(("image", "text"), 5)
    embedded = runtime.embed([item(("behavior",), 1), whole, item(("image", "text", "audio"), 2)])
    assert embedded.modality_vectors is not None
    for name in ("image", "text"):
        rows = values_of(whole[name]).reshape(-1, MODALITIES[name]["dim"])
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        weight, bias = (space.weights[f"search_{name}.{part}"].double().numpy() for part in ("weight", "bias"))
        mean = (unit @ weight.T + bias).mean(0)
        np.testing.assert_allclose(embedded.modality_vectors[name][1], mean / np.linalg.norm(mean), atol=1e-5)


def test_room_for_what_no_item_has_changes_nothing(space: Space) -> None:
    """A runtime for single items has one layout, with room for all modalities."""
    one, many = (
        AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=size, modality_vectors=True)
        for size in (1, 32)
    )
    for names in (("text",), ("image", "text"), ("behavior",)):
        found, expected = one.embed([item(names, 3)]), many.embed([item(names, 3)])
        np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
        assert found.modality_vectors is not None
        assert expected.modality_vectors is not None
        for name in names:
            np.testing.assert_allclose(found.modality_vectors[name], expected.modality_vectors[name], atol=1e-6)


def test_vectors_of_a_modality_are_a_set_unless_it_is_ordered(space: Space, exact: AlignRuntime) -> None:
    random = np.random.default_rng(0)
    for name in ("image", "frames"):
        values = random.standard_normal((3, MODALITIES[name]["dim"]))
        text = item(("text",), 1)
        forth, back = (
            exact.embed([{**text, name: feature(each)}]).vectors[0] for each in (values, values[::-1].copy())
        )
        assert (np.abs(forth - back).max() > 1e-3) == space.spec.modalities[name].ordered, name


def test_the_prior_is_read_from_its_modality_alone(space: Space, exact: AlignRuntime) -> None:
    whole, without = item(("behavior", "text"), 3), item(("text", "image"), 3)
    weight = space.weights["prior.weight"].double().numpy()[0]
    expected = weight @ values_of(whole["behavior"])[0] + space.weights["prior.bias"].item()
    assert exact.embed([whole, without]).priors.tolist() == pytest.approx([expected, 0.0], abs=1e-5)


def test_the_content_block_is_made_of_what_there_is(space: Space, exact: AlignRuntime) -> None:
    """unit([r ; √β c]) with c of two parts of length 1/√2, and 0 for a part that is missing."""
    content_weight = 0.7 if space.spec.new is None else space.spec.new.content_weight  # all three lack behaviour
    both, text, neither = item(("text", "image", "audio"), 5), item(("text", "audio"), 6), item(("audio", "frames"), 7)
    found = exact.embed([both, text, neither]).vectors.astype(np.float64)
    parts = []
    for each in (both, text, neither):
        of_modalities = []
        for name in ("image", "text"):
            size = MODALITIES[name]["content_dim"]
            if name not in each:
                of_modalities.append(np.zeros(size))
                continue
            weight, bias = (space.weights[f"content_{name}.{kind}"].double().numpy() for kind in ("weight", "bias"))
            mean = (values_of(each[name]) @ weight.T + bias).mean(0)
            of_modalities.append(mean / np.linalg.norm(mean) / np.sqrt(2))
        parts.append(np.sqrt(content_weight) * np.concatenate(of_modalities))
    lengths = np.sqrt(1 + content_weight * np.array([1.0, 0.5, 0.0]))
    np.testing.assert_allclose(found[:, LEARNED:], np.stack(parts) / lengths[:, None], rtol=0, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[:, :LEARNED], axis=1), 1 / lengths, rtol=0, atol=1e-5)


@quick
@given(st.integers(1, 6), st.integers(0, 2**20))
def test_attention_over_neighbors_is_one_hop_and_does_not_mind_their_order(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    graph = NeighborAttention(12, 8).requires_grad_(False)
    graph.strength.fill_(0.5)
    vectors_ID = torch.nn.functional.normalize(torch.randn(9, 12, generator=generator), dim=1)
    rows_N = torch.randperm(9, generator=generator)[:count]
    moved = graph(vectors_ID[:1], vectors_ID[rows_N][None], torch.ones(1, count, dtype=torch.bool))
    assert abs(moved.norm().item() - 1) < 1e-6
    # Padding behind, whatever it holds, and another order.
    padded = torch.cat([vectors_ID[rows_N.flip(0)], torch.full((2, 12), torch.nan)])[None]
    mask = torch.tensor([[True] * count + [False] * 2])
    torch.testing.assert_close(graph(vectors_ID[:1], padded, mask), moved, rtol=0, atol=1e-6)
    # It lies between the item and its neighbours: what they are neighbours of has no say.
    others = torch.tensor([row for row in range(1, 9) if row not in rows_N.tolist()])
    changed = vectors_ID.clone()
    changed[others] = -changed[others]
    torch.testing.assert_close(
        graph(changed[:1], changed[rows_N][None], torch.ones(1, count, dtype=torch.bool)), moved, rtol=0, atol=0
    )
    nothing = graph(vectors_ID[:1], padded, torch.zeros_like(mask))
    assert torch.equal(nothing, vectors_ID[:1])


def test_order_is_refused_where_it_would_have_no_say() -> None:
    document = {"dim": 8, "width": 8, "modalities": MODALITIES | {"image": {"dim": 3}, "text": {"dim": 3}}}
    with pytest.raises(ValueError, match=r"modalities\.frames\.ordered: concat_mlp takes the mean"):
        SpaceSpec.model_validate({**document, "fusion": {"kind": "concat_mlp", "hidden": 8}})
