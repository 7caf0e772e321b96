"""The contract of encoders: those here keep it, and one that breaks it is told which part."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.remote_server import RemoteServer
from tests.unit.encode import models
from worker.encode import plugins
from worker.encode.builtin import BUILTIN
from worker.encode.builtin.text import TextNgrams
from worker.encode.contract import problems
from worker.encode.encoder import Encoder, Piece
from worker.encode.registry import load_encoder
from worker.errors import ConfigError
from worker.settings import RemoteSettings


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_encoders_keep_the_contract(name: str) -> None:
    assert not problems(load_encoder(name))


@pytest.mark.parametrize(
    "make",
    [
        models.sentence_encoder,
        lambda path: models.two_sided(path, "clip"),
        lambda path: models.two_sided(path, "siglip2"),
        lambda path: models.two_sided(path, "clap"),
        models.whisper,
        models.vision_language,
    ],
    ids=["text", "clip", "naflex", "clap", "whisper", "vision-language"],
)
def test_encoders_of_directories_keep_the_contract(tmp_path: Path, make: Any) -> None:
    assert not problems(load_encoder(str(make(tmp_path / "model")), device="cpu"))


def test_encoders_that_are_servers_keep_the_contract() -> None:
    with RemoteServer() as server:
        settings = RemoteSettings(hosts=(f"127.0.0.1:{server.port}",))
        encoder: Any = load_encoder(server.url("tei"), remote=settings)
        assert not problems(encoder)
        encoder.close()


class Breaking(TextNgrams):
    """Keeps the contract, but for one thing."""

    def __init__(self, broken: str = "") -> None:
        super().__init__()
        self.broken = broken
        self.num_calls = 0
        if broken == "dim":
            self.dim = 0
        if broken == "name":
            self.name = "two\nlines"

    def pieces(self, parts: Sequence[Any]) -> list[Piece]:
        return [Piece("", 1)] if self.broken == "nothing" and not any(parts) else super().pieces(parts)

    def encode(self, pieces: Sequence[Piece]) -> NDArray[np.float32]:
        self.num_calls += 1
        rows = super().encode(pieces)
        changed = {
            "length": lambda: rows * 2,
            "nan": lambda: rows * np.float32("nan"),
            "dtype": lambda: rows.astype(np.float64),
            "rows": lambda: rows[:1],
            "batch": lambda: np.roll(rows, len(pieces), axis=1),
            "chance": lambda: np.roll(rows, self.num_calls, axis=1),
            "same": lambda: np.broadcast_to(np.eye(1, self.dim, dtype=np.float32), rows.shape),
        }
        return np.asarray(changed[self.broken]()) if self.broken in changed else rows


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ("dim", "dim must be"),
        ("name", "name must be"),
        ("nothing", "pieces\\(\\) must be empty"),
        ("length", "unit length"),
        ("nan", "finite"),
        ("dtype", "float32"),
        ("rows", "array of"),
        ("batch", "must not depend on the other pieces"),
        ("chance", "each time"),
        ("same", "different vectors"),
    ],
)
def test_an_encoder_that_breaks_the_contract_is_told_which_part(broken: str, said: str) -> None:
    (first, *_) = problems(Breaking(broken))
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(first)


def make(argument: str, device: str) -> Encoder:
    if argument == "raise":
        raise RuntimeError("no licence")
    return Breaking(argument)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("acme", f"{__name__}:make", plugins.GROUP)
    monkeypatch.setattr(plugins, "entry_points", lambda group: [point] if group == plugins.GROUP else [])


@pytest.mark.usefixtures("installed")
def test_a_plug_in_is_loaded_by_its_name_and_held_to_the_contract() -> None:
    assert load_encoder("plugin:acme").dim == 1_024
    for model, said in (
        ("plugin:acme:length", "the plug-in acme breaks its contract: vectors must have unit length"),
        ("plugin:acme:raise", "the plug-in acme fails: RuntimeError: no licence"),
        ("plugin:other", "no plug-in 'other' is installed; installed are acme"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_encoder(model)
