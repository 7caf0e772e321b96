"""`align-worker space create --encoders`: a space for what the encoders say they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.remote_server import DIM, MODEL, RemoteServer
from worker.__main__ import main
from worker.align import Space


def test_a_space_is_made_for_encoders_that_are_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RemoteServer() as server:
        made = ["space", "create", str(tmp_path / "space"), "--dim", "32"]
        encoders = f"text={server.url('tei')},frames=builtin-image@video"
        hosts = ["--encode.remote.hosts", f"127.0.0.1:{server.port}"]
        settings = [*hosts, "--encode.dims", "frames=100"]
        assert main([*made, "--encoders", encoders, "--modality", "mood=4", *settings]) == 0
        modalities = Space.load(tmp_path / "space").spec.modalities
        assert {name: (each.dim, each.encoder) for name, each in modalities.items()} == {
            "text": (DIM, f"{MODEL}@5f1c"),
            "frames": (100, "builtin-image-v1-first100"),
            "mood": (4, None),
        }
        assert main([*made, "--encoders", encoders, "--modality", "text=4", *hosts]) == 2
        assert "text is given by --modality or --encoder, too" in capsys.readouterr().err
    assert main([*made[:3], "--dim", "32"]) == 2
    assert "a space needs modalities" in capsys.readouterr().err
