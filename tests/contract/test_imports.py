"""Who may import whom. Data flows one way, and so do imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path, PosixPath

import pytest

ROOT = Path(__file__).parents[2]
CLIENT_LIBRARIES = {"kafka", "confluent_kafka"}
STREET = [
    "__main__",
    "commands",
    "demo",
    "process",
    "sink",
    "loop",
    "recommend",
    "roles",
    "item_vectors",
    "stages",
    "monitoring",
    "rollout",
    "partitions",
    "topics",
    "train",
    "evaluate",
    "encode",
    "kafka",
    "data",
    "synthetic",
    "mapping",
    "state",
    "records",
    "align",
    "codes",
    "vector_health",
    "beside_space",
    "settings",
    "config_file",
    "errors",
    "printable",
    "json_text",
    "__init__",
]
"""The rooms of `worker/` along a record's way. A room may import those behind it in this list, and none before it."""


def imports(path: Path) -> Iterator[str]:
    """Names of all modules that a file imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms(path: Path) -> Iterator[str]:
    """The rooms of `worker/` that a file imports."""
    for name in imports(path):
        match name.split("."):
            case ["worker", room, *_] if room in STREET:
                yield room
            case ["worker", room, *_] if (ROOT / "worker" / room).exists() or (ROOT / "worker" / f"{room}.py").exists():
                raise AssertionError(f"worker/{room} has no place in STREET")


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "worker").parts[0].removesuffix(".py")


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("schemas"), ids=str)
def test_schemas_stand_alone(path: PosixPath) -> None:
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"worker", "torch", *CLIENT_LIBRARIES}


@pytest.mark.parametrize("path", modules("worker/align") + modules("worker/encode"), ids=str)
def test_the_model_knows_no_kafka(path: PosixPath) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in CLIENT_LIBRARIES
        assert not name.startswith("worker.kafka")


@pytest.mark.parametrize("path", [*modules("worker/data"), *modules("worker/synthetic")], ids=str)
def test_data_know_neither_the_model_nor_the_stream(path: PosixPath) -> None:
    for name in imports(path):
        assert name.split(".")[0] != "torch"
        if name.startswith("worker."):
            assert name.startswith(
                (
                    "worker.data",
                    "worker.synthetic",
                    "worker.mapping",
                    "worker.errors",
                    "worker.json_text",
                    "worker.state.items",
                )
            )


def test_only_the_adapter_and_the_demo_know_the_client() -> None:
    knowing = {path for path in modules("worker") if {name.split(".")[0] for name in imports(path)} & CLIENT_LIBRARIES}
    assert {room_of(path) for path in knowing} == {"kafka", "demo", "mapping"}  # of that, the schema registry


ADAPTERS = ("kafka_python", "confluent_kafka")


def test_only_adapters_know_their_library() -> None:
    """And the embedded broker, which lives in one. What lies beside them is for every adapter."""
    for path in modules("worker/kafka"):
        if {name.split(".")[0] for name in imports(path)} & CLIENT_LIBRARIES:
            assert path.parent.name in ADAPTERS or path.stem == "embedded", path


def test_only_the_factory_imports_an_adapter() -> None:
    """The port, its values and the factory are for all; what reaches into the library is for the adapter alone."""
    for path in modules("worker"):
        if path.parent.name not in ADAPTERS and path != ROOT / "worker/kafka/__init__.py":
            assert not [name for name in imports(path) if name.startswith(tuple(f"worker.kafka.{a}" for a in ADAPTERS))]


def test_imports_go_down_the_street() -> None:
    against = [
        f"{path.relative_to(ROOT)} imports worker.{room}"
        for path in modules("worker")
        for room in set(rooms(path))
        if STREET.index(room) < STREET.index(room_of(path))
    ]
    assert not against


@pytest.mark.parametrize("statement", ["from worker.loop.pipeline import Pipeline", "from worker import loop"])
def test_an_import_against_the_street_is_seen_wherever_it_stands(tmp_path: Path, statement: str) -> None:
    path = tmp_path / "late.py"
    path.write_text(f"def late() -> None:\n    {statement}\n")
    assert set(rooms(path)) == {"loop"}


def test_configuration_is_shown_without_loading_torch_or_the_client() -> None:
    code = (
        "import sys; from worker.__main__ import main; main(['config']);"
        "sys.exit(bool({'torch', 'kafka', 'confluent_kafka'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0


def test_what_takes_the_lock_of_free_threaded_python_back_is_loaded_for_who_uses_it_alone() -> None:
    """LMDB for `state.dir`, lz4 and zstandard for batches of those codecs: of what kafka-python loads itself, nothing
    can be said here."""
    code = (
        "import sys, worker.process.service, worker.kafka.batches, worker.kafka.confluent_kafka.client\n"
        "sys.exit(str({'lmdb', 'lz4', 'zstandard'} & set(sys.modules) or ''))"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False, text=True)
    assert found.stderr.strip() == ""
