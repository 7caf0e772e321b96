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


def graph_that_allocates_too_much() -> None:
    traced = torch.jit.script("def too_much(n: int):\n    return torch.empty([n], dtype=torch.uint8)\n")
    traced.too_much(1 << 60)


def raise_error(error: Exception) -> None:
    raise error


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
    def too_much(size: torch.Tensor) -> torch.Tensor:
        return size.new_zeros(1).expand(int(size.shape[0]) << 20, 1 << 20, 1 << 20).contiguous()

    graph = torch.jit.trace(lambda row: row.expand(1 << 20, 1 << 20, 1 << 20).clone(), torch.zeros(1)[:0].new_zeros(1)) if False else None
    assert graph is None
