"""The promises of `test_runtime.py` on a GPU. Skipped where there is none."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.align.builders import make_items, make_space, plain_alone, plain_vector, spec, with_gaps
from tests.unit.align.test_users import DIM, KINDS, USERS, histories, model, table
from worker.align import command
from worker.align.command import BATCH_TOLERANCE, check
from worker.align.device import device_failures
from worker.align.errors import OutOfMemoryError
from worker.align.model import NeighborAttention
from worker.align.result import UNIT_TOLERANCE
from worker.align.runtime import AlignRuntime
from worker.align.spec import UserSpec
from worker.align.users import Histories, UserModel
from worker.align.warm_up import MIN_COSINE
from worker.errors import SpaceError

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


def test_vectors_of_single_modalities_agree_with_the_plain_model(tmp_path: Path) -> None:
    gpu = runtime(tmp_path, "float32", modality_vectors=True)
    items = with_gaps(make_items(SPEC, 40))
    alone = gpu.embed(items).modality_vectors
    assert alone is not None
    for row, item in enumerate(items):
        for name, feature in item.items():
            np.testing.assert_allclose(alone[name][row], plain_alone(gpu.space, name, feature), rtol=0, atol=2e-6)


@pytest.mark.parametrize("of", KINDS, ids=["decayed", "ranked", "attention"])
def test_users_are_those_of_a_cpu(of: UserSpec) -> None:
    on_cpu = model(of)(table(), histories(USERS, 8))
    on_gpu = model(of).cuda()(table().cuda(), Histories(*(each.cuda() for each in histories(USERS, 8))))
    assert on_gpu.usable_U.tolist() == on_cpu.usable_U.tolist()
    torch.testing.assert_close(on_gpu.vectors_UD.cpu(), on_cpu.vectors_UD, rtol=0, atol=1e-6)


@pytest.mark.parametrize("of", KINDS, ids=["decayed", "ranked", "attention"])
def test_users_teach_what_they_teach_on_a_cpu(of: UserSpec) -> None:
    """In training the same row is looked at once, in whatever order a device adds up."""
    gradients = []
    for device in ("cpu", "cuda"):
        pool: UserModel = model(of).to(device).requires_grad_(True)
        vectors_RD = table().to(device).requires_grad_(True)
        past = Histories(*(each.to(device) for each in histories(USERS * 50, 8)))
        weights_D = torch.arange(float(DIM), device=device)
        (pool(vectors_RD, past).vectors_UD * weights_D).sum().backward()
        gradients.append([each.grad.cpu() for each in (vectors_RD, *pool.parameters()) if each.grad is not None])
    for on_cpu, on_gpu in zip(*gradients, strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-4, atol=1e-3)


def test_neighbors_are_attended_to_as_on_a_cpu() -> None:
    torch.manual_seed(0)
    attention = NeighborAttention(32, 16).requires_grad_(False)
    attention.strength.fill_(0.5)
    vectors_BD, neighbors_BND = torch.randn(20, 32), torch.randn(20, 5, 32)
    mask_BN = torch.rand(20, 5) < 0.6
    mask_BN[0] = False
    on_cpu = attention(vectors_BD, neighbors_BND, mask_BN)
    on_gpu = attention.cuda()(vectors_BD.cuda(), neighbors_BND.cuda(), mask_BN.cuda())
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_check_passes_and_says_how_far_it_is_from_a_cpu(tmp_path: Path, dtype: str) -> None:
    make_space(tmp_path, SPEC)
    report = check(tmp_path / "space", device="cuda", dtype=dtype)
    assert report.num_patterns == 7
    assert report.max_cpu_difference is not None
    assert report.max_cpu_difference <= (1e-5 if dtype == "float32" else 2e-2)
    assert "of float32 on the CPU" in report.text()


def test_check_fails_on_a_device_that_computes_something_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_space(tmp_path, SPEC)
    monkeypatch.setattr(command, "MIN_COSINE", 1.1)
    with pytest.raises(SpaceError, match=r"device: a vector has a cosine of .* on a CPU"):
        check(tmp_path / "space", device="cuda", dtype="float32")


def test_running_out_of_memory_is_typed_and_the_next_batch_works(tmp_path: Path) -> None:
    gpu = runtime(tmp_path, "float32")
    items = make_items(SPEC, 4)
    expected = gpu.embed(items).rows("f4")
    _, total = torch.cuda.mem_get_info()
    with pytest.raises(OutOfMemoryError), device_failures():
        torch.empty(total + (1 << 30), dtype=torch.uint8, device="cuda")
    assert gpu.embed(items).rows("f4") == expected
