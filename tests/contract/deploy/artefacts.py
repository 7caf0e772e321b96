"""What the tests read: the files under deploy/, what kustomize makes of them, and the tools that check both.

A tool that is not there skips its tests, visibly. With `ALIGN_TEST_REQUIRE_TOOLS=1` it fails them: for CI.
"""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
COMPOSE = DEPLOY / "compose.yaml"
RULES = DEPLOY / "prometheus" / "rules.yaml"
MANUAL = DEPLOY / "README.md"
RUNBOOK = DEPLOY / "runbook.md"
SPACE_VOLUME = DEPLOY / "space-volume.yaml"
COMPONENTS = DEPLOY / "components"

TARGETS = (
    "base",
    "overlays/full",
    "overlays/full-users",
    "overlays/next-space",
    "overlays/next-space-users",
    "overlays/relay",
    "overlays/sink",
    "overlays/users",
)
COMPONENT_NAMES = (
    "gpu", "hpa", "keda", "monitoring", "networkpolicy", "next-space", "rack", "relay", "scram", "seeded-space",
    "service-monitor", "sink", "state-volume", "strimzi", "users",
)  # fmt: skip
"""In an order in which they can be listed together."""
CORE_GROUPS = ("v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2")

Document = Mapping[str, Any]


def missing(what: str) -> NoReturn:
    """Skip the test for want of a tool, or fail it where tools are required."""
    if os.environ.get("ALIGN_TEST_REQUIRE_TOOLS") == "1":
        pytest.fail(f"ALIGN_TEST_REQUIRE_TOOLS=1, but {what}", pytrace=False)
    pytest.skip(what)


def documents(path: Path) -> list[Document]:
    return [each for each in yaml.safe_load_all(path.read_text()) if each is not None]


def document(path: Path) -> Document:
    (only,) = documents(path)
    return only


def of_kind(kind: str, found: Iterable[Document]) -> list[Document]:
    return [each for each in found if each["kind"] == kind]


def the(kind: str, found: Iterable[Document]) -> Document:
    (only,) = of_kind(kind, found)
    return only


def workers_of(found: Iterable[Document]) -> Document:
    """The workload that workers belong to, whichever kind it has."""
    (only,) = [each for each in found if each["kind"] in ("Deployment", "StatefulSet")]
    return only


def base_deployment() -> Document:
    return document(DEPLOY / "base" / "deployment.yaml")


def pod_spec(workload: Document) -> Document:
    spec: Document = workload["spec"] if workload["kind"] == "Pod" else workload["spec"]["template"]["spec"]
    return spec


def container(workload: Document, name: str = "worker") -> Document:
    named: list[Document] = [each for each in pod_spec(workload)["containers"] if each["name"] == name]
    (only,) = named
    return only


def all_containers(workload: Document) -> list[Document]:
    spec = pod_spec(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


# ---------------------------------------------------------------------- tools


def tool(name: str, variable: str | None = None, package: str = "") -> str:
    """Path of a program: named by the variable, beside this interpreter, or on PATH."""
    beside = Path(sys.executable).parent / name
    named = os.environ.get(variable, "") if variable else ""
    path = named or (str(beside) if beside.is_file() else shutil.which(name))
    if not path:
        hint = f" ({variable} may name it)" if variable else ""
        missing(f"{name} is not installed{hint}{': ' + package if package else ''}")
    return path


def promtool() -> str:
    return tool("promtool", "PROMTOOL", "Debian package prometheus")


def run(*command: str | Path, cwd: Path = ROOT) -> tuple[int, str]:
    """Exit status, and everything the command said."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@functools.cache
def _kubectl() -> str | None:
    """A kubectl whose kustomize knows components; before 1.21 it does not."""
    path = shutil.which("kubectl")
    if path is None:
        return None
    version = re.search(r"(?:Client Version: |GitVersion:\")v(\d+)\.(\d+)", run(path, "version", "--client")[1])
    return path if version and (int(version[1]), int(version[2])) >= (1, 21) else None


@functools.cache
def _kustomize(directory: Path) -> tuple[Document, ...]:
    code, said = run(_kubectl() or "kubectl", "kustomize", directory)
    assert code == 0, said
    return tuple(yaml.safe_load_all(said))


def assembled(directory: Path) -> tuple[Document, ...] | None:
    """The same without kubectl, of a kustomization that only lists: the generated ConfigMap has no hash in its name,
    and images have no tag. None for one that patches."""
    kustomization = document(directory / "kustomization.yaml")
    if not kustomization.keys() <= {"apiVersion", "kind", "resources", "configMapGenerator", "images"}:
        return None
    configs = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": each["name"]},
            "data": {name: (directory / name).read_text() for name in each["files"]},
        }
        for each in kustomization.get("configMapGenerator", [])
    ]
    return (*configs, *(each for name in kustomization["resources"] for each in documents(directory / name)))


def kustomized_by_kubectl(directory: Path) -> tuple[Document, ...]:
    """Skips without a kubectl that can."""
    if _kubectl() is None:
        missing("kubectl 1.21 or newer is not on PATH")
    return _kustomize(directory)


def kustomized(directory: Path) -> tuple[Document, ...]:
    """What `kubectl kustomize` makes of a directory. Skips without kubectl, unless the directory is plain enough."""
    plain = assembled(directory) if _kubectl() is None else None
    return plain or kustomized_by_kubectl(directory)


def rendered(target: str) -> tuple[Document, ...]:
    return kustomized(DEPLOY / target)


def with_components(tmp_path: Path, *names: str) -> tuple[Document, ...]:
    """The base with some components."""
    return target_with(tmp_path, "base", *names)


def target_with(tmp_path: Path, target: str, *names: str) -> tuple[Document, ...]:
    """The base, or a copy of an overlay as people make theirs, with some components in its list."""
    source, directory = DEPLOY / target, tmp_path / "-".join((target.replace("/", "-"), *names))
    directory.mkdir()
    if target == "base":
        kustomization: dict[str, Any] = {"resources": ["../../base"]}
        source = DEPLOY / "overlays" / "mine"
    else:
        kustomization = dict(document(source / "kustomization.yaml"))
        for path in source.iterdir():
            if path.name != "kustomization.yaml":
                shutil.copy(path, directory)
    kustomization["components"] = [
        *kustomization.get("components", []),
        *(f"../../components/{name}" for name in names),
    ]
    for kind in ("resources", "components"):
        kustomization[kind] = [
            os.path.relpath((source / each).resolve(), directory) if each.startswith("../") else each
            for each in kustomization[kind]
        ]
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return kustomized(directory)


def components_of(target: str) -> set[str]:
    """The components that a target has already."""
    return {Path(each).name for each in document(DEPLOY / target / "kustomization.yaml").get("components", [])}
