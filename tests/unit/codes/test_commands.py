"""Codes from the command line."""

from itertools import islice
from pathlib import Path

import pytest

from worker.__main__ import main
from worker.align import Space
from worker.codes import read_codebooks
from worker.data.files import write_items
from worker.errors import ConfigError
from worker.synthetic import Catalogue
from worker.train.codes import code_sizes

CREATE = ["--modality", "text=384", "--modality", "image=256", "--modality", "audio=128", "--dim", "32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codes")
    items = Catalogue(seed=1).items(300)
    write_items(folder / "items.msgpack", (item.message(revision=1, event_time_ms=0) for item in islice(items, 300)))
    assert main(["space", "create", str(folder / "space"), *CREATE]) == 0
    return folder


def codes(folder: Path, space: str, *options: str) -> int:
    return main(["space", "codes", str(folder / space), "--items", str(folder / "items.msgpack"), *options])


def test_codes_are_learned_measured_and_refreshed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert codes(folder, "space") == 2
    assert "has no codes: learn some with --codes" in capsys.readouterr().err
    assert codes(folder, "space", "--codes", "2x16") == 0
    told = capsys.readouterr().out
    assert "2 x 16" in told
    assert "share it" in told
    assert "kept of the codes before" not in told
    path = folder / "space"
    books = read_codebooks(path, Space.load(path).space_id)
    assert books is not None
    assert (books.num_levels, books.size, books.dim) == (2, 16, 32)

    assert codes(folder, "space") == 0
    assert "the same when they are computed in bfloat16: first 1" in capsys.readouterr().out

    assert codes(folder, "space", "--codes", "2x16") == 2
    assert "has codes already" in capsys.readouterr().err
    assert codes(folder, "space", "--codes", "2x8", "--like", str(path)) == 2
    assert "it has 2x16 codes" in capsys.readouterr().err

    assert main(["space", "create", str(folder / "next"), *CREATE, "--seed", "4"]) == 0
    assert codes(folder, "next", "--codes", "2x16", "--like", str(path)) == 0
    told = capsys.readouterr().out
    kept = float(told.split("kept of the codes before: first 1 ")[1].split("%")[0])
    assert kept > 50
    renewed = read_codebooks(folder / "next", Space.load(folder / "next").space_id)
    assert renewed is not None
    assert renewed.code_space_id != books.code_space_id


def test_more_codes_than_items_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["space", "create", str(folder / "third"), *CREATE]) == 0
    assert codes(folder, "third", "--codes", "2x512") == 2
    assert "items are fewer than there are codes" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["", "3", "3x", "x256", "0x256", "3x1", "17x256", "3x65537", "3 x 256", "-1x256"])
def test_sizes_that_make_no_codes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--codes .*like 3x256"):
        code_sizes(text)


def test_sizes_are_levels_and_codes() -> None:
    assert code_sizes("3x256") == (3, 256)
