"""References from files of items, and what a worker makes of those that it finds."""

from pathlib import Path

import numpy as np
import pytest

from worker.__main__ import main
from worker.align import AlignRuntime, Space
from worker.align.result import unpack_rows
from worker.data.files import write_items
from worker.process.service import _load_references
from worker.synthetic import Catalogue
from worker.vector_health import VectorWatch, read_references

NUM_ITEMS = 1_200
CREATE = ["--modality", "text=384", "--modality", "image=256", "--modality", "audio=128", "--dim", "32"]


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("references")
    items = [item.message(revision=1, event_time_ms=0) for item in Catalogue(seed=1).items(NUM_ITEMS)]
    write_items(folder / "items.msgpack", items)
    assert main(["space", "create", str(folder / "space"), *CREATE]) == 0
    assert main(["space", "reference", str(folder / "space"), "--items", str(folder / "items.msgpack")]) == 0
    return folder / "space"


def test_items_of_the_same_kind_are_well_by_the_references_of_a_file(space: Path) -> None:
    loaded = Space.load(space)
    references = read_references(space, loaded.space_id)
    assert references is not None
    assert references.patterns == [("audio", "image", "text")]  # of others there are too few
    watch = VectorWatch(references, 32)
    embedded = AlignRuntime(loaded, device="cpu", dtype="float32", threads=1).embed(
        [dict(item.features) for item in Catalogue(seed=1).items(1_800, NUM_ITEMS)]
    )
    watch.add(unpack_rows(embedded.rows("f2"), 32, "f2"), embedded.modalities)
    assert watch.verdicts
    assert not watch.num_ill.total()


def test_a_worker_takes_them(space: Path) -> None:
    assert _load_references(space, Space.load(space)) is not None


def test_a_worker_goes_on_without_those_of_other_weights(
    space: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    assert main(["space", "create", str(other), *CREATE, "--seed", "7"]) == 0
    (other / "references.safetensors").write_bytes((space / "references.safetensors").read_bytes())
    assert _load_references(other, Space.load(other)) is None
    assert "was measured on space" in caplog.text


def test_a_few_items_are_refused_in_a_line(space: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [item.message(revision=1, event_time_ms=0) for item in Catalogue(seed=1).items(50)]
    write_items(tmp_path / "few.msgpack", few)
    assert main(["space", "reference", str(space), "--items", str(tmp_path / "few.msgpack")]) == 2
    assert "too few to know vectors by: it takes 200" in capsys.readouterr().err


def test_vectors_are_read_back_as_they_are_rounded() -> None:
    rows_ID = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    packed = [row.astype("<f2").tobytes() for row in rows_ID]
    np.testing.assert_array_equal(unpack_rows(packed, 8, "f2"), rows_ID.astype("<f2").astype(np.float32))
    assert unpack_rows([], 8, "f2").shape == (0, 8)
