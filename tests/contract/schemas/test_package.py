"""What another team sees of the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import schemas

ROOT = Path(schemas.__file__).parents[1]

ALONE = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "kafka", "confluent_kafka", "worker"}:
            raise ImportError(f"schemas imports {name}")

sys.meta_path.insert(0, Blocked())
import schemas
item = schemas.NewItem(item_id="i", revision=1, event_time_ms=2)
assert schemas.decode(schemas.NewItem, schemas.encode(item)) == item
assert schemas.json_schema("NewItem")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_the_package_works_without_torch_kafka_and_worker() -> None:
    result = run(ALONE)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("name", ["torch", "kafka", "confluent_kafka", "worker"])
def test_the_check_above_would_notice(name: str) -> None:
    result = run(ALONE.replace("import schemas\n", f"import schemas, {name}\n"))
    assert f"schemas imports {name}" in result.stderr


def test_only_the_codec_knows_msgpack() -> None:
    modules = Path(schemas.__file__).parent.glob("*.py")
    assert [path.name for path in modules if "import msgpack" in path.read_text(encoding="utf-8")] == ["codec.py"]


def test_the_public_names_are_these() -> None:
    assert schemas.__all__ == [
        "DEFAULT_LIMITS",
        "MESSAGES",
        "SCHEMA_VERSION",
        "AnyFeature",
        "AttributeValue",
        "Content",
        "DeadLetter",
        "Dtype",
        "Elements",
        "Envelope",
        "Feature",
        "ItemVector",
        "Judged",
        "Limits",
        "Message",
        "NewItem",
        "PlainEvent",
        "PlainFeature",
        "PlainItem",
        "Reason",
        "SchemaError",
        "Tensor",
        "UserEvent",
        "UserVector",
        "all_finite",
        "as_json",
        "as_model",
        "decode",
        "decode_event",
        "decode_item",
        "decode_vector",
        "encode",
        "encode_item_vector",
        "encode_user_vector",
        "json_schema",
        "judge",
        "looks_like_seconds",
        "split_messages",
        "suspects",
        "time_problem",
    ]
    assert all(hasattr(schemas, name) for name in schemas.__all__)


def test_types_are_shipped() -> None:
    assert (Path(schemas.__file__).parent / "py.typed").exists()
