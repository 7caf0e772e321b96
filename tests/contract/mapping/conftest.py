from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.registry import SchemaRegistry
from worker.mapping.inputs import make_registry
from worker.mapping.source import EventSource, ItemSource, event_source, item_source
from worker.settings import RegistrySettings

MakeItems = Callable[..., ItemSource]
MakeEvents = Callable[..., EventSource]


@pytest.fixture(scope="session")
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as started:
        yield started


def _made(make: Any, name: str, path: Path, text: str, form: str, registry: SchemaRegistry | None) -> Any:
    file = path / "shop.yaml"
    file.write_text(text)
    settings = RegistrySettings(url=None if registry is None else registry.url, timeout_s=2)
    return make(f"input.{name}", form, file, make_registry(settings))


@pytest.fixture
def items(tmp_path: Path) -> MakeItems:
    def make(text: str, form: str = "json", registry: SchemaRegistry | None = None) -> ItemSource:
        return _made(item_source, "items", tmp_path, text, form, registry)  # type: ignore[no-any-return]

    return make


@pytest.fixture
def events(tmp_path: Path) -> MakeEvents:
    def make(text: str, form: str = "json", registry: SchemaRegistry | None = None) -> EventSource:
        return _made(event_source, "events", tmp_path, text, form, registry)  # type: ignore[no-any-return]

    return make
