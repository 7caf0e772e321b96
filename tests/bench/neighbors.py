"""What graph fusion adds to an item at serving: looking its neighbours up, and attending to them.

python -m tests.bench.neighbors
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from tests.bench.host import host_line
from worker.align import AlignRuntime, command, create_space
from worker.align.padding import rising_sizes
from worker.align.spec import GraphSpec, SpaceSpec
from worker.align.synthetic import synthetic_items
from worker.item_vectors.table import ItemTable, ItemUpdate
from worker.roles.neighbors import NeighborFusion

BATCH, DIM, ROUNDS = 512, 128, 20


def us_per_item(step: Callable[[], object]) -> float:
    """CPU time, the best of several rounds."""
    rounds = []
    for _ in range(ROUNDS):
        started = time.process_time()
        step()
        rounds.append(time.process_time() - started)
    return min(rounds) / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, help="in the table")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(host_line())
    with tempfile.TemporaryDirectory() as folder:
        plain = command.create(Path(folder, "plain"), {"text": 384, "image": 512}, DIM)
        fields = plain.spec.model_dump(include=set(SpaceSpec.model_fields))
        spec = SpaceSpec.model_validate({**fields, "graph": GraphSpec(width=64)})
        space = create_space(Path(folder, "graph"), spec)
    runtime = AlignRuntime(space, device="cpu", dtype="float32", threads=1)
    runtime.warm_up()
    items = synthetic_items(spec, BATCH)
    vectors_BD = runtime.embed(items).vectors
    dice = np.random.default_rng(0)
    names = [f"item-{number:07d}" for number in range(given.items)]
    table = ItemTable(DIM, "float16", "cpu")
    drawn_ID = dice.standard_normal((given.items, DIM)).astype(np.float32)
    table.apply([ItemUpdate(name, None, row_D) for name, row_D in zip(names, drawn_ID, strict=True)])
    fusion = NeighborFusion(space, table, rising_sizes(BATCH), "cpu")
    model = us_per_item(lambda: runtime.embed(items))
    print(f"the model {model:.1f} us/item")
    for most in (8, 32):
        named = [[names[other] for other in dice.integers(0, given.items, most)] for _ in range(BATCH)]
        looking = us_per_item(lambda named=named: [table.rows(each) for each in named])  # type: ignore[misc]
        both = us_per_item(lambda named=named: fusion(vectors_BD, named))  # type: ignore[misc]
        print(
            f"{most} neighbours {both:.1f} us/item, {both / model:.1f} times the model; {looking:.1f} to look them up"
        )


if __name__ == "__main__":
    main()
