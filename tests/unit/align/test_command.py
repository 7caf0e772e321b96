"""`align-worker space create`, `show` and `check`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.unit.align.builders import make_space, spec
from worker.__main__ import main
from worker.align import command
from worker.align.space import Space, write_space
from worker.align.spec import ModalitySpec
from worker.align.weights import initial_weights
from worker.errors import SpaceError


def test_create_writes_a_space_that_loads(tmp_path: Path) -> None:
    space = command.create(
        tmp_path / "space",
        {"text": 24, "image": 17},
        32,
        layers=2,
        heads=8,
        seed=5,
        encoders={"text": "e5"},
        max_vectors={"image": 4},
    )
    loaded = Space.load(tmp_path / "space")
    assert loaded.space_id == space.space_id
    assert loaded.spec.modalities == {
        "image": ModalitySpec(dim=17, max_vectors=4),
        "text": ModalitySpec(dim=24, encoder="e5"),
    }
    assert (loaded.spec.fusion.layers, loaded.spec.fusion.heads, loaded.spec.fusion.hidden) == (2, 8, 128)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "magic"}, "'magic' is unknown; there is: self_attention, cross_attention, gated, concat_mlp"),
        ({"heads": 5}, "fusion.heads=5 does not divide width=32"),
        ({"layers": 0}, "fusion.layers: "),
        ({"encoders": {"txt": "e5"}}, "encoder: txt is not a modality; there is: text"),
        ({"max_vectors": {"txt": 2}}, "max_vectors: txt is not a modality"),
    ],
)
def test_create_refuses_what_makes_no_space(tmp_path: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        command.create(tmp_path / "space", {"text": 24}, 32, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "space").exists()


def test_the_types_of_events_that_count_are_said(tmp_path: Path) -> None:
    space = command.create(tmp_path / "space", {"text": 24}, 32, event_weights={"view": 0.5, "hide": -1.0})
    assert space.spec.user is not None
    assert command.events_that_count(space.spec.user) == (
        "events that count for users, and their weights: hide -1, view 0.5; events of other types are not used"
    )


def test_show_is_the_manifest_the_id_and_the_size(tmp_path: Path) -> None:
    space = make_space(tmp_path)
    shown = json.loads(json.dumps(command.show(tmp_path / "space")))
    assert shown["space_id"] == space.space_id
    assert shown["modalities"]["text"] == {
        "dim": 24, "encoder": None, "max_vectors": 1, "ordered": False, "content_dim": 0,
    }  # fmt: skip
    assert shown["num_parameters"] * 4 == shown["weights_bytes"]
    assert shown["num_parameters"] == sum(tensor.numel() for tensor in space.weights.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_check_tries_every_set_of_modalities(tmp_path: Path, dtype: str) -> None:
    make_space(tmp_path)
    report = command.check(tmp_path / "space", device="cpu", dtype=dtype, threads=1)
    assert report.num_patterns == 7
    assert report.warm_up.dtype == dtype
    assert report.max_length_error < 1e-6
    assert report.max_batch_difference <= command.BATCH_TOLERANCE[dtype]
    assert "7 patterns" in report.text()
    assert json.loads(json.dumps(report.as_dict()))["num_items"] == report.num_items


def test_check_bounds_the_number_of_sets(tmp_path: Path) -> None:
    make_space(tmp_path, spec({f"m{n}": 2 for n in range(9)}))
    assert command.check(tmp_path / "space", device="cpu", dtype="float32", threads=1).num_patterns == 64


def test_check_fails_on_a_space_that_gives_no_vectors(tmp_path: Path) -> None:
    weights = initial_weights(spec(), 0)
    weights["head_text.weight"].fill_(3e38)
    write_space(tmp_path, spec(), weights)
    with pytest.raises(SpaceError, match="the vectors they give are not"):
        command.check(tmp_path, device="cpu", dtype="float32", threads=1)


def test_check_fails_on_vectors_that_depend_on_their_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_space(tmp_path)
    monkeypatch.setattr(command, "BATCH_TOLERANCE", {"float32": -1.0})
    with pytest.raises(SpaceError, match=r"differs by .* with the batch its item is in"):
        command.check(tmp_path / "space", device="cpu", dtype="float32", threads=1)


def test_check_is_told_where_and_in_what_to_compute(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_space(tmp_path)
    asked = ["space", "check", str(tmp_path / "space"), "--threads", "1"]
    assert main([*asked, "--device", "cpu", "--dtype", "bfloat16", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["warm_up"]["device"], report["warm_up"]["dtype"]) == ("cpu", "bfloat16")
    assert report["max_cpu_difference"] is None
    assert main([*asked, "--device", "tpu"]) == 2
    assert "device: 'tpu' is unknown" in capsys.readouterr().err
