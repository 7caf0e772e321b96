"""What this package may load."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOADED = "import sys; {statement}; print(' '.join(sys.modules))"


def loaded_by(statement: str) -> set[str]:
    code = LOADED.format(statement=statement)
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split()}


def test_the_contract_loads_without_torch() -> None:
    assert "torch" not in loaded_by("from worker.align import Contract, OutOfMemoryError, Refusal")


@pytest.mark.parametrize("module", ["runtime", "command"])
def test_nothing_here_knows_kafka_or_the_wire(module: str) -> None:
    loaded = loaded_by(f"import worker.align.{module}")
    assert "torch" in loaded
    assert not loaded & {"kafka", "confluent_kafka", "msgpack", "schemas"}


def test_every_name_offered_can_be_imported() -> None:
    import worker.align

    assert [name for name in worker.align.__all__ if not hasattr(worker.align, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'Worker'"):
        worker.align.Worker  # noqa: B018
