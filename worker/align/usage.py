"""Present use of a GPU."""

from __future__ import annotations

from typing import NamedTuple

import torch


class DeviceUsage(NamedTuple):
    """In bytes; utilisation is a share."""

    allocated: int
    """Bytes in tensors of this process."""
    reserved: int
    """Bytes that this process has taken, with what its allocator keeps for later."""
    total: int
    utilization: float | None
    """Share of the whole device that is busy, whoever uses it. None where the driver does not say."""


def device_usage(device: str) -> DeviceUsage | None:
    """None where the device is no GPU. Asks the driver, which answers within milliseconds unless it is broken."""
    if not device.startswith("cuda"):
        return None
    return DeviceUsage(
        torch.cuda.memory_allocated(device),
        torch.cuda.memory_reserved(device),
        torch.cuda.get_device_properties(device).total_memory,
        _utilization(device),
    )


def _utilization(device: str) -> float | None:
    """Needs NVML's Python bindings, which are no dependency of this project, and a driver that is willing."""
    try:
        return torch.cuda.utilization(device) / 100
    except Exception:  # the bindings raise errors of their own, which can only be named where there are bindings
        return None
