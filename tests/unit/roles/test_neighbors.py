"""Graph fusion as it is served: who takes part, and that the rest of the batch makes no difference."""

from typing import Any

import numpy as np
import pytest
import torch

from worker.align import Space, create_space
from worker.align.padding import PaddedSizes, rising_sizes
from worker.align.spec import GraphSpec, ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.align.weights import build_model
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.roles.neighbors import NeighborFusion

SPEC = SpaceSpec(
    dim=16,
    width=8,
    modalities={"text": ModalitySpec(dim=4)},
    fusion=SelfAttentionSpec(layers=1, heads=1, hidden=8),
    graph=GraphSpec(width=8, max_neighbors=5),
)
NAMES = [f"n{number}" for number in range(40)]


def units(count: int, seed: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).standard_normal((count, SPEC.dim)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


VECTORS = dict(zip(NAMES, units(len(NAMES), 0), strict=True))


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Space:
    return create_space(tmp_path_factory.mktemp("spaces") / "space", SPEC, seed=1)


def fusion(space: Space, sizes: PaddedSizes, dtype: Any = "float32") -> NeighborFusion:
    table = ItemTable(SPEC.dim, dtype, "cpu")
    table.apply([ItemUpdate(name, None, vector) for name, vector in VECTORS.items()])
    return NeighborFusion(space, table, sizes, "cpu")


def by_hand(space: Space, vector_D: np.ndarray, names: list[str]) -> np.ndarray:
    attention = build_model(space.spec, space.weights).graph
    neighbors_1ND = torch.from_numpy(np.stack([[VECTORS[name] for name in names]]))
    return attention(torch.from_numpy(vector_D[None]), neighbors_1ND, torch.ones(1, len(names)).bool())[0].numpy()


def test_the_first_neighbours_that_have_a_vector_take_part(space: Space) -> None:
    named = [["gone", "n3", "n1", "lost", "n2", "n9", "n8", "n7"], [], ["gone"], ["n4"]]
    given_BD = units(4, 1)
    moved = fusion(space, rising_sizes(8))(given_BD, named)
    np.testing.assert_allclose(
        moved.vectors_BD[0], by_hand(space, given_BD[0], ["n3", "n1", "n2", "n9", "n8"]), atol=1e-6
    )
    np.testing.assert_allclose(moved.vectors_BD[3], by_hand(space, given_BD[3], ["n4"]), atol=1e-6)
    assert moved.is_moved_B.tolist() == [True, False, False, True]
    assert np.array_equal(moved.vectors_BD[1:3], given_BD[1:3]), "without neighbours it stays to the bit"


@pytest.mark.parametrize(("sizes", "atol"), [(PaddedSizes((32,)), 0.0), (rising_sizes(32), 1e-6)], ids=["one", "many"])
def test_the_rest_of_the_batch_makes_no_difference(space: Space, sizes: PaddedSizes, atol: float) -> None:
    dice = np.random.default_rng(2)
    given_BD = units(32, 3)
    named = [dice.choice(NAMES, dice.integers(0, 8), replace=False).tolist() for _ in range(32)]
    fuse = fusion(space, sizes)
    together = fuse(given_BD, named).vectors_BD
    for count in (1, 3, 17):
        some = fuse(given_BD[:count], named[:count]).vectors_BD
        np.testing.assert_allclose(some, together[:count], rtol=0, atol=atol)


@pytest.mark.parametrize(("dtype", "atol"), [("float16", 5e-4), ("bfloat16", 4e-3)])
def test_a_table_in_half_precision_is_near(space: Space, dtype: str, atol: float) -> None:
    given_BD, named = units(32, 4), [NAMES[n : n + 4] for n in range(32)]
    exact = fusion(space, rising_sizes(32))(given_BD, named).vectors_BD
    near = fusion(space, rising_sizes(32), dtype)(given_BD, named).vectors_BD
    np.testing.assert_allclose(near, exact, rtol=0, atol=atol)
    assert np.abs(np.linalg.norm(near, axis=1) - 1).max() < 2e-6
