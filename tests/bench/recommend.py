"""What `align-worker recommend` costs: reading vectors, and exact search.

    OMP_NUM_THREADS=1 python -m tests.bench.recommend [--items 200000]

Item vectors of 256 dims in float16, as they are published, from a file.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from schemas import encode_item_vector
from tests.bench.host import host_line
from worker.data.files import write_encoded
from worker.recommend.published import collect_items
from worker.recommend.search import search
from worker.recommend.sources import Files

DIM = 256
ROUNDS = 5


def write_vectors(path: Path, num_items: int) -> None:
    write_encoded(path, (encoded(number) for number in range(num_items)))


def encoded(number: int) -> bytes:
    values = np.random.default_rng(number).standard_normal(DIM, np.float32)
    return encode_item_vector(
        item_id=f"item-{number:07d}", revision=1, event_time_ms=1, space_id="bench", dtype="f2", shape=(DIM,),
        data=(values / np.linalg.norm(values)).astype("<f2").tobytes(), modalities=("image", "text"), prior=0.1,
        modality_vectors=None, produced_at_ms=1, source_offset=number,
    )  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--items", type=int, default=200_000)
    num_items = options.parse_args().items
    print(host_line())
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "items.msgpack"
        write_vectors(path, num_items)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.process_time()
        items = collect_items(Files([path]).item_vectors())
        seconds = time.process_time() - started
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"reading: {num_items / seconds:,.0f} vectors/s of CPU time; at most {more:,.0f} MB more than before")
    for num_queries in (1, 64):
        queries_QD = torch.nn.functional.normalize(torch.randn(num_queries, DIM))
        best = min(_seconds(queries_QD, items.vectors_ID, items.priors_I) for _ in range(ROUNDS))
        print(f"{num_queries} queries among {num_items:,} items: {best / num_queries * 1e3:.1f} ms each")


def _seconds(queries_QD: torch.Tensor, vectors_ID: torch.Tensor, priors_I: torch.Tensor) -> float:
    started = time.perf_counter()
    search(queries_QD, vectors_ID, 10, priors_I=priors_I)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
