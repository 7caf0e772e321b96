"""A space directory is either complete, consistent and finite, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.align.builders import make_space, spec
from worker.align.space import Space, create_space, write_space
from worker.align.spec import ModalitySpec, SelfAttentionSpec, SpaceSpec
from worker.align.weights import initial_weights
from worker.errors import SpaceError


def edit_manifest(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "space.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def edit_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    path = directory / "weights.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make_space(tmp_path)
    return tmp_path / "space"


def test_a_written_space_loads_as_it_was(tmp_path: Path) -> None:
    written = make_space(tmp_path)
    loaded = Space.load(tmp_path / "space")
    assert loaded.space_id == written.space_id
    assert loaded.manifest == written.manifest
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in written.weights.items())


def test_the_directory_holds_two_files_and_no_pickle(directory: Path) -> None:
    assert sorted(path.name for path in directory.iterdir()) == ["space.json", "weights.safetensors"]


def test_same_seed_same_id_another_seed_another_id(tmp_path: Path) -> None:
    ids = [create_space(tmp_path / str(n), spec(), seed).space_id for n, seed in enumerate((7, 7, 8))]
    assert ids[0] == ids[1] != ids[2]


def test_drawing_weights_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    initial_weights(spec(), 0)
    assert torch.equal(torch.rand(1), expected)


def test_the_order_of_modalities_in_the_file_does_not_matter(tmp_path: Path) -> None:
    one = create_space(tmp_path / "one", spec({"text": 4, "image": 3}))
    other = create_space(tmp_path / "other", spec({"image": 3, "text": 4}))
    assert one.space_id == other.space_id
    assert list(one.spec.modalities) == ["image", "text"]


def test_the_id_covers_what_determines_vectors(tmp_path: Path) -> None:
    base = spec({"text": 4})
    weights = initial_weights(base, 0)
    changed = {name: tensor.clone() for name, tensor in weights.items()}
    changed["output.weight"][0, 0] += 1e-3
    variants = [
        write_space(tmp_path / "base", base, weights),
        write_space(tmp_path / "weights", base, changed),
        write_space(tmp_path / "encoder", spec({"text": ModalitySpec(dim=4, encoder="e5")}), weights),
        write_space(tmp_path / "vectors", spec({"text": ModalitySpec(dim=4, max_vectors=2)}), weights),
        write_space(tmp_path / "heads", spec({"text": 4}, heads=2), weights),
    ]
    assert len({space.space_id for space in variants}) == len(variants)


def test_the_id_does_not_cover_what_is_said_about_the_space(tmp_path: Path) -> None:
    weights = initial_weights(spec(), 0)
    silent = write_space(tmp_path / "silent", spec(), weights)
    spoken = write_space(
        tmp_path / "spoken", spec(), weights, training_data="abc", evaluation={"recall@20": 0.17}, notes="second try"
    )
    assert silent.space_id == spoken.space_id
    assert Space.load(tmp_path / "spoken").manifest.evaluation == {"recall@20": 0.17}


def test_a_directory_with_something_in_it_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SpaceError, match="is not empty"):
        create_space(tmp_path, spec())
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_directory_is_written_to(tmp_path: Path) -> None:
    assert create_space(tmp_path, spec()).space_id == Space.load(tmp_path).space_id


def test_a_path_that_cannot_be_made_is_a_space_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpaceError, match="cannot be written"):
        create_space(tmp_path / "file" / "space", spec())


def test_no_directory(tmp_path: Path) -> None:
    with pytest.raises(SpaceError, match=r"space\.path: .*nowhere is not a directory"):
        Space.load(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["space.json", "weights.safetensors"])
def test_a_missing_file_is_named(directory: Path, name: str) -> None:
    (directory / name).unlink()
    with pytest.raises(SpaceError, match=f"{name} does not exist"):
        Space.load(directory)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "space.json is not JSON"),
        ("[]", "must hold a JSON object"),
        ("\udcff", "cannot be read"),
        ("{}", "format_version None is not supported; this worker reads 1"),
    ],
)
def test_a_broken_manifest(directory: Path, text: str, message: str) -> None:
    (directory / "space.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SpaceError, match=message):
        Space.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(format_version=2, later="field"), "format_version 2 is not supported"),
        (lambda d: d.update(colour="red"), "space.json: colour: unknown field"),
        (lambda d: d["modalities"]["text"].update(size=3), r"modalities\.text\.size: unknown field"),
        (lambda d: d["fusion"].update(kind="astrology"), "'astrology' is unknown; there is: self_attention"),
        (lambda d: d["fusion"].update(heads=5), "fusion.heads=5 does not divide width=32"),
        (lambda d: d.update(dim=0), "space.json: dim: "),
        (lambda d: d.pop("fusion"), "space.json: fusion: Field required"),
        (lambda d: d.update(modalities={}), "space.json: modalities: "),
        (lambda d: d.update(modalities={"a b": {"dim": 3}}), "space.json: modalities.a b: "),
        (lambda d: d["modalities"]["text"].update(max_vectors=0), r"modalities\.text\.max_vectors: "),
    ],
)
def test_a_wrong_manifest(directory: Path, change: Callable[[dict[str, Any]], object], message: str) -> None:
    edit_manifest(directory, change)
    with pytest.raises(SpaceError, match=message):
        Space.load(directory)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("output.bias"), r"tensors are missing: output\.bias"),
        (lambda w: w.update(head_video=torch.zeros(1)), "no place for: head_video"),
        (lambda w: w.update({"output.bias": torch.zeros(3)}), r"output\.bias is \[3\]; space\.json asks for \[32\]"),
        (lambda w: w.update({"output.bias": torch.zeros(32).half()}), "output.bias is float16"),
        (lambda w: w["output.bias"].fill_(float("nan")), "output.bias holds NaN or infinite"),
        (lambda w: w["output.bias"].fill_(float("inf")), "output.bias holds NaN or infinite"),
        (lambda w: w["output.bias"].fill_(0.5), "was changed after it was written"),
    ],
)
def test_wrong_weights(directory: Path, change: Callable[[dict[str, torch.Tensor]], object], message: str) -> None:
    edit_weights(directory, change)
    with pytest.raises(SpaceError, match=message):
        Space.load(directory)


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_weights_that_are_cut_short(directory: Path, keep: int) -> None:
    path = directory / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SpaceError, match=r"weights\.safetensors cannot be read"):
        Space.load(directory)


def test_a_manifest_without_an_id_is_given_one(directory: Path) -> None:
    space_id = Space.load(directory).space_id
    edit_manifest(directory, lambda document: document.pop("space_id"))
    assert Space.load(directory).space_id == space_id


def test_a_changed_spec_is_noticed_even_where_the_weights_still_fit(directory: Path) -> None:
    edit_manifest(directory, lambda document: document["fusion"].update(heads=2))
    with pytest.raises(SpaceError, match="was changed after it was written"):
        Space.load(directory)


@pytest.mark.parametrize("name", ["keys", "type", "forward", "items", "weight", "fusion", "output", "training"])
def test_a_modality_may_have_a_name_that_torch_modules_use(tmp_path: Path, name: str) -> None:
    space = create_space(tmp_path, spec({name: 3}))
    assert Space.load(tmp_path).space_id == space.space_id


def test_specs_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        spec().dim = 3  # type: ignore[misc]


def test_sizes_are_bounded() -> None:
    with pytest.raises(ValueError, match="less than or equal"):
        SpaceSpec(dim=1 << 30, width=8, modalities={"text": ModalitySpec(dim=3)}, fusion=SelfAttentionSpec(hidden=8))
