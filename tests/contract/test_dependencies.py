"""What is declared is pinned, and no floor lets a version in that is known to be unsafe."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIRST_SAFE = {
    "cryptography": "50.0.0",  # CVE-2026-69247
    "msgpack": "1.2.1",  # CVE-2026-57585 (GHSA-6v7p-g79w-8964)
    "numpy": "1.22.2",  # CVE-2021-41495
    "pillow": "12.3.0",  # CVE-2026-25990 (12.1.1), CVE-2026-42308 (12.2.0) and others
    "pyarrow": "23.0.1",  # CVE-2023-47248 (14.0.1), CVE-2026-25087
    "pydantic": "2.4.0",  # CVE-2024-3772
    "pydantic-settings": "2.14.2",  # CVE-2026-58203
    "pytest": "9.0.3",  # CVE-2025-71176
    "pyyaml": "5.4",  # CVE-2020-14343
    "torch": "2.13.0",  # CVE-2025-32434 (2.6), CVE-2025-3730 (2.8), CVE-2026-24747 (2.10), CVE-2025-3000
    "tqdm": "4.66.3",  # CVE-2024-34062
    "transformers": "5.10",  # CVE-2026-4372 (5.3), CVE-2026-5241 (5.5), CVE-2026-80047 (5.9), CVE-2026-9856
}
"""The first version in which everything published by autumn 2026 is mended."""


def pins() -> dict[str, Version]:
    found = re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def requirements() -> list[Requirement]:
    listed = [
        *PROJECT["dependencies"],
        *(each for extra in PROJECT["optional-dependencies"].values() for each in extra),
    ]
    found = [Requirement(each) for each in listed]
    return [each for each in found if each.name != PROJECT["name"]]


def floor(requirement: Requirement) -> Version:
    (found,) = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
    return found


@pytest.mark.parametrize("requirement", requirements(), ids=lambda each: each.name)
def test_what_is_declared_is_pinned_within_its_bounds(requirement: Requirement) -> None:
    assert pins()[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("name", FIRST_SAFE)
def test_no_floor_lets_an_unsafe_version_in(name: str) -> None:
    floors = [floor(each) for each in requirements() if canonicalize_name(each.name) == name]
    assert floors
    assert min(floors) >= Version(FIRST_SAFE[name])


def test_an_unsafe_floor_would_be_noticed() -> None:
    assert floor(Requirement("pillow>=11.3")) < Version(FIRST_SAFE["pillow"])
