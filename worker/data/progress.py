"""A bar for people who wait at a terminal; nothing where the output goes elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def counted(values: Iterable[T], name: str) -> Iterator[T]:
    """The same values, counted on stderr as they pass."""
    return iter(tqdm(values, desc=name, unit=f" {name}", disable=None))
