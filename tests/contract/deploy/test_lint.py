"""All YAML under deploy/ is well formed, and says each thing once."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.contract.deploy.artefacts import DEPLOY, run

CONFIG = DEPLOY / ".yamllint.yaml"


def lint(path: Path) -> tuple[int, str]:
    return run(sys.executable, "-m", "yamllint", "--strict", "--config-file", CONFIG, path)


def test_yamllint_has_no_complaint() -> None:
    assert lint(DEPLOY) == (0, "")


def test_a_key_given_twice_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "twice.yaml").write_text("kafka:\n  group_id: a\n  group_id: b\n")
    code, said = lint(tmp_path)
    assert code != 0
    assert "group_id" in said
