"""What the worker would load, and what it exposes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.contract.deploy.artefacts import DEPLOY
from tests.contract.deploy.queries import Samples, exposed_samples
from worker.settings import Settings, load

LoadSettings = Callable[[Mapping[str, str], Path | None], Settings]


@pytest.fixture
def load_settings(monkeypatch: pytest.MonkeyPatch) -> LoadSettings:
    """Loads settings from these variables and this file, and from nothing else of this machine."""

    def settings(variables: Mapping[str, str], file: Path | None) -> Settings:
        for name in [name for name in os.environ if name.startswith("ALIGN_")]:
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return load(file=file)

    return settings


@pytest.fixture
def worker_settings(load_settings: LoadSettings) -> Settings:
    return load_settings({}, DEPLOY / "base" / "worker.yaml")


@pytest.fixture(scope="session")
def samples() -> Samples:
    return exposed_samples()
