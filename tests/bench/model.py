"""What does one item cost in the model, and where does it go?

    python -m tests.bench.model [--seconds 0.5]
    python -m tests.bench.model --device cuda      # a GPU: rates by batch and dtype, the steps, how exact it is

Text 768, image 512 and audio 512 in half precision to 256 dimensions, one layer, four heads, feed-forward 1,024. Every
figure is microseconds per item, the best of the runs that fit into `--seconds`. Absolute figures differ by 2x and more
between machines: read them as ratios within one run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from schemas import Feature
from tests.bench.host import host_line
from tests.bench.model_stages import bench_device
from worker.align.collate import Collator
from worker.align.collated import Collated
from worker.align.contract import Contract
from worker.align.device import resolve_device
from worker.align.graph import GraphedModel
from worker.align.model import AlignModel
from worker.align.padding import rising_sizes
from worker.align.runtime import AlignRuntime
from worker.align.space import Space, write_space
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.align.synthetic import synthetic_items
from worker.align.weights import build_model, expected_shapes

SPEC = SpaceSpec(
    dim=256,
    width=256,
    modalities={name: ModalitySpec(dim=dim) for name, dim in (("text", 768), ("image", 512), ("audio", 512))},
    fusion=SelfAttentionSpec(layers=1, heads=4, hidden=1024),
)
BATCH_SIZES = (32, 128, 512, 2048)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each figure")
    parser.add_argument("--device", help="measure the model stage on this one, cpu or cuda, and nothing else")
    given = parser.parse_args()
    seconds: float = given.seconds
    print(f"host: {host_line()}")
    with tempfile.TemporaryDirectory() as directory:
        space = random_space(Path(directory))
        if given.device is not None:
            bench_device(space, resolve_device(given.device), items_of, us_per_item, seconds)
            return
        bench_batches(space, seconds)
        bench_last_layer(space, seconds)
        bench_modality_vectors(space, seconds)
        bench_beside_a_busy_thread(space, seconds)
        bench_under_the_lock(space, seconds)
        bench_warm_up(space)


def bench_batches(space: Space, seconds: float) -> None:
    print("\nembed(), from features to vectors, by batch size")
    print(f"{'':24s}" + "".join(f"{size:>9d}" for size in BATCH_SIZES))
    for dtype in DTYPES:
        for threads in (1, 2):
            figures = []
            for size in BATCH_SIZES:
                runtime = AlignRuntime(
                    space, device="cpu", dtype=dtype, threads=threads, max_batch=size, padded_sizes=[size]
                )
                items = items_of(size)
                figures.append(us_per_item(partial(runtime.embed, items), size, seconds))
            print(f"{dtype:>12s} {threads} threads  " + "".join(f"{figure:9.1f}" for figure in figures))
    torch.set_num_threads(1)


def bench_last_layer(space: Space, seconds: float) -> None:
    print("\nmodel at batch 512, 1 thread: the last layer computed for every row, and for the summary's alone")
    for name, dtype in DTYPES.items():
        model = build_model(SPEC, space.weights, dtype)
        alone = us_per_item(partial(GraphedModel(model), BATCH), 512, seconds)
        every = us_per_item(partial(GraphedModel(with_full_last_layer(model)), BATCH), 512, seconds)
        print(f"{name:>12s}  every row {every:6.1f}   summary {alone:6.1f}   ratio {every / alone:.2f}")


def bench_modality_vectors(space: Space, seconds: float) -> None:
    print("\nmodel at batch 512, 1 thread: with the vector of each modality alone")
    for name, dtype in DTYPES.items():
        model = build_model(SPEC, space.weights, dtype)
        fused = us_per_item(partial(GraphedModel(model), BATCH), 512, seconds)
        all_four = us_per_item(partial(GraphedModel(model, modality_vectors=True), BATCH), 512, seconds)
        print(f"{name:>12s}  fused {fused:6.1f}   and three alone {all_four:6.1f}   ratio {all_four / fused:.2f}")


def bench_beside_a_busy_thread(space: Space, seconds: float) -> None:
    print("\nmodel at batch 512, 1 thread, mean; another thread runs Python all the time")
    for name, dtype in DTYPES.items():
        graphed, eager = (GraphedModel(build_model(SPEC, space.weights, dtype)) for _ in range(2))
        vars(eager)["_trace"] = lambda compute, tensors: compute
        for interval_ms in (5.0, 0.5):
            sys.setswitchinterval(interval_ms / 1e3)
            figures = {}
            for kind, model in (("eager", eager), ("graph", graphed)):
                idle = mean_us_per_item(partial(model, BATCH), 512, seconds)
                with busy_thread():
                    figures[kind] = (idle, mean_us_per_item(partial(model, BATCH), 512, max(seconds, 1.5)))
            print(
                f"{name:>12s}  switch interval {interval_ms:3.1f} ms  "
                + "   ".join(
                    f"{kind}: alone {idle:6.1f}, beside {beside:6.1f}" for kind, (idle, beside) in figures.items()
                )
            )
    sys.setswitchinterval(0.005)


def bench_under_the_lock(space: Space, seconds: float) -> None:
    print("\nPython per item, under the interpreter lock, features of the wire schema")
    items, contract, collator = items_of(512), Contract(SPEC), Collator(SPEC, rising_sizes(512))
    gaps = [dict(islice(item.items(), 1 + index % 3)) for index, item in enumerate(items)]
    embedded = AlignRuntime(space, device="cpu", dtype="float32", threads=1).embed(items)
    for name, work in (
        ("contract, 3 modalities", lambda: [contract.check(item) for item in items]),
        ("collate, every item complete", lambda: collator.collate(items)),
        ("collate, modalities missing", lambda: collator.collate(gaps)),
        ("vectors to f2 bytes", lambda: embedded.rows("f2")),
        ("vectors to f4 bytes", lambda: embedded.rows("f4")),
    ):
        print(f"  {name:32s} {us_per_item(work, 512, seconds):6.2f}")


def bench_warm_up(space: Space) -> None:
    print("\nwarm-up")
    print(f"  {AlignRuntime(space, device='cpu', threads=1).warm_up().one_line()}")


def items_of(count: int) -> list[dict[str, Feature]]:
    """Random items of the wire schema."""
    distinct = [
        {name: Feature(encoder=f.encoder, dtype=f.dtype, shape=f.shape, data=f.data) for name, f in item.items()}
        for item in synthetic_items(SPEC, min(count, 512))
    ]
    return list(islice(cycle(distinct), count))


def random_space(directory: Path) -> Space:
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=generator) * (shape[-1] ** -0.5)
        for name, shape in expected_shapes(SPEC).items()
    }
    return write_space(directory, SPEC, weights)


def with_full_last_layer(model: AlignModel) -> AlignModel:
    """The same model, its fusion computing what it then throws away."""

    class FullFusion(torch.nn.Module):
        def __init__(self, fusion: Any) -> None:
            super().__init__()
            self.fusion = fusion

        def forward(self, tokens_BTD: Tensor, mask_BT: Tensor | None, slots: object) -> Tensor:
            rows_BTD = torch.cat([self.fusion.summary.expand(tokens_BTD.shape[0], 1, -1), tokens_BTD], 1)
            for layer in self.fusion.layers:
                rows_BTD = layer(rows_BTD, mask_BT)
            return rows_BTD[:, 0]

    full = AlignModel(SPEC)
    full.load_state_dict(model.state_dict(), assign=True)
    full.fusion = FullFusion(full.fusion)
    return full.requires_grad_(False)


@contextmanager
def busy_thread() -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            sum(range(100))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def us_per_item(work: Callable[[], object], count: int, seconds: float) -> float:
    return min(runs(work, seconds)) / count * 1e6


def mean_us_per_item(work: Callable[[], object], count: int, seconds: float) -> float:
    durations = list(runs(work, seconds))
    return sum(durations) / len(durations) / count * 1e6


def runs(work: Callable[[], object], seconds: float) -> Iterator[float]:
    """Durations of at least three runs after two that do not count."""
    work()
    work()
    end, done = time.perf_counter() + seconds, 0
    while done < 3 or time.perf_counter() < end:
        started = time.perf_counter()
        work()
        yield time.perf_counter() - started
        done += 1


def _batch() -> Collated:
    batch = Collator(SPEC, rising_sizes(512)).collate(synthetic_items(SPEC, 512))
    assert batch is not None
    return batch


BATCH = _batch()

if __name__ == "__main__":
    main()
