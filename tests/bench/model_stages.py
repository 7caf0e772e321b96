"""The model stage on one device, from features to vectors: how many items per second, where the time goes, and how far
the vectors are from those of float64. `python -m tests.bench.model --device cuda` prints it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.unit.align.builders import make_items, make_space, plain_vector, with_gaps
from tests.unit.align.builders import spec as spec_of
from worker.align.collate import Collator
from worker.align.device import DTYPES, DtypeName, device_name
from worker.align.graph import GraphedModel
from worker.align.padding import rising_sizes
from worker.align.result import from_outputs
from worker.align.runtime import AlignRuntime
from worker.align.space import Space
from worker.align.weights import build_model

Time = Callable[[Callable[[], object], int, float], float]
"""Microseconds per item of a piece of work on so many items, measured for so many seconds."""
BATCH_SIZES = (32, 128, 512, 2048, 8192)
DIMS = {"text": 96, "image": 64, "audio": 48}


def bench_device(
    space: Space, device: str, items_of: Callable[[int], Sequence[Any]], us_per_item: Time, seconds: float
) -> None:
    """Print it all. Nothing else should be on the device."""
    dtypes: Sequence[DtypeName] = ("float32", "bfloat16") if device == "cpu" else ("float32", "bfloat16", "float16")
    print(f"device: {device}, {device_name(device)}")
    print("\nembed() on one thread, thousands of items per second, by batch size")
    print(_row("", BATCH_SIZES))
    for dtype in dtypes:
        rates = []
        for size in BATCH_SIZES:
            runtime = AlignRuntime(space, device=device, dtype=dtype, threads=1, max_batch=size, padded_sizes=[size])
            rates.append(1e3 / us_per_item(partial(runtime.embed, items_of(size)), size, seconds))
        print(_row(dtype, [f"{rate:.1f}" for rate in rates]), flush=True)
    bench_stages(space, device, dtypes, items_of, us_per_item, seconds)
    bench_exactness(device, dtypes)


def bench_stages(
    space: Space,
    device: str,
    dtypes: Sequence[DtypeName],
    items_of: Callable[[int], Sequence[Any]],
    us_per_item: Time,
    seconds: float,
) -> None:
    """Each step of `embed` by itself, with everything that it needs at hand."""
    wait = partial(torch.cuda.synchronize, device) if device != "cpu" else lambda: None
    for dtype in dtypes:
        model = GraphedModel(build_model(space.spec, space.weights, DTYPES[dtype], device), device=device)
        steps: dict[str, list[float]] = {}
        for size in BATCH_SIZES:
            items, collator = items_of(size), Collator(space.spec, rising_sizes(size, [size]))
            batch = collator.collate(items)
            assert batch is not None
            there = tuple(tensor.to(device) for tensor in batch.tensors)
            outputs = model(batch)
            computation = model._computation(batch.layout, there)

            def copy_in(tensors: Sequence[torch.Tensor] = batch.tensors) -> None:
                for tensor in tensors:
                    tensor.to(device, copy=True)
                wait()

            def issue(computation: Any = computation, there: Any = there) -> tuple[torch.Tensor, ...]:
                with torch.inference_mode(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
                    made: tuple[torch.Tensor, ...] = computation(*there)
                return made

            def compute(issue: Any = issue) -> None:
                issue()
                wait()

            made = issue()
            for name, work in (
                ("collate", partial(collator.collate, items)),
                ("copy in", copy_in),
                ("compute", compute),
                ("copy out", lambda made=made: [each.cpu() for each in made]),
                ("check", partial(from_outputs, batch, outputs, items)),
            ):
                steps.setdefault(name, []).append(us_per_item(work, size, seconds))
            if device != "cpu":
                steps.setdefault("of compute, to issue it", []).append(_issue_us(issue, wait, seconds) / size)
        print(f"\n{dtype}: microseconds per item of each step of embed(), by batch size")
        print(_row("", BATCH_SIZES))
        for name, figures in steps.items():
            print(_row(name, [f"{figure:.3f}" for figure in figures]), flush=True)


def _issue_us(issue: Callable[[], object], wait: Callable[[], object], seconds: float) -> float:
    """The least time in which the computation is handed to the device, which then goes on by itself."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        started = time.perf_counter()
        issue()
        best = min(best, time.perf_counter() - started)
        wait()
    return best * 1e6


def bench_exactness(device: str, dtypes: Sequence[DtypeName]) -> None:
    """The worst of 1, 2 and 4 layers and 64 and 256 dims, random weights, 60 items with modalities missing."""
    print("\nworst of 1, 2 and 4 layers, 64 and 256 dims, 60 items with gaps")
    header = ["alone or in a batch", "1 - cosine, float64", "element, float64", "length - 1", "from the CPU"]
    print(f"{'':>24s}" + "".join(f"{name:>21s}" for name in header))
    worst = {dtype: np.zeros(len(header)) for dtype in dtypes}
    with tempfile.TemporaryDirectory() as directory:
        for layers in (1, 2, 4):
            for dim in (64, 256):
                space = make_space(Path(directory) / f"{layers}-{dim}", spec_of(DIMS, dim=dim, layers=layers))
                items = with_gaps(make_items(space.spec, 60))
                exact = np.stack([plain_vector(space, item) for item in items])
                for dtype in dtypes:
                    worst[dtype] = np.maximum(worst[dtype], _distances(space, device, dtype, items, exact))
    for dtype, distances in worst.items():
        print(f"{dtype:>24s}" + "".join(f"{distance:21.1e}" for distance in distances), flush=True)


def _distances(space: Space, device: str, dtype: str, items: Sequence[Any], exact: Any) -> Any:
    runtime = AlignRuntime(space, device=device, dtype=dtype, threads=1)
    vectors = runtime.embed(items).vectors.astype(np.float64)
    alone = np.concatenate([runtime.embed([item]).vectors for item in items])
    on_cpu = AlignRuntime(space, device="cpu", dtype=dtype, threads=1).embed(items).vectors
    lengths = np.linalg.norm(vectors, axis=1)
    cosines = (vectors * exact).sum(1) / lengths / np.linalg.norm(exact, axis=1)
    return [
        np.abs(vectors - alone).max(),
        (1 - cosines).max(),
        np.abs(vectors - exact).max(),
        np.abs(lengths - 1).max(),
        np.abs(vectors - on_cpu).max(),
    ]


def _row(name: str, values: Sequence[object]) -> str:
    return f"{name:>24s}" + "".join(f"{value!s:>10s}" for value in values)
