"""`align-worker train` from files to a space, and on to what reads it."""

import json
from pathlib import Path
from typing import Any

import pytest

from schemas import Content
from tests.unit.evaluate.planted import COLD_TEST, write_planted
from worker.__main__ import main
from worker.align import Space
from worker.commands.cli import parse
from worker.commands.train import settings_of
from worker.data.files import read_items, write_items
from worker.errors import ConfigError
from worker.train.settings import TrainSettings
from worker.vector_health import read_references

SMALL = [
    "--width",
    "16",
    "--hidden",
    "16",
    "--learned-dim",
    "8",
    "--behavior-dim",
    "8",
    "--batch",
    "64",
    "--recipes",
    "plain",
    "--no-final-fit",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("files")
    write_planted(folder)
    return folder


def inputs(files: Any) -> Any:
    return [
        "--items", f"{files}/items.msgpack", "--events", f"{files}/events.msgpack.gz",
        "--cold-val", f"{files}/val.txt", "--cold-test", f"{files}/test.txt", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip


def test_a_space_is_learned_told_of_and_judged_with_the_parts_that_were_written(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.vector_health.references.LEAST_ITEMS", 20)  # or these few have no references
    space, parts = tmp_path / "space", tmp_path / "parts.msgpack"
    learn = ["train", str(space), *inputs(files), "--event", "like=1", "--event", "buy=2", *SMALL, "--epochs", "3"]
    assert main([*learn, "--items-out", str(parts), "--json"]) == 0
    output = capsys.readouterr()
    figures = json.loads(output.out)
    assert figures["space_id"] == Space.load(space).space_id
    assert "epoch 3: loss" in output.err
    references = read_references(space, figures["space_id"])
    assert references is not None
    assert "behavior" not in references.shares  # an item that is new has none yet, and that is no fault
    assert any("behavior" in names for names in references.patterns)
    assert {part.item_id for part in read_items(parts)} <= {
        item.item_id for item in read_items(files / "items.msgpack")
    }
    assert all(part.partial and list(part.features) == ["behavior"] for part in read_items(parts))
    asked = [*inputs(files), "--items", str(parts), "--baseline", "none", "--replay-share", "0", "--json"]
    assert main(["evaluate", str(space), *asked]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["questions"]["cold"]["candidates"] == COLD_TEST.sum()
    assert "without behavior" in report["spaces"][str(space)]["ablations"]


def test_a_space_in_closed_form_is_made_and_judged_like_any_other(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    space, parts = str(tmp_path / "space"), str(tmp_path / "parts.msgpack")
    assert main(["train", space, *inputs(files), "--event", "like=1", "--closed-form", "--items-out", parts]) == 0
    assert "chosen by cross-validation: content 1, together" in capsys.readouterr().err
    asked = [*inputs(files), "--items", parts, "--baseline", "none", "--replay-share", "0", "--json"]
    assert main(["evaluate", space, *asked]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["seen_in_training"][space]["num_learned"] == 0
    assert report["models"][space]["cold"]["ndcg@10"]["mean"] > 0.6  # by content: of six topics chance finds a few


def test_a_finished_space_is_not_trained_over(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "space.json").write_text("{}")
    assert main(["train", str(tmp_path), *inputs(files), "--event", "like=1"]) == 3
    assert "is not empty" in capsys.readouterr().err


def test_what_is_left_out_is_told(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_items(tmp_path / "raw.msgpack", [
        item.model_copy(update={"content": {"sound": Content(text="hum")}, "revision": 2})
        for item in read_items(files / "items.msgpack")
    ])  # fmt: skip
    main(
        ["train", str(tmp_path / "space"), *inputs(files), "--items", str(tmp_path / "raw.msgpack"), "--event", "buy=1"]
    )
    told = capsys.readouterr().err
    assert "60 items bring raw sound and no vector of it: encode them first" in told
    assert "events of type 'like' are left out: no --event names it" in told
    assert "nothing to learn from" in told


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--event", "like=1", "--learning-rate", "fast"], "--learning-rate fast: "),
        (["--event", "like=1", "--modality-dropout", "1"], "--modality-dropout 1: "),
        (["--event", "like=1", "--fusion", "mean"], "--fusion mean: "),
        (["--event", "like=much"], "--event like=much: expected a number"),
    ],
)
def test_a_bad_setting_is_named(flags: list[Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        settings_of(parse(["train", "out", "--items", "i", "--events", "e", *flags]))


def test_events_that_are_all_disliked_teach_nothing(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(tmp_path / "space"), *inputs(files), "--event", "like=-1"]) == 2
    assert "--event: no type has a weight above 0" in capsys.readouterr().err


def test_flags_are_settings_one_to_one() -> None:
    plain = settings_of(parse(["train", "out", "--items", "i", "--events", "e", "--event", "like=1"]))
    assert plain == TrainSettings(event_weights={"like": 1.0})
    other = ["--graph", "--align-withheld", "--seed", "7", "--half-life-events", "9.5", "--score", "cosine"]
    other += ["--ordered", "image,text"]
    changed = settings_of(parse(["train", "out", "--items", "i", "--events", "e", "--event", "like=1", *other]))
    assert (changed.graph, changed.align_withheld, changed.seed) == (True, True, 7)
    assert (changed.half_life_events, changed.score) == (9.5, "cosine")
    assert changed.ordered == ("image", "text")
