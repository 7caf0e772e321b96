"""`align-worker evaluate` from files to figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluate.planted import COLD_TEST, planted, write_planted
from worker.__main__ import main
from worker.align import Space, command
from worker.commands.evaluate import SECONDS_BETWEEN_LINES, _Progress, require_better
from worker.data.files import read_events, write_events
from worker.errors import NotBetterError

DATA, SPLIT = planted()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The planted data as files, and two spaces that differ in their seeds."""
    folder = tmp_path_factory.mktemp("files")
    write_planted(folder)
    for seed in (0, 1):
        command.create(folder / f"space-{seed}", {"text": 12, "image": 8}, 32, seed=seed)
    return folder


def arguments(files: Any, *more: Any) -> Any:
    return [
        "evaluate", *more, "--items", f"{files}/items.msgpack", "--events", f"{files}/events.msgpack.gz",
        "--cold-val", f"{files}/val.txt", "--cold-test", f"{files}/test.txt", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip


def test_spaces_of_one_shape_are_judged_together_beside_baselines(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    spaces = [str(files / "space-0"), str(files / "space-1")]
    assert main(arguments(files, *spaces, "--baseline", "popularity", "--baseline", "content", "--json")) == 0
    output = capsys.readouterr()
    report = json.loads(output.out)
    ours = f"{files}/space-0 and 1 more"
    assert list(report["models"]) == [
        "popularity", "content mean, image", "content mean, text", "content mean, image+text", ours
    ]  # fmt: skip
    assert report["models"][ours]["seeds"] == 2
    assert report["models"][ours]["warm"]["recall@20"]["sd"] is not None
    assert report["questions"]["warm"]["questions"] == len(SPLIT.test_events)
    assert report["questions"]["cold"]["candidates"] == COLD_TEST.sum()
    assert "40 users asked about, 6 items withheld" in output.err


TINY = [
    "--width", "8", "--hidden", "8", "--learned-dim", "4", "--behavior-dim", "4", "--epochs", "1", "--event", "like=1",
    "--recipes", "plain", "--no-final-fit",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(files: Any) -> Any:
    """Two spaces that were trained with items withheld by their seed."""
    for seed in (0, 1):
        name = str(files / f"trained-{seed}")
        assert main(["train", name, *drawn(files), *TINY, "--seed", str(seed)]) == 0
    return [str(files / f"trained-{seed}") for seed in (0, 1)]


def drawn(files: Any) -> list[str]:
    return [
        "--items", f"{files}/items.msgpack", "--events", f"{files}/events.msgpack.gz", "--threads", "1",
        "--device", "cpu",
    ]  # fmt: skip


QUICK = ["--baseline", "none", "--replay-share", "0", "--json"]


def test_a_space_is_asked_about_what_it_withheld_itself(
    files: Any, trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", trained[1], *drawn(files), *QUICK]) == 0
    output = capsys.readouterr()
    assert "asking about the 6 items that were withheld from training" in output.err
    assert json.loads(output.out)["seen_in_training"][trained[1]]["num_learned"] == 0
    assert main(["evaluate", trained[1], *drawn(files), *QUICK, "--split-seed", "1"]) == 0


@pytest.mark.parametrize(
    "flags",
    [["--split-seed", "0"], ["--cold-share", "0.2"], ["--cold-test", "OTHER"]],
    ids=["another seed", "another share", "another list"],
)
def test_a_space_is_not_asked_for_what_it_has_learned(
    files: Any, trained: Any, capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    given = [f"{files}/test.txt" if flag == "OTHER" else flag for flag in flags]
    assert main(["evaluate", trained[1], *drawn(files), *QUICK, *given]) == 2
    assert f"{trained[1]} has learned" in capsys.readouterr().err
    assert main(["evaluate", trained[1], *drawn(files), *QUICK, *given, "--allow-learned"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["seen_in_training"][trained[1]]["num_learned"] > 0
    assert "its figures are too good" in output.err


def test_spaces_that_withheld_different_items_are_not_judged_together(
    files: Any, trained: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", *trained, *drawn(files), *QUICK]) == 2
    assert f"--cold-val {trained[0]}/training/cold_val.txt" in capsys.readouterr().err


def test_of_a_space_without_a_record_it_is_told_that_nobody_knows(
    files: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(files, str(files / "space-0"), *QUICK)) == 0
    assert "there is no record of what it was trained on" in capsys.readouterr().err


def test_events_withheld_by_somebody_else_are_asked_for(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = list(read_events(files / "events.msgpack.gz"))
    test = [event for number, event in enumerate(events) if number % 7 == 3]
    write_events(tmp_path / "test.msgpack", test)
    rest = [event for number, event in enumerate(events) if number % 7 != 3]
    write_events(tmp_path / "rest.msgpack", rest)
    data = [
        "--items", f"{files}/items.msgpack", "--events", f"{tmp_path}/rest.msgpack", "--test-events",
        f"{tmp_path}/test.msgpack", "--cold-share", "0", "--threads", "1", "--device", "cpu",
    ]  # fmt: skip
    space = str(tmp_path / "space")
    assert main(["train", space, *data, *TINY]) == 0
    assert main(["evaluate", space, *data, "--baseline", "ease", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["questions"]["warm"]["questions"] == len({event.user_id for event in test})
    assert report["seen_in_training"][space] == {"num_answers": len(test), "num_learned": 0, "num_chosen_by": 0}
    assert not report["spaces"][space]["replay"]  # there is no order of time
    by_time = [each for each in data if each not in ("--test-events", f"{tmp_path}/test.msgpack")]
    assert main(["evaluate", space, *by_time, "--baseline", "none"]) == 0
    assert "was chosen by" in capsys.readouterr().err


def test_figures_are_recorded_without_changing_the_space(files: Any, tmp_path: Path) -> None:
    path = tmp_path / "space"
    before = command.create(path, {"text": 12}, 32)
    assert main(arguments(files, str(path), "--baseline", "none", "--replay-share", "0", "--record")) == 0
    after = Space.load(path)
    assert after.space_id == before.space_id
    assert 0 < after.manifest.evaluation["test/cold/ndcg@20"] <= 1


def test_tables_and_pictures(files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    options = ["--baseline", "popularity", "--plots", str(tmp_path / "plots")]
    assert main(arguments(files, str(files / "space-0"), *options)) == 0
    assert "new items among themselves" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {"models.png", "space-0.png"}


def test_baselines_alone_need_to_be_told_what_events_are_worth(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(files, "--baseline", "popularity")) == 2
    assert "--event TYPE=WEIGHT" in capsys.readouterr().err
    assert main(arguments(files, "--baseline", "popularity", "--event", "like=1")) == 0


def test_a_space_knows_what_events_are_worth(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(files, str(files / "space-0"), "--event", "like=1")) == 2
    assert "leave it out" in capsys.readouterr().err


def test_spaces_that_value_events_differently_do_not_compare(
    files: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.create(tmp_path / "other", {"text": 12}, 32, event_weights={"like": 2.0})
    assert main(arguments(files, str(files / "space-0"), str(tmp_path / "other"), "--baseline", "none")) == 2
    assert "same event weights" in capsys.readouterr().err


def test_nothing_to_ask_is_an_error(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    nobody = ["--items", f"{files}/items.msgpack", "--events", f"{files}/events.msgpack.gz", "--event", "view=1"]
    assert main(["evaluate", *nobody, "--cold-share", "0"]) == 2
    assert "nothing to ask" in capsys.readouterr().err


def test_a_script_can_ask_for_an_exit_code(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    space = str(files / "space-0")
    options = ["--baseline", "popularity", "--replay-share", "0", "--require-better", "--json"]
    code = main(arguments(files, space, *options))
    output = capsys.readouterr()
    ship = json.loads(output.out)["verdict"][space]["ship"]
    assert code == (0 if ship else 12)
    assert ("not better than the best baseline" in output.err) is not ship


def test_every_space_must_be_better() -> None:
    better, worse = {"ship": True}, {"ship": False}
    require_better({"verdict": {"a": better}})
    with pytest.raises(NotBetterError, match=r"^b, c: not better"):
        require_better({"verdict": {"a": better, "b": worse, "c": worse}})


@pytest.mark.parametrize("left_out", [["SPACE", "--baseline", "none"], ["--event", "like=1"]])
def test_there_must_be_something_to_be_better_than(
    files: Any, capsys: pytest.CaptureFixture[str], left_out: list[Any]
) -> None:
    given = [str(files / "space-0") if each == "SPACE" else each for each in left_out]
    assert main(arguments(files, *given, "--require-better")) == 2
    assert "--require-better compares a space with baselines" in capsys.readouterr().err


def test_progress_is_a_line_now_and_then_where_nobody_looks_on(capsys: pytest.CaptureFixture[str]) -> None:
    now = [0.0]
    progress = _Progress(clock=lambda: now[0])
    progress.step(2, 9, "baseline EASE")
    for _ in range(4):
        now[0] += SECONDS_BETWEEN_LINES / 2
        progress.candidate(3, 40.0)
    progress.end()
    told = capsys.readouterr().err.splitlines()
    assert told == ["2 of 9: baseline EASE", *["2 of 9: baseline EASE: 3 settings tried, at most 40 s more"] * 2]


def test_progress_on_a_terminal_is_one_line_that_is_written_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = _Progress()
    progress.step(1, 2, "baseline BPR-MF")
    progress.candidate(1, float("inf"))
    progress.end()
    told = capsys.readouterr().err
    assert "\n" not in told
    assert told.split("\r")[-2:] == ["1 of 2: baseline BPR-MF: 1 settings tried\x1b[K", "\x1b[K"]
