"""From settings to encoders, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.encode import models
from worker.align.spec import SpaceSpec
from worker.encode import setup
from worker.encode.setup import content_encoder, fetch_rules
from worker.errors import ConfigError
from worker.settings import EncodeSettings, FetchSettings, load

NGRAMS = {"dim": 1_024, "encoder": "builtin-text-v1"}


def space(**modalities: dict[str, Any]) -> SpaceSpec:
    fusion = {"kind": "self_attention", "heads": 1, "hidden": 8}
    return SpaceSpec.model_validate({"dim": 8, "width": 8, "modalities": modalities, "fusion": fusion})


def encode(*encoders: str, **changes: Any) -> EncodeSettings:
    pairs = dict(pair.split("=") for pair in encoders)
    return EncodeSettings(encoders=pairs, **changes)


def test_encoders_are_named_in_one_setting() -> None:
    flags = {
        "encode.encoders": "text=builtin-text, frames=builtin-image@video",
        "encode.fetch.hosts": "a.test,*.b.test",
    }
    settings = load(flags).encode
    assert settings.encoders == {"text": "builtin-text", "frames": "builtin-image@video"}
    assert settings.fetch.hosts == ("a.test", "*.b.test")
    with pytest.raises(ConfigError, match=r"encode\.encoders .*expected NAME=VALUE"):
        load({"encode.encoders": "text"})


def test_routes_follow_the_settings_and_the_space() -> None:
    settings = encode(
        "text=builtin-text", "frames=builtin-image@video", "sound=builtin-audio@video", frames=6, windows=3
    )
    encoder = content_encoder(settings, max_vectors={"frames": 4})
    routes = {name: (route.content, route.max_vectors, route.num_samples) for name, route in encoder.routes.items()}
    encoder.close()
    assert routes == {"text": ("text", 1, 6), "frames": ("video", 4, 4), "sound": ("video", 1, 3)}


def test_a_model_is_loaded_once_for_all_its_routes(tmp_path: Path) -> None:
    path = models.clip(tmp_path / "clip")
    encoder = content_encoder(encode(f"image={path}", f"frames={path}@video"), device="cpu")
    assert encoder.routes["image"].encoder is encoder.routes["frames"].encoder
    encoder.close()


def test_a_space_that_expects_it_takes_it_and_says_how_many_vectors() -> None:
    encoder = content_encoder(encode("text=builtin-text"), space=space(text={**NGRAMS, "max_vectors": 3}))
    assert encoder.routes["text"].max_vectors == 3
    encoder.close()


@pytest.mark.parametrize(
    ("modalities", "said"),
    [
        ({"image": {"dim": 4}}, "the space has no modality 'text'; it has image"),
        ({"text": {**NGRAMS, "encoder": "other"}}, "expects 1024 dims of other, this encoder is builtin-text-v1 with"),
        ({"text": {"dim": 5}}, "expects 5 dims of any encoder"),
    ],
)
def test_a_space_that_expects_another_refuses_it(modalities: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        content_encoder(encode("text=builtin-text"), space=space(**modalities))


@pytest.mark.parametrize("value", ["@video", "builtin-image@"])
def test_half_a_route_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="expected MODEL or MODEL@CONTENT"):
        content_encoder(encode(f"frames={value}"))


def test_missing_libraries_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "MEDIA_LIBRARIES", ("no_such_library",))
    content_encoder(encode("text=builtin-text")).close()
    with pytest.raises(ConfigError, match=r"needs no_such_library: pip install 'align-worker\[media\]'"):
        content_encoder(encode("image=builtin-image"))


def test_networks_are_networks() -> None:
    assert str(fetch_rules(FetchSettings(networks=("10.0.0.0/8",)), 1).networks[0]) == "10.0.0.0/8"
    with pytest.raises(ConfigError, match=r"encode\.fetch\.networks"):
        fetch_rules(FetchSettings(networks=("ten",)), 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hosts": ("https://cdn.test",)}, r"encode\.fetch\.hosts: 'https://cdn\.test': .*; expected host, host:port"),
        ({"hosts": ("cdn.test", "*")}, r"encode\.fetch\.hosts: '\*'"),
        ({"s3_endpoint": "store.test:9000"}, r"encode\.fetch\.s3_endpoint: expected http"),
        ({"s3_endpoint": "https://me@store.test"}, r"encode\.fetch\.s3_endpoint: credentials"),
    ],
)
def test_hosts_and_the_endpoint_are_checked_at_the_start(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        fetch_rules(FetchSettings(**changes), 1)
