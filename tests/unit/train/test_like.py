"""A space made like an older one: what it finds stays what it was, and its vectors can stand beside the old ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.train.worlds import DATA, SPLIT, Quiet, settings, trained, trained_all
from worker.__main__ import main
from worker.align import AlignRuntime, Space
from worker.align.space import record_compatible
from worker.align.spec import Manifest, SpaceSpec
from worker.align.weights import content_id, initial_weights
from worker.data import Dataset
from worker.data.files import write_items
from worker.errors import ConfigError, SpaceError
from worker.evaluate.questions import warm_questions
from worker.evaluate.relate import relate
from worker.evaluate.spaces import embed_items, space_score
from worker.synthetic import Catalogue
from worker.train.like import Like, fold, like_space, procrustes
from worker.train.run import train

EARLIER = replace(SPLIT, train_E=SPLIT.train_E & (np.arange(len(SPLIT.train_E)) % 5 != 0))
EPOCHS = {"epochs": 2, "patience": 2}


def turn(size: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]


@pytest.mark.parametrize(("fusion", "user"), [("concat_mlp", "attention"), ("gated", "decayed_sum")])
def test_within_a_space_that_is_turned_all_dot_products_stay(fusion: str, user: str) -> None:
    document: dict[str, Any] = {
        "dim": 14,
        "width": 8,
        "mapped": True,
        "modalities": {"image": {"dim": 8, "content_dim": 2}, "text": {"dim": 12, "content_dim": 4}},
        "fusion": {"kind": fusion, "hidden": 8},
        "graph": {"width": 4},
        "user": {"kind": user, "last": 8, "event_weights": {"like": 1.0}}
        | ({"heads": 2, "hidden": 4} if user == "attention" else {"half_life_ms": 1e9}),
    }
    spec = SpaceSpec.model_validate(document)
    generator = torch.Generator().manual_seed(1)
    weights = {
        name: torch.randn(each.shape, generator=generator) * 0.5 if each.ndim else each
        for name, each in initial_weights(spec, 0).items()
    }
    turns = {"": turn(8, 1), "image": turn(2, 2), "text": turn(4, 3)}
    spaces = [in_memory(spec, each) for each in (weights, fold(spec, weights, turns))]
    neighbors = [((number + 1) % DATA.num_items, (number + 7) % DATA.num_items) for number in range(DATA.num_items)]
    items = [
        embed_items(AlignRuntime(each, device="cpu", dtype="float32", threads=1, modality_vectors=True),
                    replace(DATA, neighbors=neighbors)) for each in spaces
    ]  # fmt: skip
    whole = torch.block_diag(turns[""], turns["image"], turns["text"]).float()  # type: ignore[no-untyped-call]
    before, after = (each.vectors_ID[each.usable_I] for each in items)
    assert torch.allclose(after, before @ whole.T, atol=1e-5), "turned, and nothing else"
    assert not torch.allclose(after, before, atol=0.1)
    for name in items[0].alone:
        assert torch.allclose(items[1].alone[name], items[0].alone[name] @ whole.T, atol=1e-5), name
    questions = warm_questions(SPLIT, "test")
    scores = [space_score(space, each)(questions) for space, each in zip(spaces, items, strict=True)]
    assert torch.allclose(*scores, atol=1e-5), "users are turned alike"


def in_memory(spec: SpaceSpec, weights: Any) -> Space:
    manifest = Manifest(**{name: getattr(spec, name) for name in SpaceSpec.model_fields})
    return Space(manifest, dict(weights), content_id(spec, weights))


def test_the_map_between_two_coordinate_systems_is_found() -> None:
    rows = torch.randn(50, 6, generator=torch.Generator().manual_seed(1))
    known = turn(6, 1)
    assert torch.allclose(procrustes(rows, rows.double() @ known.T), known, atol=1e-6)


class Spaces:
    """An old space, one retrained by itself, and one retrained like it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.old, self.old_learned = trained(folder / "old", DATA, EARLIER, **EPOCHS)
        self.free, self.free_learned = trained(folder / "free", **EPOCHS, seed=1)
        self.made_like = like_space(folder / "old", self.items(self.old_learned), DATA, SPLIT)
        made = train(DATA, SPLIT, settings(**EPOCHS, seed=1), folder / "like", "cpu", Quiet(), self.made_like)
        self.like, self.like_learned = made.shipped
        self.told = made.told

    def items(self, learned: Any) -> Dataset:
        return replace(DATA, features=learned.features)

    def related(self, name: str) -> Any:
        space, learned = getattr(self, name), getattr(self, f"{name}_learned")
        questions = warm_questions(SPLIT, "test")
        return relate(self.old, space, self.items(self.old_learned), self.items(learned), questions)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory: pytest.TempPathFactory) -> Spaces:
    return Spaces(tmp_path_factory.mktemp("like"))


def test_a_space_made_like_an_older_one_lies_beside_it_and_one_retrained_by_itself_does_not(spaces: Spaces) -> None:
    like, free = spaces.related("like").figures, spaces.related("free").figures
    assert like["cosine"] > 0.7 > free["cosine"]
    assert like["overlap@10/new among old"] > free["overlap@10/new among old"]
    assert any(spaces.old.space_id in line for line in spaces.told)


def test_its_content_block_is_the_old_one(spaces: Spaces) -> None:
    for name, weight in spaces.old.weights.items():
        if name.startswith("content_"):
            assert torch.equal(weight, spaces.like.weights[name])
    assert spaces.like.spec.learned_dim == spaces.old.spec.learned_dim


def test_what_the_old_space_has_learned_of_what_is_asked_is_not_begun_with(tmp_path: Path, spaces: Spaces) -> None:
    assert not spaces.made_like.has_learned, "it has learned less, and nothing that is withheld"
    whole = trained_all(tmp_path / "whole", **EPOCHS, final_fit=True).shipped
    like = like_space(tmp_path / "whole", spaces.items(whole.learned), DATA, SPLIT)
    assert like.has_learned
    made = train(DATA, SPLIT, settings(**EPOCHS, seed=1), tmp_path / "like", "cpu", Quiet(), like)
    assert any("started anew" in line for line in made.told)


def test_a_shape_that_the_items_do_not_have_is_refused_by_name(tmp_path: Path, spaces: Spaces) -> None:
    texts = replace(DATA, features={"text": DATA.features["text"]})
    with pytest.raises(ConfigError, match="--like: its vectors have a part made of image"):
        train(texts, SPLIT, settings(**EPOCHS), tmp_path / "out", "cpu", Quiet(), spaces.made_like)
    few = Like(spaces.old, replace(DATA, item_ids=[f"other-{number}" for number in range(DATA.num_items)]), False)
    with pytest.raises(ConfigError, match="0 items are known to both spaces"):
        train(DATA, SPLIT, settings(epochs=1), tmp_path / "few", "cpu", Quiet(), few)


# ------------------------------------------------------------------ the command that measures it

CREATE = ["--modality", "text=384", "--modality", "image=256", "--modality", "audio=128", "--dim", "16"]


@pytest.fixture
def items(tmp_path: Path) -> Path:
    path = tmp_path / "items.msgpack"
    write_items(path, [item.message(revision=1, event_time_ms=0) for item in Catalogue(seed=1).items(60)])
    return path


def turned_a_little(tmp_path: Path, by: float) -> tuple[Path, Path]:
    """A space, and one that differs in one parameter."""
    from worker.align.space import write_space

    assert main(["space", "create", str(tmp_path / "old"), *CREATE]) == 0
    old = Space.load(tmp_path / "old")
    weights = {**old.weights, "output.bias": old.weights["output.bias"] + by}
    write_space(tmp_path / "new", old.spec, weights)
    return tmp_path / "old", tmp_path / "new"


def test_spaces_that_are_close_are_told_to_be_so_in_the_newer_one(tmp_path: Path, items: Path) -> None:
    old, new = turned_a_little(tmp_path, 0.01)
    before = Space.load(new)
    assert "compatible_with" not in (new / "space.json").read_text(), "programs of before read it"
    assert main(["space", "relate", str(old), str(new), "--items", str(items)]) == 0
    after = Space.load(new)
    assert after.space_id == before.space_id
    (found,) = after.manifest.compatible_with.values()
    assert list(after.manifest.compatible_with) == [Space.load(old).space_id]
    assert found["overlap@10/new among old"] > 0.9
    assert found["items"] == 60


def test_those_that_are_not_are_refused_and_told_no_more(
    tmp_path: Path, items: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = turned_a_little(tmp_path, 0.01)
    other = tmp_path / "other"
    assert main(["space", "create", str(other), *CREATE, "--seed", "7"]) == 0
    record_compatible(other, Space.load(old).space_id, {"cosine": 1.0})
    assert main(["space", "relate", str(old), str(other), "--items", str(items)]) == SpaceError.exit_code
    assert "of the ten nearest items" in capsys.readouterr().err
    assert not Space.load(other).manifest.compatible_with
    assert main(["space", "relate", str(old), str(old), "--items", str(items)]) == ConfigError.exit_code
    assert main(["space", "relate", str(old), str(new), "--items", str(items), "--event", "like=1"]) == 2
