"""The model as the fuse stage sees it."""

from pathlib import Path

import numpy as np

from tests.unit.align.builders import make_items, make_space, spec
from worker.align import AlignRuntime
from worker.align.padding import rising_sizes
from worker.align.spec import GraphSpec
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.process.service import ModelEmbedder
from worker.records import Recompute, RecomputeTrigger
from worker.roles.neighbors import NeighborFusion
from worker.stages.fuse import Vector, isolate
from worker.state.items import ItemState, ModalityState, Named

SPEC = spec({"text": 6}, dim=16).model_copy(update={"graph": GraphSpec(width=8, max_neighbors=4)})


def test_an_item_that_a_broken_neighbour_moves_to_nowhere_is_bad_and_takes_no_other_with_it(tmp_path: Path) -> None:
    space = make_space(tmp_path, SPEC)
    table = ItemTable(SPEC.dim, "float32", "cpu")
    broken, good = np.full(SPEC.dim, np.inf, "f4"), np.eye(SPEC.dim, dtype="f4")[0]
    table.apply([ItemUpdate("broken", 0, broken), ItemUpdate("good", 1, good)])
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1, max_batch=8)
    embedder = ModelEmbedder(runtime, "f4", NeighborFusion(space, table, rising_sizes(8), "cpu"))
    entries = [
        Recompute(
            RecomputeTrigger("items", 0, 0, b"i"),
            "i",
            ItemState(0, 1, 0, 1, {"text": ModalityState(1, features["text"])}, Named(1, (neighbor,))),
        )
        for features, neighbor in zip(make_items(SPEC, 3), ("good", "broken", "good"), strict=True)
    ]
    results = isolate(entries, embedder, lambda: None)
    assert [isinstance(result, Vector) for result in results] == [True, False, True]
    assert results[1] is None
