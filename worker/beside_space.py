"""Files beside a space that are no part of it: tensors and a description, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from worker.errors import SpaceError
from worker.json_text import read_json

T = TypeVar("T")
Tensors = Mapping[str, NDArray[Any]]


def write_beside(path: Path, kind: str, version: int, about: Mapping[str, Any], tensors: Tensors) -> None:
    """Put the file in the place of an older one; tensors become float32. Raises `SpaceError`."""
    data = save(
        {name: np.ascontiguousarray(each, np.float32) for name, each in tensors.items()},
        {kind: json.dumps({"format_version": version, **about})},
    )
    unfinished = path.with_name(f"{path.name}.part")
    try:
        unfinished.write_bytes(data)
        unfinished.replace(path)
    except OSError as error:
        raise SpaceError(f"{path} cannot be written: {error}") from error


def read_beside(
    path: Path, kind: str, version: int, make: Callable[[Mapping[str, Any], Tensors], T], *, cure: str
) -> T | None:
    """What `make` makes of the file; None where there is none. `make` may raise `ValueError`, `KeyError` or
    `TypeError`. Raises `SpaceError`, which ends in the cure, for a file that cannot be read."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            about = read_json((file.metadata() or {})[kind])
            if about["format_version"] != version:
                raise ValueError(f"format_version {about['format_version']} is not known to this worker")
            return make(about, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise SpaceError(f"space.path: {path} cannot be read: {error}; {cure}") from error
