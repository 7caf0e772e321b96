"""The device and the arithmetic of the model, and what their failures mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch

from worker.align.errors import OutOfMemoryError
from worker.errors import ConfigError, SystemicError

DtypeName = Literal["float32", "bfloat16", "float16"]

DTYPES: Mapping[DtypeName, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_FAILED = ("CUDA error", "CUBLAS_STATUS", "cuDNN error", "CUDNN_STATUS")


def resolve_device(requested: str) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` to a device that is there. Raises `ConfigError`, naming the setting."""
    kind, _, number = requested.partition(":")
    if kind == "cpu" or (kind == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if kind not in ("auto", "cuda"):
        raise ConfigError(f"device: {requested!r} is unknown; it is auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise ConfigError(
            f"device: {requested} asks for a CUDA device and this process has none; set device to cpu or auto, or "
            "install a CUDA build of torch and give the container a GPU"
        )
    index = int(number or 0)
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"device: {requested} asks for more CUDA devices than the {torch.cuda.device_count()} there are"
        )
    return f"cuda:{index}"


def device_name(device: str) -> str:
    """Name of the device: the GPU's product name, or the CPU's vector instructions."""
    return torch.backends.cpu.get_cpu_capability() if device == "cpu" else torch.cuda.get_device_name(device)


def candidate_dtypes(device: str) -> tuple[DtypeName, ...]:
    """The arithmetics worth comparing, float32 first. Half on a CPU is emulated, so only a request brings it up."""
    return ("float32", "bfloat16") if device == "cpu" else ("float32", "bfloat16", "float16")


@contextmanager
def device_failures() -> Iterator[None]:
    """Turn failures of the device into `OutOfMemoryError`, and into `SystemicError` where no later call can work."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        message = str(error)
        if isinstance(error, MemoryError) or any(sign in message for sign in _NO_MEMORY):
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            raise OutOfMemoryError(f"no memory for this batch: {_last_line(message)}") from error
        if any(sign in message for sign in _DEVICE_FAILED):
            raise SystemicError(f"device: the GPU failed and does not recover within a process: {message}") from error
        raise


def _last_line(message: str) -> str:
    return message.strip().splitlines()[-1] if message.strip() else "the allocation failed"
