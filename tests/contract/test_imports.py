"""Who may import whom. Data flows one way, and so do imports."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENT_LIBRARIES = {"kafka", "confluent_kafka"}
CLIENT_MODULES = {
    "worker/kafka/client.py",
    "worker/kafka/connection.py",
    "worker/kafka/consumer.py",
    "worker/kafka/embedded.py",
    "worker/kafka/fence.py",
    "worker/kafka/log.py",
    "worker/kafka/packing.py",
    "worker/kafka/producer.py",
    "worker/kafka/reader.py",
    "worker/kafka/structs.py",
    "worker/kafka/admin.py",
    "worker/kafka/translation.py",
    "worker/kafka/unpacking.py",
    "worker/demo/outside.py",
}
# Each stage may import the ones before it and the values between them, never a later one or the loop.
ORDER = [
    "stages.decode",
    "state.memory",
    "partitions.tenure",
    "stages.encode",
    "stages.batch",
    "stages.fuse",
    "stages.compute",
    "stages.publish",
    "stages.producers",
    "roles.role",
    "roles.items",
    "roles.users",
    "loop.restore",
    "loop.assignment",
    "loop.source",
    "loop.ledger",
    "loop.pipeline",
    "process.status_board",
    "process.service",
    "process.lifecycle",
    "commands.cli",
]


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", modules("schemas"), ids=str)
def test_schemas_stand_alone(path):
    packages = {name.split(".")[0] for name in imports(path)}
    assert not packages & {"worker", "torch", *CLIENT_LIBRARIES}


@pytest.mark.parametrize("path", modules("worker/align") + modules("worker/encode"), ids=str)
def test_the_model_knows_no_kafka(path):
    for name in imports(path):
        assert name.split(".")[0] not in CLIENT_LIBRARIES
        assert not name.startswith("worker.kafka")


@pytest.mark.parametrize("path", [*modules("worker/data"), *modules("worker/synthetic")], ids=str)
def test_data_know_neither_the_model_nor_the_stream(path):
    for name in imports(path):
        assert name.split(".")[0] != "torch"
        if name.startswith("worker."):
            assert name.startswith(("worker.data", "worker.synthetic", "worker.errors"))


def test_only_the_adapter_knows_the_client():
    knowing = {path for path in modules("worker") if {name.split(".")[0] for name in imports(path)} & CLIENT_LIBRARIES}
    assert {str(path.relative_to(ROOT)) for path in knowing} == CLIENT_MODULES


@pytest.mark.parametrize("name", ORDER)
def test_no_stage_imports_a_later_one(name):
    later = {f"worker.{each}" for each in ORDER[ORDER.index(name) + 1 :]}
    at_module_level = {
        node.module
        for node in ast.parse((ROOT / "worker" / f"{name.replace('.', '/')}.py").read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module
    }
    assert not at_module_level & later


def test_configuration_is_shown_without_loading_torch_or_the_client():
    code = (
        "import sys; from worker.__main__ import main; main(['config']);"
        "sys.exit(bool({'torch', 'kafka', 'confluent_kafka'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False).returncode == 0
