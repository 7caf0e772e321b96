from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from worker.data.importers.arrays import ItemArrays, read_archive, read_arrays
from worker.data.importers.output import refuse
from worker.errors import DataError

NAN = float("nan")
IDS = np.array([10, 20, 30])
TEXT = np.array([[1, 2], [3, 4], [5, 6]], np.float16)


def vectors_of(arrays: ItemArrays, modality: str, on_bad_row: Any = refuse) -> dict[str, list[Any] | None]:
    found = {}
    for each in arrays.imported({}, "f4", on_bad_row).items:
        feature = each.item.features.get(modality)
        found[each.item.item_id] = None if feature is None else feature.to_numpy().tolist()
    return found


def test_an_archive_has_modalities_masks_and_lists(tmp_path: Path) -> None:
    image = np.array([[1, 1], [0, 0], [NAN, NAN]])
    has_image = np.array([True, False, True])
    path = tmp_path / "features.npz"
    np.savez(path, item_id=IDS, text=TEXT, image=image, has_image=has_image, cold=IDS == 30, year=IDS)
    arrays = read_archive(path)
    assert vectors_of(arrays, "text") == {"10": [1, 2], "20": [3, 4], "30": [5, 6]}
    assert vectors_of(arrays, "image") == {"10": [1, 1], "20": None, "30": None}
    assert arrays.imported({}, "f2").lists == {"cold": ["30"]}
    assert set(arrays.vectors) == {"text", "image"}


def test_several_vectors_of_an_item_where_some_have_fewer(tmp_path: Path) -> None:
    video = np.array([[[1, 1], [2, 2]], [[3, 3], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]], np.float32)
    np.savez(tmp_path / "features.npz", item_id=IDS, video=video)
    found = vectors_of(read_archive(tmp_path / "features.npz"), "video")
    assert found == {"10": [[1, 1], [2, 2]], "20": [[3, 3]], "30": None}


@pytest.mark.parametrize("ids_name", ["ids.txt", "ids.npy"])
def test_a_file_for_each_modality(tmp_path: Path, ids_name: str) -> None:
    np.save(tmp_path / "text.npy", TEXT)
    np.save(tmp_path / "ids.npy", np.array(["a", "b", "c"]))
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    arrays = read_arrays(tmp_path / ids_name, {"text": tmp_path / "text.npy"})
    assert vectors_of(arrays, "text") == {"a": [1, 2], "b": [3, 4], "c": [5, 6]}


def test_an_archive_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "features.npz"
    np.savez_compressed(path, item_id=IDS, text=TEXT)
    data = path.read_bytes()
    for damaged in (data[:200], data[:60] + bytes(100) + data[160:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"features\.npz"):
            read_archive(path)


def test_ids_in_a_text_file_may_have_spaces(tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", TEXT[:2])
    (tmp_path / "ids.txt").write_text("a b\nc d\n")
    assert read_arrays(tmp_path / "ids.txt", {"text": tmp_path / "text.npy"}).item_ids == ["a b", "c d"]


def test_the_encoder_is_the_one_named_or_the_modality() -> None:
    arrays = ItemArrays("here", ["a"], {"text": np.ones((1, 2)), "image": np.ones((1, 2))}, {})
    [found] = arrays.imported({"text": "minilm"}, "f2").items
    assert {name: feature.encoder for name, feature in found.item.features.items()} == {
        "text": "minilm",
        "image": "image",
    }


def test_a_bad_element_is_named_by_row_and_array(tmp_path: Path) -> None:
    text = TEXT.astype(np.float32)
    text[1, 1] = np.inf
    arrays = ItemArrays("features.npz", ["a", "b", "c"], {"text": text}, {})
    message = r"features\.npz: row 1, item 'b', column text: element \[1\] is NaN or infinite"
    with pytest.raises(DataError, match=message):
        vectors_of(arrays, "text")
    bad: list[DataError] = []
    assert vectors_of(arrays, "text", bad.append) == {"a": [1, 2], "c": [5, 6]}
    assert re.fullmatch(message, str(bad[0]))


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"text": TEXT}, "no array 'item_id'; there are 'text'"),
        ({"item_id": IDS, "text": TEXT[:2]}, "array 'text' has 2 rows for 3 items"),
        ({"item_id": np.array([1, 2, 1])}, "rows 0 and 2 are both item '1'"),
        ({"item_id": np.array(["a", ""])}, "row 1, column item_id: is missing"),
        ({"item_id": TEXT}, "one id for each item"),
        ({"item_id": IDS, "text": np.array([{}, {}, {}])}, "not a NumPy archive that can be read: "),
    ],
)
def test_what_is_wrong_with_an_archive_is_said(tmp_path: Path, arrays: dict[str, Any], problem: str) -> None:
    path = tmp_path / "features.npz"
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=re.escape(str(path)) + ".*" + re.escape(problem)):
        read_archive(path)


def test_files_of_another_kind_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", TEXT)
    np.savez(tmp_path / "many.npz", item_id=IDS)
    (tmp_path / "text.npz").write_text("nothing of the kind")
    (tmp_path / "ids.txt").write_text("a\nb\n")
    with pytest.raises(DataError, match="this is a single one"):
        read_archive(tmp_path / "one.npy")
    with pytest.raises(DataError, match="not an array"):
        read_arrays(tmp_path / "ids.txt", {"text": tmp_path / "many.npz"})
    with pytest.raises(DataError, match="not a NumPy archive"):
        read_archive(tmp_path / "text.npz")
    with pytest.raises(DataError, match="no such file"):
        read_archive(tmp_path / "none.npz")
    with pytest.raises(DataError, match="3 rows for 2 items"):
        read_arrays(tmp_path / "ids.txt", {"text": tmp_path / "one.npy"})
    with pytest.raises(DataError, match=r"ids\.csv: there is no such file"):
        read_arrays(tmp_path / "ids.csv", {})
