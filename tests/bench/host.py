"""The line that says on what, and beside what, figures were measured."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "kafka-python", "confluent-kafka", "bytewax", "msgpack", "pydantic", "numpy")


def host_line() -> str:
    """Processor, cores, load of the last minute, and versions. Call it before the first measurement."""
    bf16 = "with" if has_bfloat16() else "without"
    return (
        f"{processor()}, {os.cpu_count()} cores, {bf16} bfloat16 instructions, load {os.getloadavg()[0]:.1f}; "
        f"Python {platform.python_version()}, {', '.join(_versions())}"
    )


def processor() -> str:
    return next((value for name, value in _cpuinfo() if name == "model name"), platform.machine())


def has_bfloat16() -> bool:
    return any(name == "flags" and ("avx512_bf16" in value or "amx_bf16" in value) for name, value in _cpuinfo())


def _versions() -> list[str]:
    versions = []
    for library in LIBRARIES:
        try:
            versions.append(f"{library} {version(library)}")
        except PackageNotFoundError:
            continue
    return versions


def _cpuinfo() -> list[tuple[str, str]]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
