"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUP_ROOT = Path("/sys/fs/cgroup")


def available_cores(cgroup_root: Path = CGROUP_ROOT) -> int:
    """Cores of the affinity mask, or of the container's CPU limit where that is less. At least 1.

    A container limited to 2 cores on a machine of 64 sees all 64; 63 threads in it would spend their time throttled.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _cgroup_limit(cgroup_root)
    return cores if limit is None else max(1, min(cores, math.ceil(limit)))


def _cgroup_limit(root: Path) -> float | None:
    """Cores of CPU time per period, by cgroup version 2, else 1. None: no limit is set."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu/cpu.cfs_quota_us").read_text()
            period = (root / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None
