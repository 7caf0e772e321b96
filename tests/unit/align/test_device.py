"""Which device, and what its failures mean."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from worker.align.cores import available_cores
from worker.align.device import device_failures, resolve_device
from worker.align.errors import OutOfMemoryError
from worker.errors import ConfigError, SystemicError


def with_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)


@pytest.mark.parametrize(
    ("requested", "devices", "resolved"),
    [
        ("cpu", 0, "cpu"),
        ("cpu", 2, "cpu"),
        ("auto", 0, "cpu"),
        ("auto", 2, "cuda:0"),
        ("cuda", 1, "cuda:0"),
        ("cuda:1", 2, "cuda:1"),
    ],
)
def test_devices(monkeypatch: pytest.MonkeyPatch, requested: str, devices: int, resolved: str) -> None:
    with_devices(monkeypatch, devices)
    assert resolve_device(requested) == resolved


@pytest.mark.parametrize(
    ("requested", "devices", "message"),
    [
        ("cuda", 0, "device: cuda asks for a CUDA device and this process has none; set device to cpu or auto"),
        ("cuda:1", 0, "device: cuda:1 asks for a CUDA device"),
        ("cuda:2", 2, "device: cuda:2 asks for more CUDA devices than the 2 there are"),
        ("tpu", 2, "device: 'tpu' is unknown"),
    ],
)
def test_devices_that_are_not_there(
    monkeypatch: pytest.MonkeyPatch, requested: str, devices: int, message: str
) -> None:
    with_devices(monkeypatch, devices)
    with pytest.raises(ConfigError, match=message):
        resolve_device(requested)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_no_memory_is_an_error_of_its_own(error: Exception) -> None:
    with pytest.raises(OutOfMemoryError, match="no memory for this batch"), device_failures():
        raise error


def test_what_the_cpu_allocator_really_raises_is_no_memory() -> None:
    with pytest.raises(OutOfMemoryError), device_failures():
        torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_the_cpu_allocator_raises_inside_a_graph_is_no_memory() -> None:
    copy = torch.jit.trace(lambda x: x.clone(memory_format=torch.contiguous_format), torch.zeros(1).expand(4))
    with pytest.raises(OutOfMemoryError), device_failures():
        copy(torch.zeros(1).expand(1 << 60))


@pytest.mark.parametrize(
    "message", ["CUDA error: an illegal memory access was encountered", "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"]
)
def test_a_broken_device_ends_the_process(message: str) -> None:
    with pytest.raises(SystemicError, match="device: the GPU failed"), device_failures():
        raise RuntimeError(message)


@pytest.mark.parametrize("error", [ValueError("features.text.data"), RuntimeError("shapes do not match")])
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, device_failures():
        raise error
    assert caught.value is error


def cgroup(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "200000 100000\n"}, 2),
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "5000 100000\n"}, 1),
        ({"cpu.max": "9900000 100000\n"}, 8),
        ({"cpu.max": "nonsense"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ],
)
def test_a_container_limit_counts_as_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert available_cores(cgroup(tmp_path, files)) == cores
