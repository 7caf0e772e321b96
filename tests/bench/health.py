"""How soon vector health tells what is wrong, and how often it is wrong itself.

    python -m tests.bench.health

A space is made for generated items of themes (text and image, a sixth without image), references are measured on 5,000
of them, and others come as a stream through the model, in the dtype of publishing. After 700 to 1,100 items that are
well a fault begins; how many items later it is told is the figure. Clean items are all different ones.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tests.bench.host import host_line
from worker.align import AlignRuntime, Space
from worker.align.command import create
from worker.align.result import Embeddings, unpack_rows
from worker.align.synthetic import SyntheticFeature
from worker.vector_health import References, VectorWatch, measured

DIMS = {"text": 96, "image": 64}
THEMES, LATENT = 20, 24
RARE = THEMES - 1
OWN, NOISE = 0.7, 0.5
WITHOUT_IMAGE = 1 / 6
DIM = 128
NUM_REFERENCE, BATCH = 5_000, 500
MOST_AFTER = 5_000
STEP = 10
WITHIN = 1_000

Floats = NDArray[np.float32]
Items = list[dict[str, SyntheticFeature]]


class World:
    """Items of themes, the last of which hardly comes."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self._themes_TL = _unit(self.random.standard_normal((THEMES, LATENT)))
        shares_T = self.random.dirichlet(np.full(THEMES, 3.0))
        shares_T[RARE] = 0.002
        self._shares_T = shares_T / shares_T.sum()
        self._maps = {name: self.random.standard_normal((LATENT, dim)) for name, dim in DIMS.items()}
        self._other = {name: np.linalg.qr(self.random.standard_normal((dim, dim)))[0] for name, dim in DIMS.items()}

    def items(self, count: int, fault: Fault | None = None) -> Items:
        themes = self.random.choice(THEMES, count, p=self._shares_T)
        if fault is not None and fault.theme is not None:
            themes[self.random.random(count) < fault.share] = fault.theme
        latent_IL = self._themes_TL[themes] + OWN * _unit(self.random.standard_normal((count, LATENT)))
        rows = {}
        for name, to_modality in self._maps.items():
            seen_IK = latent_IL @ to_modality
            seen_IK += NOISE * np.sqrt(LATENT) * _unit(self.random.standard_normal(seen_IK.shape))
            if fault is not None and name == fault.other_encoder:
                seen_IK = seen_IK @ self._other[name]
            if fault is not None and name == fault.constant:
                seen_IK[:] = to_modality[0]
            rows[name] = seen_IK.astype(np.float32)
        has_image = self.random.random(count) >= WITHOUT_IMAGE
        items: Items = []
        for item in range(count):
            names = ("text", "image") if has_image[item] else ("text",)
            items.append(
                {
                    name: SyntheticFeature("bench", "f4", rows[name][item].shape, rows[name][item].tobytes())
                    for name in names
                    if fault is None or name != fault.dead
                }
            )
        return items


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong."""

    name: str
    other_encoder: str | None = None
    dead: str | None = None
    constant: str | None = None
    theme: int | None = None
    share: float = 0.0
    constant_vectors: bool = False


FAULTS = (
    Fault("text of another encoder", other_encoder="text"),
    Fault("image of another encoder", other_encoder="image"),
    Fault("no images come", dead="image"),
    Fault("every image has the same features", constant="image"),
    Fault("every vector is the same", constant_vectors=True),
    Fault("10 % of the items are of a theme that was rare (0.2 %)", theme=RARE, share=0.1),
    Fault("20 % of the items more are of a common theme (5 %)", theme=0, share=0.2),
)
TO_BE_TOLD = FAULTS[:6]
"""Within `WITHIN` items. The last is there to show where it ends."""


class Told(NamedTuple):
    items_later: int | None
    """None: not within `MOST_AFTER` items."""
    checks: tuple[str, ...]


class Bench:
    """A world, its space and its references."""

    def __init__(self, seed: int) -> None:
        self._world = World(seed)
        with TemporaryDirectory() as directory:
            space = create(Path(directory) / "space", DIMS, DIM, fusion="concat_mlp", seed=seed)
        self._runtime = AlignRuntime(space, device="cpu", dtype="float32", max_batch=BATCH, threads=1)
        self.references = self._measured(space)

    def _measured(self, space: Space) -> References:
        grouped: dict[tuple[str, ...], list[Floats]] = {}
        for embedded in self.batches(NUM_REFERENCE):
            for names, vector in zip(embedded.modalities, embedded.vectors, strict=True):
                grouped.setdefault(names, []).append(vector)
        shares = {name: sum(len(rows) for names, rows in grouped.items() if name in names) for name in DIMS}
        found = measured(
            space.space_id,
            {names: np.stack(rows) for names, rows in grouped.items()},
            {name: count / NUM_REFERENCE for name, count in shares.items()},
        )
        assert found is not None
        return found

    def batches(self, count: int, fault: Fault | None = None) -> Iterator[Embeddings]:
        for start in range(0, count, BATCH):
            embedded = self._runtime.embed(self._world.items(min(BATCH, count - start), fault))
            if fault is not None and fault.constant_vectors:
                embedded.vectors[:] = embedded.vectors[0]
            yield embedded

    def watch(self) -> VectorWatch:
        return VectorWatch(self.references, DIM)

    def told(self, fault: Fault, well_before: int) -> Told:
        """How long after the beginning of a fault it is told."""
        watch = self.watch()
        for embedded in self.batches(well_before):
            watch.add(unpack_rows(embedded.rows("f2"), DIM, "f2"), embedded.modalities)
        assert not watch.num_ill.total()
        items_later = 0
        for embedded in self.batches(MOST_AFTER, fault):
            vectors_ID = unpack_rows(embedded.rows("f2"), DIM, "f2")
            for start in range(0, len(vectors_ID), STEP):
                watch.add(vectors_ID[start : start + STEP], embedded.modalities[start : start + STEP])
                items_later += STEP
                if watch.num_ill.total():
                    return Told(items_later, tuple(check for check, count in watch.num_ill.items() if count))
        return Told(None, ())

    def clean(self, count: int) -> tuple[Counter[str], float]:
        """Alarms over so many clean items, and the CPU time of an item in µs: of runs of 5,000, a good one."""
        watch, costs, spent = self.watch(), [], 0.0
        for number, embedded in enumerate(self.batches(count), 1):
            rows = embedded.rows("f2")
            before = time.thread_time()
            watch.add(unpack_rows(rows, DIM, "f2"), embedded.modalities)
            spent += time.thread_time() - before
            if number % 10 == 0:
                costs.append(spent / (10 * BATCH) * 1e6)
                spent = 0.0
        return watch.num_ill, float(np.quantile(costs, 0.1))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def detections(
    benches: Sequence[Bench], faults: Sequence[Fault], tell: Callable[[str], None] = print
) -> dict[str, int]:
    """The slowest detection of each fault, in items; 0 where it was not told."""
    slowest = {}
    for fault in faults:
        told = [bench.told(fault, 700 + 80 * (number % 6)) for number, bench in enumerate(benches)]
        later = [each.items_later for each in told if each.items_later is not None]
        checks = Counter(check for each in told for check in each.checks)
        named = ", ".join(f"{check} {count}" for check, count in checks.most_common())
        worst = max(later) if len(later) == len(told) else 0
        shown = f"{median(later):.0f} / {max(later)}" if later else "–"
        tell(f"| {fault.name} | {len(later)} of {len(told)} | {shown} | {named} |")
        slowest[fault.name] = worst
    return slowest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clean", type=int, default=1_000_000, metavar="N", help="clean items, over all seeds")
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="worlds")
    arguments = parser.parse_args()
    print(host_line())
    benches = [Bench(seed) for seed in range(arguments.seeds)]
    print(f"\n| fault | told | items later: median / slowest of {arguments.seeds} | by |\n|---|---|---|---|")
    detections(benches, FAULTS)
    alarms, costs = Counter[str](), []
    for bench in benches:
        found, cost = bench.clean(arguments.clean // len(benches))
        alarms += found
        costs.append(cost)
    named = ", ".join(f"{check} {count}" for check, count in alarms.items())
    print(
        f"\nover {arguments.clean:,} clean items: {alarms.total()} alarms ({named or 'none'}); "
        f"{min(costs):.2f} µs of CPU per item of "
        f"{DIM} elements, {median(costs):.2f} in the middle of {len(costs)} runs"
    )


if __name__ == "__main__":
    main()
