"""The promises of `test_runtime.py` on a GPU. Skipped where there is none."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.align.builders import make_items, make_space, plain_vector, spec, with_gaps
from worker.align.command import BATCH_TOLERANCE, check
from worker.align.device import device_failures
from worker.align.embedded import UNIT_TOLERANCE
from worker.align.errors import OutOfMemoryError
from worker.align.runtime import AlignRuntime
from worker.align.warm_up import MIN_COSINE

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

DTYPES = ("float32", "bfloat16", "float16")
SPEC = spec({"text": 96, "image": 64, "audio": 48}, dim=64, layers=2)


def runtime(directory: Path, dtype: str = "auto", **options: object) -> AlignRuntime:
    return AlignRuntime(make_space(directory, SPEC), device="cuda", dtype=dtype, **options)  # type: ignore[arg-type]


def test_warm_up_times_three_dtypes_and_reports_the_gpu(tmp_path: Path) -> None:
    report = runtime(tmp_path).warm_up()
    assert [candidate.dtype for candidate in report.candidates] == list(DTYPES)
    assert report.device == "cuda:0"
    assert report.device_name == torch.cuda.get_device_name(0)
    assert report.graphed


@pytest.mark.parametrize("dtype", DTYPES)
def test_vectors_agree_with_the_plain_model(tmp_path: Path, dtype: str) -> None:
    gpu = runtime(tmp_path, dtype)
    items = with_gaps(make_items(SPEC, 100))
    expected = np.stack([plain_vector(gpu.space, item) for item in items])
    vectors = gpu.embed(items).vectors
    assert (vectors * expected).sum(1).min() >= (1 - 1e-5 if dtype == "float32" else MIN_COSINE)
    assert np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() <= UNIT_TOLERANCE["f4"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_gives_what_its_items_give_one_by_one(tmp_path: Path, dtype: str) -> None:
    gpu = runtime(tmp_path, dtype)
    items = with_gaps(make_items(SPEC, 60))
    alone = np.concatenate([gpu.embed([item]).vectors for item in items])
    assert np.abs(gpu.embed(items).vectors - alone).max() <= BATCH_TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_with_one_padded_size_vectors_are_bit_identical(tmp_path: Path, dtype: str) -> None:
    gpu = runtime(tmp_path, dtype, max_batch=64, padded_sizes=[64])
    items = [*make_items(SPEC, 30), *with_gaps(make_items(SPEC, 30, seed=1))]
    together = gpu.embed(items).rows("f4")
    parts = [gpu.embed(items[start : start + 7]).rows("f4") for start in range(0, 60, 7)]
    assert list(itertools.chain.from_iterable(parts)) == together


def test_check_passes(tmp_path: Path) -> None:
    make_space(tmp_path, SPEC)
    assert check(tmp_path / "space", device="cuda").num_patterns == 7


def test_running_out_of_memory_is_typed_and_the_next_batch_works(tmp_path: Path) -> None:
    gpu = runtime(tmp_path, "float32")
    items = make_items(SPEC, 4)
    expected = gpu.embed(items).rows("f4")
    _, total = torch.cuda.mem_get_info()
    with pytest.raises(OutOfMemoryError), device_failures():
        torch.empty(total + (1 << 30), dtype=torch.uint8, device="cuda")
    assert gpu.embed(items).rows("f4") == expected
